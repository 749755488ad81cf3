#!/usr/bin/env python3
"""Writes tests/parity/tokenizers: toy tokenizers trained on the bundled sample by Hugging Face tokenizers, a rank
file and a SentencePiece model, and the ids that tokenizers, tiktoken and sentencepiece give for texts that are easily got wrong.

    make_tokenizers.py      (needs tokenizers, tiktoken, sentencepiece)
"""
import base64
import io
import json
import os

import sentencepiece
import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "tokenizers")
SAMPLE = os.path.join(HERE, "..", "..", "data", "samples", "prose.txt")
TAIL = r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)" + TAIL % r"\p{N}{1,3}"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)" + TAIL % r"\p{N}"
END = "<|endoftext|>"

TEXTS = [
    "", " ", "a", "hello world", "Hello,  world!\n\n  It's the\tend.\r\n", "I'll don't WE'VE he'd 'tis 'S \u017f'\u017f",
    "2 + 2 = 4; 1234567890 3.14 \u0661\u0662\u0663 \u00bd \u2167", "   \n \n\n   x  \n", "a \n", "trailing   ", "\n\n\nx", " \u00a0\u180e \u2003x\u3000y\u0085z\x1c\x1f",
    "caf\u00e9 cafe\u0301 \u212b \u1e9b\u0323 \uac00\u1100\u1161 \U0001d15e", "\u304a\u8a95\u751f\u65e5\u304a\u3081\u3067\u3068\u3046",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947", "\U0001f469\u200d\U0001f680 \U0001f1e9\U0001f1ea ok \u2764\ufe0f",
    "int main(void) { return x[3] != 0 ? -1 : a->b; } // */*", "x" * 200, " " * 70 + "y", "the the the thethe" * 20, "=" * 99,
    "\x00\x01\x07\x1b\x7f", f"one{END}two <tool> three<tool>", "<too<tool>l>", "e\u0301<tool>\u0301", "\u0f71\u0f72\u0f74 \u00e0\u0316",
    "\u1109\u1161\u11a7 \u1109\u1161\u11a8 \u11a7\u0301\u11a7",
]


def train(name, pre, normalizer=None, added=(), ignore=False, old_merges=False, size=420):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train([SAMPLE], trainer)
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens([END])
    tokenizer.add_tokens(list(added))
    text = json.loads(tokenizer.to_str())
    text["model"]["ignore_merges"] = ignore
    if ignore:  # a token that merging never makes
        text["model"]["vocab"]["\u0120world"] = len(text["model"]["vocab"])
        for token in text["added_tokens"]:
            token["id"] += 1
    if old_merges:
        text["model"]["merges"] = [" ".join(pair) for pair in text["model"]["merges"]]
    with open(os.path.join(OUT, name), "w") as f:
        json.dump(text, f, ensure_ascii=True, indent=None, separators=(",", ":"))
    return Tokenizer.from_str(json.dumps(text))


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated", False),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def hugging_face():
    yield "gpt2.json", train("gpt2.json", pre_tokenizers.ByteLevel(add_prefix_space=False), old_merges=True)
    yield "prefix.json", train("prefix.json", pre_tokenizers.ByteLevel(add_prefix_space=True), added=["<tool>"])
    yield "llama3.json", train("llama3.json", split(CL100K), ignore=True)
    yield "qwen2.json", train("qwen2.json", split(QWEN2), normalizers.NFC(), added=[AddedToken("<tool>", normalized=True)])


def ranks():
    sample = open(SAMPLE, encoding="utf-8").read()
    tokens = {bytes([b]): b for b in range(256)}
    for word in sample.split():  # any set of tokens is a rank file; these overlap in every way
        for piece in (word[:2], word[:3], " " + word[:4], word[1:3], " " + word[:1], word):
            if piece and len(tokens) < 500:
                tokens.setdefault(piece.encode(), len(tokens))
    with open(os.path.join(OUT, "toy_cl100k.tiktoken"), "wb") as f:
        for token, rank in tokens.items():
            f.write(base64.b64encode(token) + b" %d\n" % rank)
    return tiktoken.Encoding("toy", pat_str=CL100K, mergeable_ranks=tokens, special_tokens={})


def sentence_pieces():
    model = io.BytesIO()
    lines = [line for line in open(SAMPLE, encoding="utf-8").read().split("\n") if line.strip()]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, vocab_size=360, model_type="bpe",
                                             byte_fallback=True, character_coverage=1.0, minloglevel=2,
                                             normalization_rule_name="identity")
    with open(os.path.join(OUT, "toy.model"), "wb") as f:
        f.write(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def main():
    os.makedirs(OUT, exist_ok=True)
    cases = {}
    for name, tokenizer in hugging_face():
        tokenizer.encode_special_tokens = True  # special tokens are ordinary text
        plain = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
        tokenizer.encode_special_tokens = False
        cases[name] = {"ordinary": plain, "special": [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]}
    encoding, pieces = ranks(), sentence_pieces()
    cases["toy_cl100k.tiktoken"] = {"ordinary": [encoding.encode_ordinary(text) for text in TEXTS]}
    cases["toy.model"] = {"ordinary": [pieces.encode(text) for text in TEXTS]}
    with open(os.path.join(OUT, "expected.json"), "w") as f:
        json.dump({"texts": TEXTS, "cases": cases}, f, ensure_ascii=True, separators=(",", ":"))


if __name__ == "__main__":
    main()

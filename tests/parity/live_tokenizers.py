#!/usr/bin/env python3
"""Switchyard's tokenizers against Hugging Face tokenizers, tiktoken and sentencepiece, token for token, on text of every kind,
and how fast each is on the same cores and text.

    live_tokenizers.py SWITCHYARD [--mb 100] [--vocab 32000] [--threads 1] [--work DIR]

Needs tokenizers, tiktoken and sentencepiece. The text is made here, the same on every run of the same Python: the bundled
sample, the sources of Python's own library, random Unicode of many scripts with emoji and control characters, and white
space in every arrangement. The vocabularies are trained here, on a part of it.
"""
import argparse
import base64
import glob
import io
import json
import os
import random
import struct
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SAMPLE = os.path.join(HERE, "..", "..", "data", "samples", "prose.txt")
SCRIPTS = [(0x20, 0x7e), (0xa0, 0x24f), (0x300, 0x36f), (0x370, 0x3ff), (0x400, 0x52f), (0x591, 0x5f4), (0x600, 0x6ff), (0x900, 0x97f),
           (0xe01, 0xe5b), (0x10a0, 0x10ff), (0x1100, 0x11ff), (0x1e00, 0x1fff), (0x2000, 0x206f), (0x2070, 0x218b), (0x2190, 0x2bff),
           (0x3000, 0x30ff), (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0xf900, 0xfaff), (0xfb00, 0xfb4f), (0x1d15e, 0x1d1e8),
           (0x1f300, 0x1f64f), (0x1f680, 0x1f6ff), (0x0, 0x1f), (0x7f, 0x9f)]
SPACES = [" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u180e", "\u2003", "\u0085", "\u2028", "\x1c", "\v"]


def words(dice):
    """A document of words from one or two scripts, or of anything."""
    out, ranges = [], dice.sample(SCRIPTS, dice.choice([1, 1, 2, len(SCRIPTS)]))
    for _ in range(dice.randrange(50, 600)):
        low, high = dice.choice(ranges)
        out.append("".join(chr(dice.randint(low, high)) for _ in range(dice.randrange(1, 9))))
        out.append(dice.choice(SPACES) if dice.random() < 0.2 else " ")
        if dice.random() < 0.05:
            out.append(dice.choice(["'s", "'LL", "12345", "\u0663\u0664", "don't", "...", "\u200d", "e\u0301", "\ufe0f"]))
    return "".join(out)


def prose():
    text = open(SAMPLE, encoding="utf-8").read()
    return [text[i:i + 20000] for i in range(0, len(text), 20000)]


def code():
    out = []
    for path in sorted(glob.glob(os.path.join(os.path.dirname(os.__file__), "**", "*.py"), recursive=True)):
        if "site-packages" in path:
            continue
        try:
            text = open(path, encoding="utf-8", newline="").read()
        except (UnicodeDecodeError, OSError):
            continue
        out += [text[i:i + 30000] for i in range(0, len(text), 30000)]
    return out


def unicode_text(n_bytes):
    dice, out, n = random.Random(1), [], 0
    while n < n_bytes:
        out.append(words(dice))
        n += len(out[-1].encode())
    return out


def size(texts):
    return sum(len(text.encode()) for text in texts)


def fill(texts, n_bytes, seed):
    """Those texts again and again, cut elsewhere each time, to so many bytes."""
    dice, out, n = random.Random(seed), [], 0
    while n < n_bytes:
        text = dice.choice(texts)
        text = text[dice.randrange(0, max(1, len(text) // 4)):]
        out.append(text)
        n += len(text.encode())
    return out


def train(kind, texts, vocab):
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    sys.path.insert(0, HERE)
    from make_tokenizers import CL100K, QWEN2
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    pattern = {"llama3": CL100K, "qwen2": QWEN2}.get(kind)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False) if pattern is None else pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated", False), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab, show_progress=False,
                                                             initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.encode_special_tokens = True
    return tokenizer


def bytes_of(tokenizer):
    """Token bytes by id, for a rank file of the same tokens."""
    chars = list(range(0x21, 0x7f)) + list(range(0xa1, 0xad)) + list(range(0xae, 0x100))
    table = {chr(c): c for c in chars}
    table.update({chr(0x100 + i): c for i, c in enumerate(c for c in range(256) if c not in chars)})
    return {bytes(table[c] for c in token): i for token, i in tokenizer.get_vocab().items() if token != "<|endoftext|>"}


def read_tokens(prefix):
    index = open(prefix + ".idx", "rb").read()
    code, n_documents, = struct.unpack_from("<BQ", index, 17)
    lengths = struct.unpack_from("<%di" % n_documents, index, 34)
    data = open(prefix + ".bin", "rb").read()
    tokens = struct.unpack("<%d%s" % (len(data) // (2 if code == 8 else 4), "H" if code == 8 else "i"), data)
    at, out = 0, []
    for n in lengths:
        out.append(tokens[at:at + n])
        at += n
    return out


def ours(switchyard, tokenizer, path, prefix, threads):
    """Seconds that pass, and seconds of CPU."""
    t, before = time.time(), os.times()
    subprocess.run([switchyard, "tokenize", path, "-o", prefix, "--tokenizer", tokenizer, "--workers", str(threads)], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    return time.time() - t, after.children_user + after.children_system - before.children_user - before.children_system


def compare(name, mine, theirs, texts):
    wrong = [i for i, (a, b) in enumerate(zip(mine, theirs)) if list(a) != list(b)]
    for i in wrong[:3]:
        a, b = list(mine[i]), list(theirs[i])
        k = next((k for k in range(min(len(a), len(b))) if a[k] != b[k]), min(len(a), len(b)))
        print(f"  {name}: document {i} differs from token {k} on: {a[k:k + 6]} {b[k:k + 6]} in {texts[i][:30]!r}...")
    n = sum(len(ids) for ids in theirs)
    print(f"{name}: {len(texts)} documents, {size(texts) / 1e6:.1f} MB, {n} tokens, {len(wrong)} documents differ", flush=True)
    return len(wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("switchyard")
    parser.add_argument("--mb", type=float, default=100)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", default="/tmp/live_tokenizers")
    args = parser.parse_args()
    os.makedirs(args.work, exist_ok=True)
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if args.threads > 1 else "false"
    kinds = {"prose": prose(), "code": code(), "unicode": unicode_text(args.mb * 0.4e6)}
    texts = fill(kinds["prose"], args.mb * 0.2e6, 1) + fill(kinds["code"], args.mb * 0.4e6, 2) + kinds["unicode"]
    random.Random(3).shuffle(texts)
    path = os.path.join(args.work, "mixed.jsonl")
    with open(path, "w") as f:
        for text in texts:
            f.write(json.dumps({"text": text}) + "\n")
    wrong = 0
    for kind in ("gpt2", "llama3", "qwen2"):
        tokenizer = train(kind, kinds["prose"] + kinds["code"][::7] + kinds["unicode"][::50], args.vocab)
        name, out = os.path.join(args.work, kind + ".json"), os.path.join(args.work, "out")
        tokenizer.save(name)
        ours(args.switchyard, name, path, out, args.threads)
        theirs = []
        for i in range(0, len(texts), 500):
            theirs += [e.ids for e in tokenizer.encode_batch_fast(texts[i:i + 500], add_special_tokens=False)]
        wrong += compare(kind, read_tokens(out), theirs, texts)
        for what, some in (("prose", fill(kinds["prose"], 20e6, 4)), ("code", fill(kinds["code"], 20e6, 5)),
                           ("unicode", kinds["unicode"][:3000])):
            plain = os.path.join(args.work, what + ".jsonl")
            with open(plain, "w") as f:
                for text in some:
                    f.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            t, cpu = time.time(), time.process_time()
            tokenizer.encode_batch_fast(some, add_special_tokens=False)
            t, cpu, mb = time.time() - t, time.process_time() - cpu, size(some) / 1e6
            t_ours, cpu_ours = ours(args.switchyard, name, plain, out, args.threads)
            print(f"  {kind} {what}, MB/s and MB per second of CPU: switchyard (process, JSON and files included) {mb / t_ours:.1f}, "
                  f"{mb / cpu_ours:.1f}; tokenizers {mb / t:.1f}, {mb / cpu:.1f}; {t / t_ours:.1f} and {cpu / cpu_ours:.1f} times",
                  flush=True)
        if kind == "llama3":
            wrong += rank_file(args, tokenizer, texts, path)
    wrong += sentence_pieces(args, kinds, texts[:len(texts) // 4])
    return 1 if wrong else 0


def rank_file(args, tokenizer, texts, path):
    import tiktoken
    from make_tokenizers import CL100K
    ranks, out = bytes_of(tokenizer), os.path.join(args.work, "out")
    name = os.path.join(args.work, "cl100k.tiktoken")
    with open(name, "wb") as f:
        for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
            f.write(base64.b64encode(token) + b" %d\n" % rank)
    encoding = tiktoken.Encoding("live", pat_str=CL100K, mergeable_ranks=ranks, special_tokens={})
    ours(args.switchyard, name, path, out, args.threads)
    return compare("tiktoken", read_tokens(out), [encoding.encode_ordinary(text) for text in texts], texts)


def sentence_pieces(args, kinds, texts):
    import sentencepiece
    wrong = 0
    lines = [line for text in kinds["prose"] + kinds["code"][::40] for line in text.split("\n") if 0 < len(line) < 2000 and "\0" not in line]
    path, out = os.path.join(args.work, "part.jsonl"), os.path.join(args.work, "out")
    with open(path, "w") as f:
        for text in texts:
            f.write(json.dumps({"text": text}) + "\n")
    for kind in ("bpe", "unigram"):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, vocab_size=4000, model_type=kind,
                                                 byte_fallback=kind == "bpe", minloglevel=2)
        name = os.path.join(args.work, kind + ".model")
        with open(name, "wb") as f:
            f.write(model.getvalue())
        ours(args.switchyard, name, path, out, args.threads)
        pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        differ = compare("sentencepiece " + kind, read_tokens(out), pieces.encode(texts), texts)
        wrong += differ if kind == "bpe" else 0  # releases of the library break a unigram model's ties differently
    return wrong


if __name__ == "__main__":
    sys.exit(main())

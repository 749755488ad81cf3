#!/usr/bin/env python3
"""Hugging Face folders in and out: what goes in comes out bit for bit, in every form that such files have; what is
damaged or does not fit is refused in one message, and nothing is left under the final name."""

import array
import json
import math
import os
import random
import resource
import shutil
import signal
import struct
import time
import unittest

import harness
import hf_files
from harness import ROOT

FIXTURES = ROOT / "tests/parity/fixtures"
ARCHITECTURES = sorted(p.name for p in FIXTURES.iterdir() if (p / "config.json").exists())


class Folders(harness.Case):
    def setUp(self):
        super().setUp()
        self.tensors = hf_files.read(FIXTURES / "mixtral/model.safetensors")
        self.spec = json.loads((FIXTURES / "mixtral/config.json").read_text())
        self.source = self.folder / "hf"

    def imports(self, source, out="a.h5", *args, ranks=0):
        return self.succeeds("import", source, "-o", self.folder / out, *args, ranks=ranks)

    def exports(self, ckpt, out, *args, ranks=0):
        return self.succeeds("export", self.folder / ckpt, "-o", self.folder / out, *args, ranks=ranks)

    def same(self, a, b):
        self.assertIn("same:", self.succeeds("diff", self.folder / a, self.folder / b).stdout)

    def nothing_left(self, *names):
        for name in names:
            left = [p.name for p in self.folder.iterdir() if name in p.name]
            self.assertEqual(left, [], "left behind")


class RoundTrip(Folders):
    def test_every_architecture_comes_back_bit_for_bit(self):
        for name in ARCHITECTURES:
            with self.subTest(name):
                self.imports(FIXTURES / name, f"{name}.h5")
                self.succeeds("verify", self.folder / f"{name}.h5")
                self.exports(f"{name}.h5", name)
                self.assertEqual(hf_files.read(self.folder / name / "model.safetensors"),
                                 hf_files.read(FIXTURES / name / "model.safetensors"))
                ours = json.loads((self.folder / name / "config.json").read_text())
                theirs = json.loads((FIXTURES / name / "config.json").read_text())
                self.assertEqual(ours["architectures"], theirs["architectures"])
                for key in ("hidden_size", "num_hidden_layers", "bos_token_id", "rms_norm_eps", "rope_parameters"):
                    self.assertEqual(ours[key], theirs[key])

    def test_blocks_that_predict_further_tokens_come_back_with_their_copies(self):
        tensors = hf_files.read(FIXTURES / "deepseek_v3/model.safetensors")
        config = json.loads((FIXTURES / "deepseek_v3/config.json").read_text())
        n, H, draw = config["num_hidden_layers"], config["hidden_size"], random.Random(7)
        last, ahead = f"model.layers.{n - 1}.", f"model.layers.{n}."
        drawn = lambda *shape: ("F32", list(shape), array.array("f", [draw.gauss(0, 1) for _ in range(math.prod(shape))]).tobytes())
        whole = {**tensors, **{ahead + k[len(last):]: drawn(*v[1]) for k, v in tensors.items() if k.startswith(last)},
                 **{ahead + k: drawn(H) for k in ("enorm.weight", "hnorm.weight", "shared_head.norm.weight")},
                 ahead + "eh_proj.weight": drawn(H, 2 * H), ahead + "embed_tokens.weight": tensors["model.embed_tokens.weight"],
                 ahead + "shared_head.head.weight": tensors["lm_head.weight"]}
        config["num_nextn_predict_layers"] = 1
        hf_files.write(self.source, whole, config)
        hf_files.write(self.folder / "saved", tensors, config)  # as transformers saves what it loaded
        for source, wanted, count in ((self.source, whole, 1), (self.folder / "saved", tensors, 0)):
            self.imports(source, f"{count}.h5")
            self.succeeds("verify", self.folder / f"{count}.h5")
            self.exports(f"{count}.h5", f"out{count}", ranks=2 * count)
            self.assertEqual(hf_files.read(self.folder / f"out{count}/model.safetensors"), wanted)
            ours = json.loads((self.folder / f"out{count}/config.json").read_text())
            self.assertEqual(ours["num_nextn_predict_layers"], count)
        self.exports("1.h5", "dropped", "--drop-mtp")
        self.assertEqual(hf_files.read(self.folder / "dropped/model.safetensors"), tensors)

    def test_any_number_of_ranks_writes_the_same_files(self):
        self.imports(FIXTURES / "qwen2_moe", "one.h5")
        self.exports("one.h5", "one")
        for ranks in (2, 3, 4):
            self.imports(FIXTURES / "qwen2_moe", f"{ranks}.h5", ranks=ranks)
            self.same("one.h5", f"{ranks}.h5")
            self.exports("one.h5", str(ranks), ranks=ranks)
            for file in (self.folder / "one").iterdir():
                self.assertEqual(file.read_bytes(), (self.folder / str(ranks) / file.name).read_bytes())

    def test_shards_and_fused_experts_are_the_same_model(self):
        self.imports(FIXTURES / "mixtral", "plain.h5")
        hf_files.write_sharded(self.folder / "shards", self.tensors, self.spec, 3)
        hf_files.write(self.folder / "fused", hf_files.fuse(self.tensors, 5), self.spec)
        for form in ("shards", "fused"):
            self.imports(self.folder / form, f"{form}.h5", ranks=2)
            out = self.job("diff", self.folder / "plain.h5", self.folder / f"{form}.h5").stdout
            self.assertIn("12820 values compared", out)
            self.assertNotIn("/model/", out)

    def test_small_shards_are_written_and_read(self):
        self.imports(FIXTURES / "mixtral", "a.h5")
        self.exports("a.h5", "out", "--max-shard-bytes", "8000", ranks=2)
        names = sorted(p.name for p in (self.folder / "out").iterdir())
        index = json.loads((self.folder / "out/model.safetensors.index.json").read_text())
        files = sorted(set(index["weight_map"].values()))
        self.assertGreater(len(files), 3)
        self.assertEqual([n for n in names if n.endswith(".safetensors")], files)
        self.assertEqual(index["metadata"]["total_size"], sum(len(t[2]) for t in self.tensors.values()))
        self.imports(self.folder / "out", "b.h5")
        found = self.job("diff", self.folder / "a.h5", self.folder / "b.h5").stdout
        self.assertNotIn("/model/", found)

    def test_bf16_and_f16_come_back_bit_for_bit(self):
        for name, convert in (("bf16", hf_files.to_bf16), ("f16", hf_files.to_f16)):
            tensors = convert(self.tensors)
            hf_files.write(self.folder / name, tensors, self.spec)
            self.imports(self.folder / name, f"{name}.h5")
            self.exports(f"{name}.h5", f"{name}.out")
            self.assertEqual(hf_files.read(self.folder / f"{name}.out/model.safetensors"), tensors)

    def test_types_may_be_mixed(self):
        """Norms and router in F32 beside weights in BF16, as some publish them."""
        narrow = hf_files.to_bf16(self.tensors)
        mixed = {k: self.tensors[k] if "norm" in k or ".gate." in k else v for k, v in narrow.items()}
        self.assertEqual({t[0] for t in mixed.values()}, {"F32", "BF16"})
        hf_files.write(self.source, mixed, self.spec)
        self.imports(self.source, "a.h5", ranks=2)
        self.assertNotIn("rounded", self.exports("a.h5", "out", ranks=3).stdout)
        self.assertEqual(hf_files.read(self.folder / "out/model.safetensors"), mixed)
        self.assertEqual(json.loads((self.folder / "out/config.json").read_text())["dtype"], "bfloat16")

    def test_rounding_is_told_and_exact_widening_is_not(self):
        self.imports(FIXTURES / "mixtral", "a.h5")
        self.assertIn("values were rounded to bf16", self.exports("a.h5", "narrow", "--dtype", "bf16").stdout)
        hf_files.write(self.source, hf_files.to_bf16(self.tensors), self.spec)
        self.imports(self.source, "b.h5")
        self.assertNotIn("rounded", self.exports("b.h5", "wide", "--dtype", "fp32").stdout)

    def test_tokenizer_files_travel_along_through_training(self):
        shutil.copytree(FIXTURES / "llama", self.source)
        for name, text in (("tokenizer.json", '{"model": {}}'), ("tokenizer_config.json", "{}"), ("notes.md", "no")):
            (self.source / name).write_text(text)
        spec = {"rope_theta": 10000.0, **json.loads((self.source / "config.json").read_text()), "vocab_size": 256}
        tensors = hf_files.read(self.source / "model.safetensors")
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            dtype, (_, hidden), _ = tensors[name]
            tensors[name] = (dtype, [256, hidden], struct.pack("<f", 0.25) * (256 * hidden))
        shutil.rmtree(self.source)
        hf_files.write(self.source, tensors, spec)
        (self.source / "tokenizer.json").write_text('{"model": {}}')
        (self.source / "merges.txt").write_text("")
        self.imports(self.source)
        model = self.shape_of(self.folder / "a.h5")
        cfg = self.config(model=model, moe={"experts": 0}, train={"steps": 2})
        self.train(cfg, "run", "--init-from", self.folder / "a.h5")
        self.exports("run", "out")
        self.assertEqual((self.folder / "out/tokenizer.json").read_text(), '{"model": {}}')
        self.assertEqual((self.folder / "out/merges.txt").read_bytes(), b"")
        self.assertEqual(json.loads((self.folder / "out/config.json").read_text())["vocab_size"], 256)

    def test_imported_model_reads_and_writes_text_with_its_own_tokenizer(self):
        """Greedy text from the tokenizer inside the checkpoint is that of the same file named, on one rank and on two."""
        own = FIXTURES.parent / "tokenizers/gpt2.json"
        shutil.copytree(FIXTURES / "mixtral", self.source)
        ask = ("--prompt", "It's the <|endoftext|> end", "--max-tokens", 5, "--temperature", 0)
        self.imports(self.source, "ids.h5", "--set", "model.vocab_size=432")
        self.fails(2, ["ids.h5", "no tokenizer.json", "--tokenizer FILE"], "generate", self.folder / "ids.h5", *ask)
        named = self.succeeds("generate", self.folder / "ids.h5", "--tokenizer", own, *ask).stdout
        shutil.copy(own, self.source / "tokenizer.json")
        self.imports(self.source, "own.h5", "--set", "model.vocab_size=432")
        for ranks in (1, 2):
            out = self.succeeds("generate", self.folder / "own.h5", *ask, ranks=ranks).stdout
            self.assertTrue(out.startswith("It's the <|endoftext|> end") and len(out) > 28, out)
            self.assertEqual(out, named)
        (self.source / "tokenizer.json").write_text('{"model": {}}')
        self.imports(self.source, "bad.h5", "--set", "model.vocab_size=432")
        self.fails(2, ["bad.h5:/tokenizer/tokenizer.json", "pre_tokenizer"], "generate", self.folder / "bad.h5", *ask, ranks=2)

    def test_vocabulary_grows_by_mean_rows_on_its_way_in(self):
        dtype, (rows, hidden), before = self.tensors["lm_head.weight"]
        self.imports(FIXTURES / "mixtral", "a.h5", "--set", f"model.vocab_size={rows + 5}", ranks=3)
        self.succeeds("verify", self.folder / "a.h5")
        self.exports("a.h5", "out")
        self.assertEqual(json.loads((self.folder / "out/config.json").read_text())["vocab_size"], rows + 5)
        got = hf_files.read(self.folder / "out/model.safetensors")
        _, shape, after = got["lm_head.weight"]
        self.assertEqual((dtype, shape), ("F32", [rows + 5, hidden]))
        self.assertEqual(after[:len(before)], before)
        values = struct.unpack(f"<{(rows + 5) * hidden}f", after)
        for i in range(rows * hidden, len(values)):
            mean = sum(values[i % hidden:rows * hidden:hidden]) / rows
            self.assertAlmostEqual(values[i], mean, delta=1e-7)
        other = "model.layers.0.self_attn.q_proj.weight"
        self.assertEqual(got[other], self.tensors[other])
        self.fails(2, ["smaller", str(rows)], "import", FIXTURES / "mixtral", "-o", self.folder / "b.h5", "--set",
                   f"model.vocab_size={rows - 1}")
        self.nothing_left("b.h5")

    def shape_of(self, ckpt):
        """The section model of a checkpoint's configuration, for another configuration."""
        text = json.loads(self.succeeds("inspect", ckpt, "--json").stdout)["config"]
        lines = text.split("\nmodel:\n")[1].splitlines()
        keys = {}
        for line in lines:
            if not line.startswith("  "):
                break
            key, value = line.strip().split(": ", 1)
            if value[0] == "[":
                keys[key] = [item.strip(' "') for item in value[1:-1].split(",") if item]
            else:
                keys[key] = json.loads(value) if value[0].isdigit() or value in ("true", "false", "null") else value
        return keys

    def test_killed_import_and_export_leave_no_final_name_and_run_again(self):
        self.imports(FIXTURES / "mixtral", "a.h5")
        job = self.job("import", FIXTURES / "mixtral", "-o", self.folder / "b.h5", fault="checkpoint_write:9:kill")
        self.assertNotEqual(job.status, 0)
        self.assertFalse((self.folder / "b.h5").exists())
        self.imports(FIXTURES / "mixtral", "b.h5")
        self.same("a.h5", "b.h5")
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        job = self.job("export", self.folder / "a.h5", "-o", self.folder / "out", preexec=limit)
        self.assertEqual(job.status, 1, job.text())
        self.assertEqual(len(job.errors()), 1, job.text())
        self.nothing_left("out")
        self.exports("a.h5", "out")


class Refusals(Folders):
    """One message that names the file and what is wrong with it, exit 2, nothing left."""

    def refuses(self, words, source=None, ranks=0):
        self.fails(2, words, "import", source or self.source, "-o", self.folder / "out.h5", ranks=ranks)
        self.nothing_left("out.h5")

    def with_config(self, words, remove=(), **changes):
        spec = {**self.spec, **changes}
        for key in remove:
            del spec[key]
        if self.source.exists():
            shutil.rmtree(self.source)
        hf_files.write(self.source, self.tensors, spec)
        self.refuses(["config.json", *([words] if isinstance(words, str) else words)])

    def with_tensors(self, words, tensors, change=None, ranks=0):
        if self.source.exists():
            shutil.rmtree(self.source)
        hf_files.write(self.source, tensors, self.spec, change)
        self.refuses(words, ranks=ranks)

    def test_configurations(self):
        self.with_config("MixtralForCausal", architectures=["MixtralForCausal"])
        self.with_config("GptOssForCausalLM", architectures=["GptOssForCausalLM"], model_type="gpt_oss")
        self.with_config(["rope", "yarn"], rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0})
        self.with_config("hidden_size", hidden_size=-20)
        self.with_config("hidden_size", hidden_size=10 ** 15)
        self.with_config("hidden_size", hidden_size="20")
        self.with_config("num_hidden_layers", num_hidden_layers=10 ** 9)
        self.with_config("num_experts_per_tok", num_experts_per_tok=6)
        self.with_config("num_key_value_heads", num_key_value_heads=3)
        self.with_config("hidden_act", hidden_act="gelu")
        self.with_config("quantization_config", quantization_config={"bits": 4})
        self.with_config("vocab_size", vocab_size=True)
        (self.source / "config.json").write_text('{"a": 1')
        self.refuses("config.json")
        (self.source / "config.json").write_text('{"hidden_size": 1, "hidden_size": 2}')
        self.refuses(["config.json", "hidden_size"])
        (self.source / "config.json").write_bytes(b'{"a": "\xff"}')
        self.refuses("config.json")
        (self.source / "config.json").unlink()
        self.refuses(["config.json", "Hugging Face"])

    def test_tensors_that_do_not_fit_the_configuration(self):
        name = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
        less = {k: v for k, v in self.tensors.items() if k != name}
        self.with_tensors([name], less, ranks=3)
        more = {**self.tensors, "model.layers.2.input_layernorm.weight": self.tensors["model.norm.weight"]}
        self.with_tensors(["model.safetensors", "model.layers.2.input_layernorm.weight"], more)
        dtype, (rows, columns), raw = self.tensors[name]
        self.with_tensors([name, "shape"], {**self.tensors, name: (dtype, [columns, rows], raw)}, ranks=2)
        self.with_tensors([name, "I64"], {**self.tensors, name: ("I64", [rows, columns], raw * 2)})

    def test_malformed_files(self):
        name = "model.norm.weight"

        def overlap(header):
            header[name]["data_offsets"] = [header[name]["data_offsets"][0] - 4, header[name]["data_offsets"][1] - 4]

        def wrong_size(header):
            header[name]["shape"] = [21]

        def unknown(header):
            header[name]["dtype"] = "F33"

        def negative(header):
            header[name]["shape"] = [-20]

        for change in (overlap, wrong_size, unknown, negative):
            with self.subTest(change.__name__):
                self.with_tensors(["model.safetensors", name], self.tensors, change)
        raw = hf_files.pack(self.tensors)
        n = struct.unpack("<Q", raw[:8])[0]
        twice = raw[8:8 + n].replace(b'"model.norm.weight"', b'"lm_head.weight"')
        for what, data in {
            "short": raw[:7], "header too long": struct.pack("<Q", 1 << 62) + raw[8:], "truncated": raw[:-1],
            "trailing": raw + b"\0", "not UTF-8": raw[:9] + b"\xff" + raw[10:], "empty": b"",
            "twice": struct.pack("<Q", len(twice)) + twice + raw[8 + n:],
        }.items():
            with self.subTest(what):
                (self.source / "model.safetensors").write_bytes(data)
                self.refuses("model.safetensors")

    def test_shards(self):
        hf_files.write_sharded(self.source, self.tensors, self.spec, 3)
        shard = self.source / "model-00002-of-00003.safetensors"
        raw = shard.read_bytes()
        shard.unlink()
        self.refuses(shard.name, ranks=2)
        shard.write_bytes(raw[:-4])
        self.refuses(shard.name)
        shard.write_bytes(raw)
        index = json.loads((self.source / "model.safetensors.index.json").read_text())
        index["weight_map"]["model.norm.weight"] = "../model.safetensors"
        (self.source / "model.safetensors.index.json").write_text(json.dumps(index))
        self.refuses("model.norm.weight")
        (self.source / "model.safetensors.index.json").write_text("[]")
        self.refuses("model.safetensors.index.json")

    def test_paths(self):
        self.refuses("nowhere", source=self.folder / "nowhere")
        self.refuses(["mixtral/model.safetensors", "folder"], source=FIXTURES / "mixtral/model.safetensors", ranks=2)
        hf_files.write(self.source, self.tensors, self.spec)
        (self.source / "model.safetensors").unlink()
        self.refuses("safetensors")
        (self.folder / "out.h5").write_text("mine")
        self.fails(2, "exists already", "import", FIXTURES / "mixtral", "-o", self.folder / "out.h5")
        self.assertEqual((self.folder / "out.h5").read_text(), "mine")
        self.fails(2, "folder", "import", FIXTURES / "mixtral", "-o", self.folder / "no/out.h5")
        self.fails(2, "-o is missing", "import", FIXTURES / "mixtral")
        self.fails(2, "name of a file", "import", FIXTURES / "mixtral", "-o", f"{self.folder}/new.h5/")
        self.fails(2, "name of a folder", "export", FIXTURES / "mixtral", "-o", "")
        self.nothing_left("new.h5")

    def test_exports_that_would_lose_something_say_what(self):
        self.imports(FIXTURES / "qwen3_moe", "qwen3_moe.h5")
        self.imports(FIXTURES / "mixtral", "mixtral.h5")
        self.imports(FIXTURES / "llama", "llama.h5")
        for ckpt, arch, words in [("qwen3_moe", "MixtralForCausalLM", "norm"), ("mixtral", "OlmoeForCausalLM", "norm"),
                                  ("llama", "MixtralForCausalLM", "experts"), ("mixtral", "LlamaForCausalLM", "experts")]:
            with self.subTest(f"{ckpt} as {arch}"):
                self.fails(2, [arch, words], "export", self.folder / f"{ckpt}.h5", "-o", self.folder / "out",
                           "--architecture", arch)
        self.fails(2, "MixtralForCausalLM", "export", self.folder / "mixtral.h5", "-o", self.folder / "out",
                   "--architecture", "MixtralForCausalML")
        self.fails(2, "--dtype", "export", self.folder / "mixtral.h5", "-o", self.folder / "out", "--dtype", "int8")
        self.nothing_left("out")

    def test_export_of_a_damaged_checkpoint_is_refused(self):
        self.imports(FIXTURES / "mixtral", "a.h5")
        raw = bytearray((self.folder / "a.h5").read_bytes())
        data = self.tensors["model.norm.weight"][2]
        at = raw.find(data)
        self.assertGreater(at, 0)
        raw[at + 3] ^= 1
        (self.folder / "a.h5").write_bytes(raw)
        self.fails(3, "/model/norm", "export", self.folder / "a.h5", "-o", self.folder / "out", ranks=2)
        self.nothing_left("out")
        self.fails(3, "/model/norm", "verify", self.folder / "a.h5")


if __name__ == "__main__":
    harness.main()

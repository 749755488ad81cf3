#!/usr/bin/env python3
"""LoRA adapters as models: merged as PEFT merges them (tests/parity/make_adapters.py), whatever their base is stored as;
experts of a mixture; and one message for an adapter that does not fit its base or itself."""

import json
import math
import shutil
import struct
import unittest

import harness
import hf_files
from harness import ROOT

FIXTURES = ROOT / "tests/parity/fixtures"
ADAPTERS = ROOT / "tests/parity/adapters"
BASES = {"plain": "llama", "other": "llama", "embeddings": "llama", "patterns": "qwen2_rope_linear",
         "one_layer": "qwen2_rope_linear", "of_a_mixture": "granite_moe_shared"}


def values(tensor):
    dtype, _, raw = tensor
    if dtype == "BF16":
        raw = b"".join(b"\0\0" + raw[i:i + 2] for i in range(0, len(raw), 2))
    return struct.unpack(f"<{len(raw) // 4}f", raw)


class Adapters(harness.Case):
    def base(self, name):
        return FIXTURES / BASES[name]

    def imports(self, source, out, *args, ranks=0):
        self.succeeds("import", source, "-o", self.folder / out, *args, ranks=ranks)
        return self.folder / out

    def weights(self, ckpt, *args):
        out = self.folder / (ckpt.stem + "_hf")
        self.succeeds("export", ckpt, "-o", out, *args)
        return hf_files.read(out / "model.safetensors")

    def near(self, ours, theirs, relative):
        self.assertEqual(sorted(ours), sorted(theirs))
        for name in ours:
            a, b = values(ours[name]), values(theirs[name])
            self.assertEqual(len(a), len(b), name)
            largest = max(map(abs, b))
            self.assertLessEqual(max(abs(x - y) for x, y in zip(a, b)), relative * largest, name)


class Merged(Adapters):
    def test_adapters_are_what_peft_merges(self):
        for name in BASES:
            with self.subTest(name):
                ckpt = self.imports(ADAPTERS / name, f"{name}.h5", "--adapter-base", self.base(name))
                theirs = hf_files.read(ADAPTERS / name / "merged.safetensors")
                self.near(self.weights(ckpt), theirs, 1e-6)

    def test_any_ranks_and_any_form_of_the_base_give_the_same_file(self):
        one = self.imports(ADAPTERS / "patterns", "one.h5", "--adapter-base", self.base("patterns"))
        many = self.imports(ADAPTERS / "patterns", "many.h5", "--adapter-base", self.base("patterns"), ranks=3)
        self.assertIn("same:", self.succeeds("diff", one, many).stdout)
        base = self.imports(self.base("patterns"), "base.h5")
        ours = self.imports(ADAPTERS / "patterns", "ours.h5", "--adapter-base", base)
        lines = self.job("diff", one, ours).stdout.splitlines()
        self.assertEqual([x for x in lines if "/model/" in x], [])

    def test_base_in_bf16_is_rounded_once(self):
        """W + alpha / r B A in Python, of one matrix; a base that the adapter names is found."""
        spec = json.loads((self.base("plain") / "config.json").read_text())
        half = hf_files.to_bf16(hf_files.read(self.base("plain") / "model.safetensors"))
        hf_files.write(self.folder / "half", half, spec)
        self.copy("plain", base_model_name_or_path=str(self.folder / "half"))
        ours = self.weights(self.imports(self.folder / "plain", "half.h5"))
        lora = hf_files.read(ADAPTERS / "plain/adapter_model.safetensors")
        name = "model.layers.1.mlp.down_proj"
        a, b = (values(lora[f"base_model.model.{name}.lora_{x}.weight"]) for x in "AB")
        w, got = values(half[f"{name}.weight"]), values(ours[f"{name}.weight"])
        self.assertEqual(ours[f"{name}.weight"][0], "BF16")
        rows, columns, r = 20, 28, 3
        for i in range(rows):
            for j in range(columns):
                want = w[i * columns + j] + 5 / 3 * sum(b[i * r + k] * a[k * columns + j] for k in range(r))
                step = 2.0 ** (math.frexp(want)[1] - 8)
                self.assertLessEqual(abs(got[i * columns + j] - want), step / 2 * 1.0001)

    def copy(self, name, change=None, **config):
        """An adapter with a changed configuration, or changed tensors."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ADAPTERS / name, folder)
        spec = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**spec, **config}))
        if change:
            tensors = hf_files.read(folder / "adapter_model.safetensors")
            change(tensors)
            (folder / "adapter_model.safetensors").write_bytes(hf_files.pack(tensors))
        return folder

    def refused(self, words, *args):
        self.fails(2, words, "import", *args, "-o", self.folder / "out.h5")
        self.assertEqual([p.name for p in self.folder.iterdir() if "out" in p.name], [])

    def test_configuration_that_lies_is_refused(self):
        for key, value, words in [
                ("r", 4, ["lora_A.weight", "[3, ", "[4, "]), ("r", 2**40, "65536"), ("r", 0, "65536"), ("r", "3", '"3"'),
                ("r", None, "missing"), ("lora_alpha", -5, "lora_alpha is -5"), ("lora_alpha", [1], "lora_alpha"),
                ("peft_type", "IA3", "LORA"), ("use_dora", True, "DoRA"), ("lora_bias", True, "lora_bias"),
                ("init_lora_weights", "pissa", "pissa"), ("use_rslora", "yes", "true or false"),
                ("target_modules", {"q_proj": 1}, "target_modules"), ("target_modules", ["q_proj"], "target_modules"),
                ("rank_pattern", {"q_proj": 2}, "q_proj.lora_A.weight"), ("rank_pattern", {"(a+)+": 3}, "(a+)+"),
                ("alpha_pattern", {"q_proj": "x"}, "q_proj"), ("alpha_pattern", [3], "alpha_pattern"),
                ("layers_to_transform", [0], "layers.1."), ("modules_to_save", ["lm_head"], "lm_head"),
                ("target_parameters", ["gate_up_proj"], "target_parameters"), ("layer_replication", [[0, 2]], "layer")]:
            with self.subTest(key=key, value=value):
                self.refused(words, self.copy("plain", **{key: value}), "--adapter-base", self.base("plain"))

    def test_adapter_of_another_base_is_refused(self):
        base = ["--adapter-base", self.base("plain")]
        first = "base_model.model.model.layers.0.mlp.down_proj"
        short = struct.pack("<21f", *range(21))

        def renames(old, new):
            return lambda t: t.update({k.replace(old, new): t.pop(k) for k in list(t) if old in k})
        self.refused(["q_proj.lora_A.weight", "[3, 20]", "[3, 24]"], ADAPTERS / "plain", "--adapter-base",
                     self.base("patterns"))
        self.refused("layers.7.", self.copy("plain", renames("layers.1.", "layers.7.")), *base)
        self.refused("c_attn", self.copy("plain", renames("q_proj", "c_attn")), *base)
        self.refused("none of an adapter", self.copy("plain", renames("base_model.model.", "")), *base)
        self.refused(["lora_magnitude_vector", "kind of adapter"],
                     self.copy("plain", lambda t: t.update({f"{first}.lora_magnitude_vector": ("F32", [21], short)})), *base)
        self.refused([first, "has no A"], self.copy("plain", lambda t: t.pop(f"{first}.lora_A.weight")), *base)
        self.refused("model.layers.0.mlp.down_proj.weight",
                     self.copy("plain", lambda t: [t.pop(f"{first}.lora_{x}.weight") for x in "AB"]), *base)
        self.refused("ties its embeddings", self.copy("embeddings"), "--adapter-base", FIXTURES / "llama_tied")
        self.refused(["nowhere/llama", "--adapter-base"], ADAPTERS / "plain")
        self.refused("is an adapter itself", ADAPTERS / "plain", "--adapter-base", ADAPTERS / "other")
        self.refused("is not", self.base("plain"), *base)
        (self.copy("plain") / "adapter_model.safetensors").unlink()
        self.refused("adapter_model.safetensors", self.folder / "plain", *base)


class Experts(Adapters):
    def test_adapters_of_one_base_become_experts(self):
        base = self.base("plain")
        sources = ["--source", ADAPTERS / "plain", "--source", ADAPTERS / "other"]
        for ranks in (0, 2):
            self.succeeds("merge", "--method", "btx", *sources, "--seed-model", base, "--adapter-base", base,
                          "-o", self.folder / f"{ranks}.h5", ranks=ranks)
        self.assertIn("same:", self.succeeds("diff", self.folder / "0.h5", self.folder / "2.h5").stdout)
        ours = self.weights(self.folder / "0.h5", "--architecture", "MixtralForCausalLM")
        dense = hf_files.read(base / "model.safetensors")
        self.assertEqual(ours["model.layers.0.self_attn.q_proj.weight"], dense["model.layers.0.self_attn.q_proj.weight"])
        for e, name in enumerate(("plain", "other")):
            theirs = hf_files.read(ADAPTERS / name / "merged.safetensors")
            for layer in (0, 1):
                for w, part in (("w1", "gate"), ("w3", "up"), ("w2", "down")):
                    a = ours[f"model.layers.{layer}.block_sparse_moe.experts.{e}.{w}.weight"]
                    b = theirs[f"model.layers.{layer}.mlp.{part}_proj.weight"]
                    self.near({"w": a}, {"w": b}, 1e-6)

    def loss(self, ckpt, ranks):
        data = self.folder / "data"
        if not data.with_suffix(".bin").exists():
            (self.folder / "text").write_bytes(bytes(i * i % 61 for i in range(2000)))
            self.succeeds("tokenize", self.folder / "text", "-o", data, "--tokenizer", "bytes")
        out = self.succeeds("eval", ckpt, "--data", data, "--json", "--set", "device.backend=ref", ranks=ranks).stdout
        return json.loads(out)["sets"][0]["loss"]

    def test_kept_adapters_compute_what_merged_ones_do(self):
        """The same routers, so the same model but for how its experts are stored; merged ones are rounded to fp32."""
        base = self.base("plain")
        sources = ["--source", ADAPTERS / "plain", "--source", ADAPTERS / "other", "--adapter-base", base]
        for extra in (["--router-init-std", 1], ["--seed-model", base, "--always-on", "--top-k", 1], ["--equal"]):
            with self.subTest(extra):
                merged, kept = (self.folder / f"{len(extra)}{name}.h5" for name in ("merged", "kept"))
                self.succeeds("merge", "--method", "btx", *sources, *extra, "-o", merged)
                self.succeeds("merge", "--method", "btx", *sources, *extra, "--keep-adapters", "-o", kept, ranks=2)
                want = self.loss(merged, 0)
                for ranks in (0, 2):
                    self.assertLessEqual(abs(self.loss(kept, ranks) / want - 1), 1e-7)

    def test_what_is_no_adapter_cannot_be_kept(self):
        base = self.base("plain")
        self.fails(2, ["is no LoRA adapter", str(base)], "merge", "--method", "btx", "--keep-adapters", "--source",
                   ADAPTERS / "plain", "--source", base, "--adapter-base", base, "-o", self.folder / "out.h5")
        self.fails(2, "--method btx", "merge", "--method", "average", "--keep-adapters", "--source", ADAPTERS / "plain",
                   "--source", ADAPTERS / "other", "--adapter-base", base, "-o", self.folder / "out.h5")

    def test_upcycled_adapter_says_what_the_merged_model_says(self):
        out = self.folder / "moe.h5"
        text = self.succeeds("upcycle", ADAPTERS / "plain", "--adapter-base", self.base("plain"), "--experts", 4,
                             "-o", out, ranks=2).stdout
        self.assertIn("receipt", text)
        self.fails(2, "--adapter-base", "upcycle", self.base("plain"), "--adapter-base", self.base("plain"), "--experts", 4,
                   "-o", self.folder / "no.h5")


if __name__ == "__main__":
    harness.main()

#!/usr/bin/env python3
"""merge as a command: what each part of the new model is made of, and what is refused."""

import json
import unittest

import harness
from harness import ROOT, snapshot

FIXTURES = ROOT / "tests/parity/fixtures"


class Merge(harness.Case):
    """Three dense models that have learned apart from each other."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        case = cls("prepare")
        case.setUp()
        case.prepare()
        cls.models = []
        for name in "abc":
            (case.folder / name).rename(cls.home / name)
            cls.models.append(cls.home / name)
        case.tearDown()

    def prepare(self):
        for i, name in enumerate("abc"):
            cfg = self.config(moe={"experts": 0}, run={"seed": 1}, train={"steps": 10 + i, "checkpoint_every": 0},
                              optim={"lr": 0.01 * (1 + i)})
            self.train(cfg, name)

    def merge(self, out, *args, sources=None, ranks=0):
        named = [x for s in sources or self.models for x in ("--source", s)]
        return self.succeeds("merge", *args, *named, "-o", self.folder / out, ranks=ranks).stdout

    def refused(self, words, *args, status=2):
        before = snapshot(self.home)
        self.fails(status, words, "merge", *args, "-o", self.folder / "out.h5")
        self.assertEqual(snapshot(self.home), before)
        self.assertEqual([p.name for p in self.folder.iterdir() if "out" in p.name], [])

    def loss(self, path):
        job = self.succeeds("eval", path, "--data", self.home / "held_out", "--json")
        return json.loads(job.stdout)["sets"][0]["loss"]

    def values_that_differ(self, a, b):
        job = self.job("diff", a, b)
        self.assertIn(job.status, (0, 1), job.text())
        return [line for line in job.stdout.splitlines() if "/model/" in line]

    def test_mix_is_written_alike_by_any_ranks_and_can_be_trained(self):
        text = self.merge("one.h5", "--method", "btx", "--experts-per-source", 2)
        self.assertIn("experts 0, 3 of every MoE layer", text)
        self.assertIn("everything else: the mean of 3 models", text)
        for ranks in (2, 3, 4):
            self.merge(f"{ranks}.h5", "--method", "btx", "--experts-per-source", 2, ranks=ranks)
            self.assertEqual(self.values_that_differ(self.folder / "one.h5", self.folder / f"{ranks}.h5"), [])
        self.succeeds("verify", self.folder / "one.h5")
        cfg = self.config(moe={"experts": 6}, parallel={"ep": 2}, train={"steps": 10, "checkpoint_every": 0})
        self.train(cfg, "run", "--init-from", self.folder / "one.h5", ranks=2)
        self.assertLess(self.losses("run")[-1], self.losses("run")[0])

    def test_equal_sources_give_the_source(self):
        a = self.models[0]
        self.merge("average.h5", "--method", "average", sources=[a, a, a, a])
        self.assertEqual(self.values_that_differ(a, self.folder / "average.h5"), [])
        self.merge("mix.h5", "--method", "btx", sources=[a, a, a])
        self.assertAlmostEqual(self.loss(self.folder / "mix.h5"), self.loss(a), delta=1e-5)

    def test_seed_model_gives_what_is_no_expert(self):
        a, b, c = self.models
        text = self.merge("mix.h5", "--method", "btx", "--seed-model", c, sources=[a, b])
        self.assertIn(f"everything else: {c}", text)
        found = self.values_that_differ(c, self.folder / "mix.h5")
        self.assertTrue(found and all("/mlp/" in line or "/moe/" in line for line in found), found)

    def test_seed_model_can_be_always_on_and_weights_equal(self):
        a, b, c = self.models
        self.merge("one.h5", "--method", "btx", "--seed-model", a, "--always-on", "--equal", sources=[a, a, a])
        self.assertAlmostEqual(self.loss(self.folder / "one.h5"), self.loss(a), delta=1e-5)
        self.merge("mix.h5", "--method", "btx", "--seed-model", c, "--always-on", "--equal", sources=[a, b], ranks=2)
        info = json.loads(self.succeeds("inspect", self.folder / "mix.h5", "--json").stdout)
        for line in ("experts: 2", "top_k: 2", "shared_experts: 1", "shared_hidden: 48"):
            self.assertRegex(info["config"], rf"(?m)^  {line}$")
        self.succeeds("verify", self.folder / "mix.h5")
        cfg = self.config(moe={"experts": 2, "shared_experts": 1}, train={"steps": 2, "freeze": ["layers/*/moe/router"]})
        self.train(cfg, "run", "--init-from", self.folder / "mix.h5")
        differ = self.values_that_differ(self.folder / "mix.h5", self.folder / "run")
        self.assertTrue(differ and not any("moe/router" in line for line in differ), differ)

    def test_vocabulary_grows(self):
        self.merge("mean.h5", "--method", "average", "--set", "model.vocab_size=260")
        self.merge("mix.h5", "--method", "btx", "--set", "model.vocab_size=260", ranks=2)
        for name in ("mean.h5", "mix.h5"):
            self.succeeds("verify", self.folder / name)
            self.loss(self.folder / name)

    def test_hugging_face_folders_are_sources(self):
        out = self.merge("mix.h5", "--method", "btx", sources=[FIXTURES / "llama", FIXTURES / "llama"], ranks=2)
        self.assertIn("experts 1 of every MoE layer", out)
        self.succeeds("export", self.folder / "mix.h5", "-o", self.folder / "hf", "--architecture", "MixtralForCausalLM")

    def test_what_cannot_be_merged_is_refused(self):
        a, b, c = self.models
        two = ["--source", a, "--source", b]
        other = self.config("other.yaml", moe={"experts": 0}, model={"ffn_hidden": 40}, train={"steps": 1})
        self.train(other, "other")
        moe = self.config("moe.yaml", train={"steps": 1})
        self.train(moe, "moe")
        self.refused(["ffn_hidden", "48 -> 40"], "--method", "btx", *two, "--source", self.folder / "other")
        for key, value in (("vocab_size", 300), ("attention_bias", True)):
            other = self.config(f"{key}.yaml", moe={"experts": 0}, model={key: value}, train={"steps": 1})
            self.train(other, key)
            self.refused([f"model.{key}", "not models of one kind"], "--method", "btx", *two, "--source",
                         self.folder / key)
        self.refused(["MoE of 4 experts", "dense"], "--method", "btx", "--source", self.folder / "moe", "--source", a)
        self.refused("model", "--method", "average", "--source", FIXTURES / "llama", "--source", a)
        self.refused("twice", "--method", "btx", "--source", a)
        self.refused("--method", *two)
        self.refused("did you mean 'btx'", "--method", "bts", *two)
        self.refused(["--top-k", "btx"], "--method", "average", "--top-k", 2, *two)
        self.refused("top_k 5", "--method", "btx", "--top-k", 5, *two)
        self.refused(["--equal", "--top-k"], "--method", "btx", "--equal", "--top-k", 2, *two)
        self.refused(["--equal", "--router-init-std"], "--method", "btx", "--equal", "--router-init-std", 1, *two)
        self.refused("--seed-model", "--method", "btx", "--always-on", *two)
        self.refused(["--equal", "btx"], "--method", "average", "--equal", *two)
        self.refused("smaller", "--method", "average", *two, "--set", "model.vocab_size=200", "--set",
                     "data.tokenizer=none")
        self.refused(["moe.experts 4", "2 sources", "--experts-per-source"], "--method", "btx", *two, "--set",
                     "moe.experts=4")
        self.refused("moe.experts 5", "--method", "btx", *two, "--set", "moe.experts=5")
        self.refused(["moe.top_k 2", "all 3"], "--method", "btx", "--equal", *two, "--source", c, "--set", "moe.top_k=2")
        self.refused("experts/down", "--method", "btx", *two, "--set", "moe.expert_hidden=24")
        self.refused("no layer 7", "--method", "btx", "--layers", "7", *two)
        self.refused("nowhere", "--method", "btx", *two, "--source", self.folder / "nowhere")
        bad = self.folder / "bad.h5"
        self.merge("mean.h5", "--method", "average")  # nothing but the model
        raw = bytearray((self.folder / "mean.h5").read_bytes())
        raw[len(raw) // 2] ^= 4
        bad.write_bytes(raw)
        self.refused("bad.h5", "--method", "btx", *two, "--source", bad, status=3)


if __name__ == "__main__":
    harness.main()

#!/usr/bin/env python3
"""Ensembles: merge writes them, eval mixes the members' predictions by Bayes' rule, everything else refuses them.
And the names that a mixture's experts carry into evaluation and reports."""

import json
import math
import unittest

import harness
from harness import ROOT, snapshot, write_tokens


class Ensemble(harness.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        case = cls("prepare")
        case.setUp()
        case.prepare()
        case.tearDown()

    def prepare(self):
        """Two models that have seen different texts."""
        code = (ROOT / "parallel/mesh.c").read_bytes()
        write_tokens(self.home / "code", [code[:8000]])
        for name, data, seed in (("prose", "text", 1), ("code", "code", 2)):
            cfg = self.config(moe={"experts": 0}, run={"seed": seed, "name": name}, optim={"lr": 0.02},
                              data={"train": [{"path": str(self.home / data)}]},
                              train={"steps": 12, "checkpoint_every": 0, "micro_batch": 2})
            self.train(cfg, name)
            (self.folder / name).rename(self.home / name)

    def merge(self, out, *args, sources=("prose", "code"), method="ensemble", ranks=0):
        named = [x for s in sources for x in ("--source", self.home / s)]
        return self.succeeds("merge", "--method", method, *args, *named, "-o", self.folder / out, ranks=ranks).stdout

    def eval(self, path, *data, ranks=0, **keys):
        sets = [x for k, v in keys.items() for x in ("--set", f"{k.replace('__', '.')}={v}")]
        return json.loads(self.succeeds("eval", path, "--data", *data, "--json", *sets, ranks=ranks).stdout)["sets"]

    def test_weights_follow_bayes_rule_token_by_token(self):
        prior = [0.2, 0.8]
        self.merge("e.h5", "--prior", "1,4")
        text = (ROOT / "data/samples/prose.txt").read_bytes()[70000:70012] + b"return st;\n}"
        for masked in (False, True):
            with self.subTest(masked=masked):
                # sequences of 8; what a member says of target k is what the k-th target adds to its sum
                ends = range(2, len(text) + 1)
                cut = lambda n: [text[:12][:n]] + ([text[12:n]] if n > 12 else [])
                files = [write_tokens(self.folder / f"{n}_{masked}", cut(n)) for n in ends]
                how = {"model__seq_len": 8, "data__mask_documents": str(masked).lower()}
                nll, counts = [], []
                for name in ("prose", "code"):
                    sums = [(s["loss"] * s["tokens"], s["tokens"]) for s in self.eval(self.home / name, *files, **how)]
                    sums = [(0, 0)] + sums
                    nll.append([b[0] - a[0] for a, b in zip(sums, sums[1:])])
                    counts = [b[1] - a[1] for a, b in zip(sums, sums[1:])]
                total, mean, w = 0, [0, 0], prior
                for t, (a, b) in enumerate(zip(*nll)):
                    if t % 8 == 0 or (masked and t == 12):
                        w = prior
                    if counts[t]:
                        p = [math.exp(-a), math.exp(-b)]
                        mixed = w[0] * p[0] + w[1] * p[1]
                        total -= math.log(mixed)
                        mean = [m + x for m, x in zip(mean, w)]
                        w = [w[0] * p[0] / mixed, w[1] * p[1] / mixed]
                n = sum(counts)
                found = self.eval(self.folder / "e.h5", files[-1], **how)[0]
                self.assertEqual(found["tokens"], n)
                self.assertAlmostEqual(found["loss"], total / n, delta=2e-5)
                for j in (0, 1):
                    self.assertAlmostEqual(found["members"][j]["weight"], mean[j] / n, delta=2e-5)
                    self.assertAlmostEqual(found["members"][j]["loss"], sum(nll[j]) / n, delta=2e-5)

    def test_equal_members_are_the_member_and_ranks_change_nothing(self):
        data = self.home / "held_out"
        self.merge("same.h5", "--prior", "3,1,1", sources=["prose"] * 3)
        found, plain = self.eval(self.folder / "same.h5", data)[0], self.eval(self.home / "prose", data)[0]
        self.assertAlmostEqual(found["loss"], plain["loss"], delta=1e-12)
        self.assertAlmostEqual(sum(m["weight"] for m in found["members"]), 1, delta=1e-12)
        self.assertAlmostEqual(found["members"][0]["weight"], 0.6, delta=1e-12)
        self.merge("one.h5")
        self.merge("three.h5", ranks=3)
        self.succeeds("diff", self.folder / "one.h5", self.folder / "three.h5")
        one = self.eval(self.folder / "one.h5", data)[0]
        three = self.eval(self.folder / "one.h5", data, ranks=3)[0]
        self.assertEqual(one["tokens"], three["tokens"])
        self.assertAlmostEqual(one["loss"], three["loss"], delta=1e-6)
        self.assertLess(one["loss"], max(m["loss"] for m in one["members"]))

    def test_file_is_verified_described_and_compared(self):
        text = self.merge("e.h5")
        self.assertIn("member 1, prior 0.5", text)
        path = self.folder / "e.h5"
        self.assertIn("whole: ensemble", self.succeeds("verify", path).stdout)
        about = json.loads(self.succeeds("inspect", path, "--json").stdout)
        one = json.loads(self.succeeds("inspect", self.home / "prose", "--json").stdout)
        names = {p["path"] for p in one["params"]}
        self.assertEqual(about["kind"], "ensemble")
        self.assertEqual({p["path"] for p in about["params"]}, {f"/members/{j}{n}" for j in (0, 1) for n in names})
        self.merge("turned.h5", sources=["code", "prose"])
        job = self.job("diff", path, self.folder / "turned.h5")
        self.assertEqual(job.status, 1)
        self.assertIn("/members/1/model/head", job.stdout)
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        (self.folder / "bad.h5").write_bytes(raw)
        self.fails(3, ["bad.h5", "/members/"], "verify", self.folder / "bad.h5")

    def test_experts_may_be_in_the_members_of_one_kind_alone(self):
        for name, k in (("a", 2), ("b", 2), ("c", 1)):
            cfg = self.config(f"{name}.yaml", moe={"top_k": k}, run={"seed": len(name)}, train={"steps": 2})
            self.train(cfg, name)
            (self.folder / name).rename(self.home / name)
        self.merge("e.h5", sources=["a", "b"])
        data = self.home / "held_out"
        one = self.eval(self.folder / "e.h5", data)[0]
        four = self.eval(self.folder / "e.h5", data, ranks=2, parallel__ep=2)[0]
        self.assertAlmostEqual(one["loss"], four["loss"], delta=1e-6)
        before = snapshot(self.folder)
        self.fails(2, ["top_k", "one kind"], "merge", "--method", "ensemble", "--source", self.home / "a", "--source",
                   self.home / "c", "-o", self.folder / "out.h5")
        self.assertEqual(snapshot(self.folder), before)

    def test_what_needs_one_model_refuses_it(self):
        self.merge("e.h5")
        path, words = self.folder / "e.h5", ["e.h5", "ensemble", "eval"]
        cfg = self.config(moe={"experts": 0})
        self.fails(2, words, "generate", path, "--prompt", "x")
        self.fails(2, words, "export", path, "-o", self.folder / "hf", ranks=2)
        self.fails(2, words, "upcycle", path, "-o", self.folder / "up.h5", "--experts", 4)
        self.fails(2, words, "merge", "--method", "average", "--source", path, "--source", path, "-o", self.folder / "m.h5")
        self.fails(2, words, "train", cfg, "--run-dir", self.folder / "run", "--init-from", path, ranks=2)

    def test_wrong_use_is_refused(self):
        two = ["--source", self.home / "prose", "--source", self.home / "code", "-o", self.folder / "out.h5"]
        for prior in ("1", "1,2,3", "1,-2", "1,0", "1,x", "1,", "nan,1", "1e308,1e308"):
            self.fails(2, "--prior", "merge", "--method", "ensemble", "--prior", prior, *two)
        self.fails(2, ["--prior", "ensemble"], "merge", "--method", "average", "--prior", "1,1", *two)
        self.fails(2, ["--top-k", "btx"], "merge", "--method", "ensemble", "--top-k", 2, *two)
        self.fails(2, "shape", "merge", "--method", "ensemble", *two, "--set", "model.ffn_hidden=40")
        self.assertFalse((self.folder / "out.h5").exists())

    def test_names_travel_from_sources_to_evaluation_and_report(self):
        self.merge("m.h5", "--experts-per-source", 2, sources=["prose", "code", "prose"], method="btx")
        found = self.eval(self.folder / "m.h5", self.home / "held_out")[0]["routed"]
        self.assertEqual([g["label"] for g in found], ["prose", "code", "prose-2"])
        bare = self.eval(self.folder / "m.h5", self.home / "held_out", moe__expert_labels="null")[0]["routed"]
        self.assertEqual([g["label"] for g in bare], [str(e) for e in range(6)])
        for g in range(3):  # expert e belongs to label e mod 3
            self.assertAlmostEqual(found[g]["share"], bare[g]["share"] + bare[g + 3]["share"], delta=1e-12)
            for a, b, c in zip(found[g]["layers"], bare[g]["layers"], bare[g + 3]["layers"], strict=True):
                self.assertAlmostEqual(a, b + c, delta=1e-12)
        self.assertAlmostEqual(sum(g["share"] for g in found), 1, delta=1e-12)

        held_out = str(self.home / "held_out")
        cfg = self.config(moe={"experts": 6, "expert_labels": ["prose", "code", "p<2"]}, train={"steps": 2})
        self.fails(2, "expert_labels", "train", cfg, "--run-dir", self.folder / "run")
        cfg = self.config(moe={"experts": 6, "expert_labels": ["prose", "code", "prose-2"]}, parallel={"ep": 2},
                          data={"valid": [{"name": "held", "path": held_out}]},
                          train={"steps": 4, "eval_every": 2, "checkpoint_every": 0})
        self.train(cfg, "run", "--init-from", self.folder / "m.h5", ranks=2)
        last = self.metrics("run")[-1]
        after = self.eval(self.folder / "run", held_out, ranks=2)[0]["routed"]
        for g in after:
            self.assertAlmostEqual(float(last[f"valid/held/routed/{g['label']}"]), g["share"], delta=1e-12)
            for i, share in enumerate(g["layers"]):
                self.assertAlmostEqual(float(last[f"valid/held/layer_{i}/routed/{g['label']}"]), share, delta=1e-12)
        page = (self.folder / "run/report.html").read_text()
        self.assertEqual(harness.Page(page).faults, [])
        for words in ("Which text goes to which experts", "held goes to", f"{100 * after[0]['share']:.1f} %"):
            self.assertIn(words, page)
        self.fails(2, "not a multiple of 4 labels", "train", cfg, "--set", "moe.expert_labels=[a, b, c, d]")
        self.fails(2, "twice", "train", cfg, "--set", "moe.expert_labels=[a, b, a]")


if __name__ == "__main__":
    harness.main()

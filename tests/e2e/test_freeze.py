#!/usr/bin/env python3
"""train.freeze: what is named stays bit for bit, the rest trains, at any layout and through a resume."""

import json
import unittest

import harness

ATTENTION = ["layers/*/attn*", "layers/*/ffn_norm", "norm"]
ONLY_THE_ROUTER = ["embed", "head", "layers/*/moe/experts/*", *ATTENTION]
ROUTER_AND_EMBEDDINGS = ["layers/*/moe/experts/*", *ATTENTION]
ALL_BUT_THE_EXPERTS = ["layers/*/moe/experts/*"]


class Freeze(harness.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        case = cls("prepare")
        case.setUp()
        case.prepare()
        case.tearDown()

    def prepare(self):
        """A mixture of two models, as after Branch-Train."""
        for i, name in enumerate("ab"):
            cfg = self.config(moe={"experts": 0}, optim={"lr": 0.01 + 0.01 * i}, train={"steps": 4, "checkpoint_every": 0})
            self.train(cfg, name)
        self.succeeds("merge", "--method", "btx", "--source", self.folder / "a", "--source", self.folder / "b",
                      "--experts-per-source", 2, "-o", self.home / "mix.h5")
        about = json.loads(self.succeeds("inspect", self.home / "mix.h5", "--json").stdout)
        type(self).params = {p["path"] for p in about["params"]}

    def changed(self, run):
        """Tensors of the model that differ from the merged one, and those that the optimizer keeps moments of."""
        lines = self.job("diff", self.home / "mix.h5", self.folder / run).stdout.splitlines()
        moved = {line.split()[1].rstrip(":") for line in lines if line.startswith("values")}
        kept = {line.split()[-1].replace("/optim/exp_avg/", "/model/") for line in lines
                if line.startswith("only in B") and "/optim/exp_avg/" in line}
        return moved, kept

    def check(self, freeze, trained, ranks, **parallel):
        cfg = self.config(train={"freeze": freeze, "steps": 4, "checkpoint_every": 2}, parallel=parallel)
        self.train(cfg, "run", "--init-from", self.home / "mix.h5", ranks=ranks)
        wanted = {p for p in self.params if trained(p)}
        self.assertTrue(wanted and wanted != self.params)
        self.assertEqual(self.changed("run"), (wanted, wanted))
        self.assertIn("whole: training", self.succeeds("verify", self.folder / "run").stdout)
        rates = [float(r["train/lr"]) for r in self.metrics("run")]
        self.assertEqual(rates[:2], [0.005, 0.01])  # warmed up anew

        self.rewind("run", "again", 2)
        self.train(cfg, "again", "--resume", ranks=ranks)
        self.same_records("again", "run")
        self.assertEqual(self.changed("again"), (wanted, wanted))

    def test_only_the_router_trains(self):
        self.check(ONLY_THE_ROUTER, lambda p: p.endswith("/router"), 2, ep=2, zero=1)

    def test_router_and_embeddings_train(self):
        self.check(ROUTER_AND_EMBEDDINGS, lambda p: p.endswith(("/router", "/embed", "/head")), 4, ep=2, zero=1)

    def test_all_but_the_experts_train(self):
        self.check(ALL_BUT_THE_EXPERTS, lambda p: "/experts/" not in p, 2, ep=1, zero=1)

    def test_all_but_the_experts_train_alike_without_zero(self):
        self.check(ALL_BUT_THE_EXPERTS, lambda p: "/experts/" not in p, 0, zero=0)


class Rewarm(harness.Case):
    def test_learning_rate_starts_anew_after_init_from(self):
        first = self.config("first.yaml", train={"steps": 6, "checkpoint_every": 0}, optim={"warmup_steps": 1, "decay_steps": 6})
        self.train(first, "first")
        cfg = self.config(optim={"lr": 0.004, "warmup_steps": 4, "schedule": "constant"}, train={"steps": 6})
        self.train(cfg, "second", "--init-from", self.folder / "first")
        records = self.metrics("second")
        for s, r in enumerate(records, 1):
            self.assertEqual(r["step"], s)
            self.assertAlmostEqual(float(r["train/lr"]), 0.004 * min(s / 4, 1), delta=1e-15)
        self.assertEqual(records[0]["tokens"], 4 * 32)


if __name__ == "__main__":
    harness.main()

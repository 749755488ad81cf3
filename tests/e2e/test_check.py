#!/usr/bin/env python3
"""check layout and check gradients as commands: what they compare, what they print, what they refuse."""

import json
import re

import harness

SMALL = {"hidden": 16, "ffn_hidden": 24, "seq_len": 16}


class CheckLayout(harness.Case):
    def rows(self, text):
        return [line for line in text.splitlines() if re.match(r"\d+:\d+:\d", line)]

    def labels(self, text):
        return [row.split()[0] for row in self.rows(text)]

    def test_layouts_of_the_job_agree(self):
        config = self.config(train={"global_batch": 5}, moe={"capacity_factor": 1.0}, model=SMALL)
        job = self.succeeds("check", "layout", config, "--steps", 2, ranks=4)
        self.assertEqual(self.labels(job.stdout), [
            "1:1:0", "2:1:0", "2:1:1", "2:2:0", "2:2:1", "3:1:0", "3:1:1", "4:1:0", "4:1:1", "4:2:0", "4:2:1", "4:4:0", "4:4:1",
            "4:4:2", "4:4:1:passes", "4:4:1:padded", "4:4:1:recompute=moe", "4:4:1:recompute=block"])
        self.assertIn("on ref in f64", job.stdout)
        self.assertIn("held fixed by definition: the micro-batch, in which capacity is counted", job.stdout)
        self.assertNotIn("!", job.stdout)
        self.assertLessEqual(max(map(len, job.stdout.splitlines())), 120)
        self.assertIn("18 layouts, 2 steps each", job.stderr)
        self.assertIn("step 36/36", job.stderr)

    def test_accumulation_is_among_the_layouts_where_the_loss_allows_it(self):
        text = self.succeeds("check", "layout", self.config(train={"micro_batch": 2}, model=SMALL), "--steps", 1, ranks=2).stdout
        self.assertIn("held fixed by definition: nothing", text)
        self.assertIn("2:2:1:mb1", self.labels(text))
        self.assertIn("2:2:1:mb4", self.labels(text))

    def test_global_balance_holds_the_rounds(self):
        config = self.config(moe={"aux_loss_scope": "global_batch"}, model=SMALL)
        text = self.succeeds("check", "layout", config, "--steps", 1, ranks=2).stdout
        self.assertEqual(self.labels(text)[:5], ["2:1:0", "2:1:1", "2:2:0", "2:2:1", "1:1:0:mb2"])
        self.assertNotIn("skipped", text)
        text = self.succeeds("check", "layout", config, "--steps", 1, "--layouts", "2:1,1:1,2:2", ranks=2).stdout
        self.assertEqual(["skipped" in row for row in self.rows(text)], [False, True, False])

    def test_global_capacity_holds_the_rounds(self):
        config = self.config(moe={"capacity_factor": 0.6, "capacity_scope": "global", "min_capacity": 1}, model=SMALL)
        text = self.succeeds("check", "layout", config, "--steps", 1, "--layouts", "2:2,1:1:mb2,1:1", ranks=2).stdout
        self.assertIn("held fixed by definition: the sequences of each round", text)
        self.assertEqual(["skipped" in row for row in self.rows(text)], [False, False, True])

    def test_backend_and_layouts_are_the_users(self):
        text = self.succeeds("check", "layout", self.config(), "--backend", "cpu", "--steps", 6, "--layouts",
                             "1:1:0,2:2:1,2:1,2:2:0:mb2:passes", ranks=2).stdout
        self.assertEqual(self.labels(text), ["1:1:0", "2:2:1", "2:1:1", "2:2:0:mb2:passes"])
        self.assertIn("on cpu in f32", text)
        self.assertIn("first 5 steps", text)

    def test_json_has_each_figure_and_its_place(self):
        config = self.config(train={"global_batch": 6, "micro_batch": 2}, model=SMALL)
        job = self.succeeds("check", "layout", config, "--steps", 2, "--layouts", "1:1,3:1,2:2", "--json", ranks=3)
        result = json.loads(job.stdout)
        self.assertEqual((result["check"], result["backend"], result["steps"]), ("layout", "ref", 2))
        self.assertEqual([r["layout"] for r in result["layouts"]], ["1:1:1", "3:1:1", "2:2:1"])
        self.assertEqual([r["passes"] for r in result["layouts"]], [True] * 3)
        for row in result["layouts"][1:]:
            for figure, bound in result["bounds"].items():
                self.assertLessEqual(row["worst"][figure]["value"], bound)
            self.assertIn(row["worst"]["aux"]["layer"], (0, 1))
            self.assertRegex(row["worst"]["gradient"]["param"], r"^(embed|norm|head|layers/00[01]/)")

    def test_deviation_is_exit_1_and_named(self):
        # Steps of this size turn rounding of fp32 into other models: the layouts part ways within five steps.
        config = self.config(optim={"lr": 30.0, "warmup_steps": 0, "clip_norm": 0}, train={"global_batch": 7}, model=SMALL)
        job = self.fails(1, ["check layout: ", " in layout 3:1:1 deviates from layout 1:1:0 by ", "allowed is"],
                         "check", "layout", config, "--backend", "cpu", "--layouts", "1:1:0,3:1:1", ranks=3)
        self.assertIn("!", job.stdout)

    def test_what_cannot_be_checked_is_refused(self):
        config, dense = self.config(), self.config("dense.yaml", moe={"experts": 0})
        self.fails(2, "nothing to compare", "check", "layout", config, "--layouts", "1:1")
        self.fails(2, "did you mean 'layout'", "check", "lay", config)
        self.fails(2, "a configuration is missing", "check", "layout")
        self.fails(2, ["layout 3:1:1 has 3 ranks, this job has 2", "mpirun -n 3"], "check", "layout", config, "--layouts",
                   "1:1,3:1", ranks=2)
        self.fails(2, "ep 3 does not divide 3 ranks and 4 experts", "check", "layout", config, "--layouts", "3:3", ranks=3)
        for text in ("1x1", "1:1,", "1:1:3", "1:1:mb0", "1:1:sideways", "1", "1:1:0:0", "9999999999:1"):
            self.fails(2, "is not a layout: write RANKS:EP", "check", "layout", config, "--layouts", text)
        self.fails(2, "the model is dense", "check", "layout", dense, "--layouts", "2:2", ranks=2)
        self.fails(2, "'passes' is about experts", "check", "layout", dense, "--layouts", "1:1:0:passes")
        self.fails(2, "'padded' needs moe.capacity_factor", "check", "layout", config, "--layouts", "1:1:0:padded")
        self.fails(2, "train.global_batch is only 4", "check", "layout", config, "--layouts", "1:1:mb8")
        capacity = self.config("capacity.yaml", moe={"capacity_factor": 1.0})
        self.fails(2, "another micro-batch than 1 is another loss here", "check", "layout", capacity, "--layouts", "1:1:mb2")
        whole = self.config("whole.yaml", moe={"router": "base", "top_k": 1, "aux_loss_coeff": 0, "z_loss_coeff": 0})
        self.fails(2, "because moe.router decides over it", "check", "layout", whole, "--layouts", "1:1:mb2")
        self.fails(2, "no option --samples", "check", "layout", config, "--samples", 2)
        self.fails(2, ["unknown key 'moe.topk'", "moe.top_k"], "check", "layout", config, "--set", "moe.topk=1")
        self.fails(2, "nowhere", "check", "layout", self.config("lost.yaml", data={"train": [{"path": "nowhere/x"}]}))

    def test_dense_model_has_layouts_too(self):
        config = self.config(moe={"experts": 0}, model=SMALL)
        text = self.succeeds("check", "layout", config, "--steps", 1, ranks=2).stdout
        self.assertEqual(self.labels(text), ["1:1:0", "2:1:0", "2:1:1", "2:1:2", "2:1:1:mb2", "2:1:1:recompute=block"])


class CheckGradients(harness.Case):
    def test_gradients_are_those_of_the_loss(self):
        config = self.config(moe={"capacity_factor": 1.0, "shared_experts": 1}, parallel={"ep": 4}, model=SMALL)
        for ranks in (0, 3, 2):
            job = self.succeeds("check", "gradients", config, "--samples", 2, ranks=ranks)
            self.assertIn(f"ep {2 if ranks == 2 else 1}, loss", job.stdout)  # what divides the job and the configuration
            for kind in ("embed", "layers/_/attn/q", "layers/_/moe/router", "layers/_/moe/experts/down",
                         "layers/_/moe/shared/up", "head"):
                self.assertRegex(job.stdout, rf"(?m)^{kind} +\d+ +\d+ +\d+  \d\.\de-\d\d {kind.replace('_', '00[01]')}")
            self.assertNotIn("!", job.stdout)
            self.assertRegex(job.stderr, r"\d+ coordinates of \d+ tensors, 2 to 6 evaluations each")
            self.assertLessEqual(max(map(len, job.stdout.splitlines())), 120)

    def test_batch_is_as_asked_and_json_says_so(self):
        job = self.succeeds("check", "gradients", self.config(model=SMALL), "--samples", 1, "--sequences", 3, "--seq-len", 5,
                            "--json")
        result = json.loads(job.stdout)
        self.assertEqual((result["sequences"], result["seq_len"], result["against"]), (3, 5, "differences"))
        router = next(p for p in result["parameters"] if p["kind"] == "layers/_/moe/router")
        self.assertEqual((router["tensors"], router["checked"] + router["flipped"]), (2, 2 * (4 + 1)))  # rows, and the largest
        for p in result["parameters"]:
            self.assertLessEqual(p["worst"], result["bound"])
            self.assertTrue(p["passes"])

    def test_backend_is_compared_with_ref(self):
        for precision, dtype, bound in (("fp32", "f32", 1e-4), ("bf16", "bf16", 1e-1)):
            job = self.succeeds("check", "gradients", self.config(model=SMALL), "--backend", "cpu", "--set",
                                f"device.precision={precision}", "--json", ranks=2)
            result = json.loads(job.stdout)
            self.assertEqual((result["against"], result["dtype"], result["bound"]), ("ref", dtype, bound))
            experts = next(p for p in result["parameters"] if p["kind"] == "layers/_/moe/experts/gate")
            self.assertEqual((experts["tensors"], experts["checked"]), (2, 8))
            self.assertGreater(experts["worst"], 0)

    def test_what_cannot_be_checked_is_refused(self):
        config = self.config()
        self.fails(2, "a configuration is missing", "check", "gradients", ranks=2)
        self.fails(2, "no option --layouts", "check", "gradients", config, "--layouts", "1:1")
        self.fails(2, "--samples", "check", "gradients", config, "--samples", 0)
        self.fails(2, "nothing to check", "check", "gradients", config, "--set", "train.freeze=['*']", ranks=2)
        self.fails(2, ["unknown key 'moe.topk'", "moe.top_k"], "check", "gradients", config, "--set", "moe.topk=1", ranks=2)
        self.fails(2, "grin learns by an estimate", "check", "gradients", config, "--set", "moe.router=grin")
        self.fails(2, "nowhere", "check", "gradients", self.config("lost.yaml", data={"train": [{"path": "nowhere/x"}]}))
        self.fails(2, "data.train", "check", "gradients", self.config("none.yaml", data={"train": harness.UNSET}))


if __name__ == "__main__":
    harness.main()

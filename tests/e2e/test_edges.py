#!/usr/bin/env python3
"""The awkward shapes (ranks and experts without tokens, everything on one expert), the check backend, and steps whose
gradient is not finite."""

import json

import harness


class Awkward(harness.LayoutCase):
    def test_ranks_without_tokens_train_on(self):
        sections = {"train": {"global_batch": 1, "steps": 6}, "device": {"backend": "ref"}}
        one = self.losses_at(0, 1, **sections)
        for ranks, ep in ((4, 4), (4, 2), (3, 1)):
            more = self.losses_at(ranks, ep, **sections)
            self.near(self.numbers(more, "train/loss"), self.numbers(one, "train/loss"), 1e-9)

    def test_experts_without_tokens_train_on(self):
        sections = {"moe": {"experts": 64, "top_k": 1}, "train": {"global_batch": 1, "steps": 6},
                    "model": {"seq_len": 8}, "device": {"backend": "ref"}}
        one, two = self.losses_at(0, 1, **sections), self.losses_at(2, 2, **sections)
        self.near(self.numbers(two, "train/loss"), self.numbers(one, "train/loss"), 1e-9)
        self.assertTrue(any(float(x) == 0 for x in one[0]["moe/layer_0/load"]))

    def test_all_tokens_to_one_expert_train_on(self):
        # no balance loss and a high rate: the router collapses; one rank receives all rows, in many passes
        sections = {"moe": {"experts": 4, "top_k": 1, "aux_loss_coeff": 0, "z_loss_coeff": 0, "recv_factor": 0.1},
                    "optim": {"lr": 0.5, "clip_norm": 0}, "train": {"steps": 25}}
        for ranks, ep in ((0, 1), (4, 4)):
            records = self.losses_at(ranks, ep, **sections)
            worst = max(max(map(float, r["moe/layer_0/load"])) for r in records)
            self.assertGreater(worst, 0.9 * 4 * 32)

    def test_force_balance_is_labelled_and_balanced(self):
        moe = {"force_balance": True, "capacity_factor": 2.0, "drop_policy": "batch_priority"}
        job = self.train(self.config(moe=moe, parallel={"ep": 2}), "run", ranks=2)
        self.assertIn("moe.force_balance", job.stderr)
        self.assertEqual(job.stderr.count("a later token that scores higher takes an earlier one's row"), 1)
        for r in self.metrics("run"):
            self.assertLess(float(r["moe/layer_0/load_max_over_mean"]), 1.05)

    def test_uneven_micro_batches_agree(self):
        sections = {"train": {"global_batch": 7, "micro_batch": 3, "steps": 5}, "device": {"backend": "ref"}}
        one, two = self.losses_at(0, 1, **sections), self.losses_at(2, 2, **sections)
        self.near(self.numbers(two, "train/loss"), self.numbers(one, "train/loss"), 1e-9)

    def test_threads_give_the_same_bits(self):
        config = self.config(model={"hidden": 64, "seq_len": 64})
        for threads in (1, 3):
            self.train(config, f"threads{threads}", "--set", f"device.threads={threads}")
        self.same_records("threads3", "threads1")


class Check(harness.Case):
    def test_check_backend_gives_the_same_bits_as_cpu(self):
        for ranks, ep in ((1, 1), (2, 2)):
            for moe in ({}, {"capacity_factor": 1.0, "pad_to_capacity": True, "shared_experts": 1}):
                for backend in ("cpu", "cpu_check"):
                    config = self.config(moe=moe, parallel={"ep": ep, "zero": 2 if moe else 1}, device={"backend": backend},
                                         train={"recompute": "moe", "steps": 4, "eval_every": 2, "digest_every": 1},
                                         data={"valid": [{"name": "held_out", "path": str(self.home / "held_out")}]})
                    self.train(config, f"{backend}{ranks}{len(moe)}", ranks=ranks)
                self.same_records(f"cpu_check{ranks}{len(moe)}", f"cpu{ranks}{len(moe)}")

    def test_check_backend_resumes_evaluates_and_generates(self):
        config = self.config(device={"backend": "cpu_check"}, parallel={"ep": 2})
        self.train(config, "run", ranks=2)
        self.rewind("run", "again", 3)
        self.train(config, "again", "--resume", ranks=2)
        self.same_records("again", "run")
        losses, texts = [], []
        for backend in ("cpu", "cpu_check"):
            on = ["--set", f"device.backend={backend}"]
            job = self.succeeds("eval", self.folder / "run", "--data", self.home / "held_out", "--json", *on)
            losses.append(json.loads(job.stdout)["sets"][0]["loss"])
            texts.append(self.succeeds("generate", self.folder / "run", "--prompt", "The ", "--max-tokens", "9", *on).stdout)
        self.assertEqual(losses[0], losses[1])
        self.assertEqual(texts[0], texts[1])


class Nonfinite(harness.Case):
    FAULT = "train.nonfinite:3:nan"

    def test_skipped_step_leaves_parameters_and_moments_as_they_are(self):
        for ranks, ep in ((0, 1), (2, 2)):
            run = f"run{ranks}"
            config = self.config(train={"checkpoint_every": 1, "steps": 5}, parallel={"ep": ep})
            job = self.succeeds("train", config, "--run-dir", self.folder / run, ranks=ranks, fault=self.FAULT)
            self.assertIn("step 3 skipped", job.stderr)
            self.assertEqual([r["train/skipped_steps"] for r in self.metrics(run)], [0, 0, 1, 1, 1])
            self.assertLess(self.words_changed(run, 2, 3), 300)  # counters, attributes, checksums
            self.assertGreater(self.words_changed(run, 3, 4), 20000)

    def words_changed(self, run, a, b):
        files = [(self.folder / run / f"checkpoints/step_{step:08d}.h5").read_bytes() for step in (a, b)]
        self.assertEqual(len(files[0]), len(files[1]))
        return sum(files[0][i:i + 4] != files[1][i:i + 4] for i in range(0, len(files[0]), 4))

    def test_skipped_steps_are_counted_on_through_a_resume(self):
        config = self.config(train={"steps": 6})
        self.succeeds("train", config, "--run-dir", self.folder / "whole", fault=self.FAULT)
        self.rewind("whole", "again", 3)
        self.train(config, "again", "--resume")
        self.same_records("again", "whole")

    def test_nonfinite_stop_ends_with_one(self):
        for ranks in (0, 2):
            config = self.config(train={"nonfinite": "stop", "checkpoint_every": 1})
            run = self.folder / f"run{ranks}"
            self.fails(1, ["step 3", "train.nonfinite"], "train", config, "--run-dir", run, ranks=ranks, fault=self.FAULT)
            self.succeeds("train", config, "--run-dir", run, "--resume", ranks=ranks)


if __name__ == "__main__":
    harness.main()

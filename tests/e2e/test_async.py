#!/usr/bin/env python3
"""Checkpoints written beside the training, and when they are written: the files are those of a run that waits for
them, a failure is a warning at the next step, a kill loses at most the one under way."""

import itertools
import json
import os
import random
import re
import signal
import time
import unittest

import harness
from harness import LONG
from test_kill import Kill


class Async(Kill):
    def prepare(self, ranks, ep, **train):
        super().prepare(ranks, ep, **{"checkpoint_async": True, **train})

    def differences(self, a, b, ranks=0):
        job = self.job("diff", self.folder / a, self.folder / b, ranks=ranks)
        self.assertIn(job.status, (0, 1), job.text())
        return [line for line in job.stdout.splitlines() if not line.startswith(("same", "different"))]

    def test_run_with_async_saves_is_the_run_that_waits(self):
        for ranks, ep, staging in [(1, 1, None), (3, 1, 0), (4, 4, None)]:
            with self.subTest(ranks=ranks):
                self.prepare(ranks, ep, checkpoint_staging_gb=staging)
                waits = self.config("waits.yaml", parallel={"ep": ep}, train={"steps": 9})
                self.train(waits, f"waits{ranks}", ranks=ranks)
                os.rename(self.folder / "whole", self.folder / f"whole{ranks}")
                self.same_records(f"whole{ranks}", f"waits{ranks}")
                self.assertEqual(self.checkpoints(f"whole{ranks}"), self.checkpoints(f"waits{ranks}"))
                for name in [n for n in self.checkpoints(f"waits{ranks}") if n != "latest"]:
                    found = self.differences(f"whole{ranks}/checkpoints/{name}", f"waits{ranks}/checkpoints/{name}")
                    self.assertTrue(found and all(line.startswith("config ") for line in found), found)

    def test_kill_at_points_of_a_save_resumes_bit_for_bit(self):
        self.prepare(3, 1)
        self.dies_again_and_again(["checkpoint_write:20:kill:1", "checkpoint_fsync:1:kill:2", "checkpoint_rename:2:kill:0",
                                   "train.step:3:kill:0"])

    def test_save_that_fails_is_a_warning_and_the_next_one_counts(self):
        """The first save where it writes, the second where it syncs, the third where it is named."""
        self.prepare(2, 2, steps=14)
        job = self.train(self.cfg, "run", ranks=2, fault="checkpoint_write:12:fail:1,checkpoint_fsync:2:fail:0,checkpoint_rename:1:fail:0")
        for step in (3, 6, 9):
            self.assertEqual(job.stderr.count(f"CHECKPOINT NOT SAVED at step {step}"), 1, job.text())
        self.same_records("run", "whole")
        missing = set(self.checkpoints("whole")) - set(self.checkpoints("run"))
        self.assertEqual(missing, {f"step_{step:08d}.h5" for step in (3, 6, 9)})

    def test_error_that_ends_the_run_lets_the_save_under_way_end(self):
        cfg = self.config(train={"checkpoint_async": True, "nonfinite": "stop"}, parallel={"ep": 2})
        for i, error in enumerate(["train.nonfinite:4:nan", "train.step:4:fail:1"]):
            with self.subTest(error):
                job = self.fails(1, "", "train", cfg, "--run-dir", self.folder / f"run{i}", ranks=2,
                                 fault=f"checkpoint_fsync:1:sleep=1,{error}")
                self.assertEqual(self.checkpoints(f"run{i}"), ["latest", "step_00000003.h5"], job.text())
                self.assertEqual(["step 4 stops the run" in job.stderr, "skipped" in job.stderr], [i == 0, False])

    def test_message_counts_all_that_training_waited_for_a_save(self):
        job = self.train(self.config(train={"checkpoint_async": True}), "run", fault="checkpoint_skeleton:1:sleep=1")
        waited = [float(t) for t in re.findall(r"saved \([\d.]+ s, training waited ([\d.]+) s\)", job.stderr)]
        self.assertGreater(waited[0], 0.99, job.text())
        self.assertLess(max(waited[1:]), 0.9, job.text())

    def test_stop_while_a_save_is_under_way_loses_nothing(self):
        self.prepare(2, 2, steps=30, checkpoint_every=2)
        job = self.start("train", self.cfg, "--run-dir", self.folder / "run", ranks=2,
                         fault="checkpoint_fsync:1:sleep=1:0")
        self.wait_for_steps(job, "run", 2)
        job.signal(signal.SIGUSR1)
        self.assertEqual(job.wait().status, 75, job.text())
        self.resumes("run")

    @unittest.skipUnless(LONG, "long")
    def test_200_kills_lose_no_more_than_the_save_under_way(self):
        """A run that waits for its saves loses less than one interval of 3 steps; one that does not, also the save
        that was under way."""
        seed = int.from_bytes(os.urandom(4), "little")
        dice = random.Random(seed)
        for beside, ranks in itertools.product((False, True), (1, 2, 3, 4)):
            with self.subTest(ranks=ranks, beside=beside, seed=seed):
                run = f"{'async' if beside else 'sync'}{ranks}"
                self.prepare(ranks, 1, steps=4000, checkpoint_every=3, checkpoint_keep=2, checkpoint_async=beside)
                kills = self.kill_until_done(dice, run, ranks, 25, 6 if beside else 3)
                self.resumes(run)
                self.assertEqual(kills, 25, "the run was over before")
                print(f"{run}: {kills} kills", flush=True)

    def kill_until_done(self, dice, run, ranks, kills, may_lose):
        path, n = self.folder / run / "metrics.jsonl", 0
        while n < kills:
            job = self.start("train", self.cfg, "--run-dir", self.folder / run, "--resume", ranks=ranks)
            end = time.monotonic() + dice.uniform(0.3, 2)
            while job.process.poll() is None and time.monotonic() < end:
                time.sleep(0.002)
            pids = list(job.pids().values())
            if pids:
                os.kill(dice.choice(pids), signal.SIGKILL)
                n += 1
            if job.wait().status == 0:
                break
            steps = max((int(r["step"]) for r in self.metrics_so_far(path)), default=0)
            newest = max((int(p.name[5:13]) for p in (self.folder / run / "checkpoints").glob("step_*.h5")), default=0)
            self.assertLessEqual(steps - newest, may_lose, job.text())
        return n

    @staticmethod
    def metrics_so_far(path):
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]


class When(harness.Case):
    """checkpoint_minutes, checkpoint_keep_every, stop_after_minutes, --reset."""

    def steps_saved(self, run):
        return [int(n[5:13]) for n in self.checkpoints(run) if n.startswith("step_") and n.endswith(".h5")]

    def test_milestones_stay(self):
        self.train(self.config(train={"steps": 12, "checkpoint_every": 2, "checkpoint_keep": 1,
                                      "checkpoint_keep_every": 4}), "run")
        self.assertEqual(self.steps_saved("run"), [4, 8, 12])

    def test_minutes_decide_beside_steps(self):
        self.train(self.config(train={"steps": 8, "checkpoint_every": 0, "checkpoint_minutes": 1e-9}), "run", ranks=2)
        self.assertEqual(self.steps_saved("run"), list(range(1, 9)))
        self.train(self.config(train={"steps": 8, "checkpoint_every": 0, "checkpoint_minutes": 100}), "long", ranks=2)
        self.assertEqual(self.steps_saved("long"), [8])

    def test_stop_after_minutes_saves_and_exits_75(self):
        cfg = self.config(train={"steps": 1000000, "checkpoint_every": 0, "stop_after_minutes": 0.02})
        job = self.job("train", cfg, "--run-dir", self.folder / "run", ranks=2)
        self.assertEqual(job.status, 75, job.text())
        self.assertLess(job.seconds, 15)
        self.assertEqual(self.steps_saved("run"), [len(self.metrics("run"))])

    def test_stop_after_minutes_cuts_an_evaluation_short(self):
        cfg = self.config(train={"eval_every": 1, "stop_after_minutes": 0.05},
                          data={"valid": [{"name": "held_out", "path": str(self.home / "held_out")}]})
        job = self.job("train", cfg, "--run-dir", self.folder / "run", fault="train.eval:2:sleep=3")
        self.assertEqual(job.status, 75, job.text())
        self.assertEqual([[k for k in r if k.startswith("valid/")] for r in self.metrics("run")], [[]])
        self.assertEqual(self.steps_saved("run"), [1])

    def test_reset_begins_parts_anew(self):
        cfg = self.config(optim={"schedule": "linear", "lr": 0.01, "min_lr": 0.0, "warmup_steps": 4, "decay_steps": 40},
                          train={"steps": 6, "checkpoint_every": 0})
        self.train(cfg, "run")
        self.train(cfg, "other", "--set", "train.steps=9")
        run = self.folder / "run/checkpoints/step_00000006.h5"
        rate = lambda r: float(r["train/lr"])
        for what, moments, schedule, data in [("optimizer", True, False, False), ("schedule", False, True, False),
                                              ("data", False, False, True), ("optimizer,schedule,data", True, True, True)]:
            with self.subTest(what):
                name = what.replace(",", "_")
                (self.folder / name / "checkpoints").mkdir(parents=True)
                (self.folder / name / "checkpoints/step_00000006.h5").write_bytes(run.read_bytes())
                self.train(cfg, name, "--resume", "--reset", what, "--set", "train.steps=9")
                ours, plain = self.metrics(name), self.metrics("other")[6:]
                first = self.metrics("run")[:3]
                self.assertEqual([rate(r) for r in ours], [rate(r) for r in (first if schedule else plain)])
                self.assertEqual(ours[0]["train/loss"] == plain[0]["train/loss"], not data)
                self.assertEqual(ours[1]["train/loss"] == plain[1]["train/loss"], False)

    def test_reset_survives_another_resume(self):
        cfg = self.config(optim={"schedule": "linear", "lr": 0.01, "min_lr": 0.0, "warmup_steps": 4, "decay_steps": 40},
                          train={"steps": 4, "checkpoint_every": 0})
        self.train(cfg, "run")
        self.train(cfg, "run", "--resume", "--reset", "schedule", "--set", "train.steps=6")
        self.train(cfg, "run", "--resume", "--set", "train.steps=8")
        rates = [float(r["train/lr"]) for r in self.metrics("run")]
        self.assertEqual(rates[4:], rates[:4])

    def test_reset_of_something_else_is_refused(self):
        cfg = self.config()
        self.fails(2, "--reset 'moments'", "train", cfg, "--run-dir", self.folder / "run", "--resume", "--reset", "moments")
        self.fails(2, "goes with --resume", "train", cfg, "--run-dir", self.folder / "run", "--reset", "data")


if __name__ == "__main__":
    harness.main()

#!/usr/bin/env python3
"""Every call of a save on its files fails once, or is the last before the process dies or the power goes: the run has a
checkpoint to go on from, and ends as the undisturbed one. tests/support/io_faults.c makes the calls fail."""

import os
import random
import re
import unittest

import harness
from harness import LONG, ROOT

SHIM = os.environ.get("SY_IO_FAULTS", str(ROOT / "build/tests/support/io_faults.so"))
STEP = 6  # whose save is disturbed; that of step 3 is whole
CREATED_BYTES = 24  # of a file: the time and HDF5's checksum over it


class SaveFaults(harness.Case):
    n_calls = {}

    def prepare(self, ranks, asynchronous=False):
        self.ranks = ranks
        self.cfg = self.config(model={"hidden": 16, "layers": 1, "heads": 2, "ffn_hidden": 16},
                               moe={"experts": 2}, parallel={"ep": max(ranks, 1)},
                               train={"checkpoint_keep": 1, "checkpoint_async": asynchronous})
        self.train_once(self.cfg, "whole", ranks)
        self.asynchronous = asynchronous

    def disturbed(self, run, n, action, rank=0):
        """The run with its n-th call so disturbed; which one that was, None if there are not so many."""
        log = self.folder / f"{run}.log"
        env = {"LD_PRELOAD": SHIM, "SY_IO_FAULT": f"{n}:{action}:{STEP}:{rank}", "SY_IO_FAULT_LOG": str(log)}
        job = self.job("train", self.cfg, "--run-dir", self.folder / run, ranks=self.ranks, env=env)
        self.assertEqual(job.left, {}, job.text())
        self.hit = log.read_text().strip() if log.exists() else None
        return job

    def is_whole(self, run):
        """As the undisturbed run has it: records, names of checkpoints, and every byte of the last but its time."""
        self.same_records(run, "whole")
        self.assertEqual(self.checkpoints(run), self.checkpoints("whole"))
        a, b = ((self.folder / r / "checkpoints/latest").read_bytes() for r in (run, "whole"))
        self.assertLessEqual(sum(x != y for x, y in zip(a, b, strict=True)), CREATED_BYTES)

    def survives(self, n, action, rank):
        run = f"run_{n}_{action}_{rank}"
        job = self.disturbed(run, n, action, rank)
        if self.hit is None:
            self.assertEqual(job.status, 0, job.text())
            return False
        if action.startswith(("kill", "torn", "power")):
            self.assertNotIn(job.status, (0, 1, 2, 3, 75), self.hit + "\n" + job.text())
            job = self.train(self.cfg, run, "--resume", ranks=self.ranks)
            self.assertRegex(job.stderr, r"resuming from \S*step_0000000[36]\.h5")
        else:
            self.assertEqual(job.status, 0, self.hit + "\n" + job.text())
            self.assertEqual(job.errors(), [], self.hit)
        self.is_whole(run)
        return True

    def count(self, rank=0):
        """How many calls there are: none is disturbed."""
        key = self.ranks, self.asynchronous, rank
        if key not in self.n_calls:
            self.disturbed(f"count_{rank}", 0, "none", rank)
            self.n_calls[key] = len(self.hit.splitlines())
        return self.n_calls[key]

    def run_through(self, every, rank=0, few=3, some=()):
        """In a long run each of these faults at every call, and others at some; else the first at the last calls, which
        are those on names, and at a few more."""
        n_calls = self.count(rank)
        self.assertGreater(n_calls, 4)
        seed = int.from_bytes(os.urandom(4), "little")
        dice, last = random.Random(seed), set(range(n_calls - 2, n_calls + 1))
        calls = {action: range(1, n_calls + 2) for action in every} if LONG else {}
        for action in (some if LONG else every[:1]):
            calls[action] = sorted(set(dice.sample(range(1, n_calls + 1), 30 if LONG else few)) | last)
        for action, n in [(action, n) for action in calls for n in calls[action]]:
            with self.subTest(n=n, of=n_calls, action=action, rank=rank, seed=seed):
                self.assertEqual(self.survives(n, action, rank), n <= n_calls)


class OneRank(SaveFaults):
    def test_call_that_fails_is_a_warning_at_most(self):
        self.prepare(0)
        self.run_through(["EIO"], some=["ENOSPC", "short"])

    def test_file_system_that_cannot_sync_folders_is_no_failure(self):
        self.prepare(0)
        self.disturbed("list", 0, "none")
        calls = [n for n, line in enumerate(self.hit.splitlines(), 1) if re.fullmatch("fsync .*/checkpoints", line)]
        self.assertEqual(len(calls), 2)
        for n in calls:
            job = self.disturbed(f"run{n}", n, "EINVAL")
            self.assertEqual(job.status, 0, job.text())
            self.assertNotIn("NOT SAVED", job.stderr)

    def test_death_at_a_call_loses_nothing(self):
        self.prepare(0)
        self.run_through(["kill"], some=["torn"])

    def test_loss_of_power_at_a_call_loses_nothing(self):
        self.prepare(0)
        self.run_through(["power=0"], some=["power=1", "power=2", "power=3"])

    def test_loss_of_power_that_takes_some_pages_loses_nothing(self):
        self.prepare(0)
        self.run_through(["power=12345"], few=2)

    def test_death_at_a_call_of_the_writer_beside_training_loses_nothing(self):
        self.prepare(0, asynchronous=True)
        self.run_through(["kill", "EIO"], few=2, some=["power=0", "power=7"])


class TwoRanks(SaveFaults):
    def test_one_rank_that_fails_or_dies_loses_nothing(self):
        self.prepare(2)
        for rank in (0, 1):
            self.run_through(["EIO", "kill"], rank, few=1)

    @unittest.skipUnless(LONG, "long")
    def test_one_rank_whose_writer_fails_or_dies_loses_nothing(self):
        self.prepare(2, asynchronous=True)
        for rank in (0, 1):
            self.run_through([], rank, some=["EIO", "kill"])


class Clock(SaveFaults):
    def test_clock_set_back_between_saves_loses_nothing(self):
        self.cfg = self.config(train={"checkpoint_keep": 0})
        self.train(self.cfg, "kept")
        job = self.job("train", self.cfg, "--run-dir", self.folder / "run", fault="train.step:8:kill",
                       env={"LD_PRELOAD": SHIM, "SY_CLOCK_BACK_S": "86400"})
        self.assertNotEqual(job.status, 0)
        older, newer = (self.folder / f"run/checkpoints/step_0000000{step}.h5" for step in (3, 6))
        created = [re.search(rb"20\d\d-\d\d-\d\dT[\d:]{8}Z", path.read_bytes()).group() for path in (older, newer)]
        self.assertGreater(*created)
        os.utime(newer, (0, 0))
        job = self.train(self.cfg, "run", "--resume")
        self.assertRegex(job.stderr, r"resuming from \S*step_00000006\.h5")
        self.same_records("run", "kept")
        self.assertEqual(self.checkpoints("run"), self.checkpoints("kept"))


if __name__ == "__main__":
    harness.main()

#!/usr/bin/env python3
"""A rank, or mpirun, is killed at any moment: all ranks end within seconds, nothing on disk is lost, and --resume
continues bit for bit the run that was never killed."""

import os
import random
import shlex
import signal
import time
import unittest

import harness
from harness import LONG, snapshot


class Kill(harness.Case):
    def prepare(self, ranks, ep, **train):
        self.ranks = ranks
        self.cfg = self.config(parallel={"ep": ep}, train={"steps": 9, **train})
        self.train_once(self.cfg, "whole", ranks)

    def dies(self, fault, run, *args):
        """A run that kills itself at a fault point."""
        job = self.job("train", self.cfg, "--run-dir", self.folder / run, *args, ranks=self.ranks, fault=fault)
        self.assertNotIn(job.status, (0, 2, 3, 75), job.text())
        self.assertEqual(job.left, {}, "ranks are left behind\n" + job.text())
        self.assertLess(job.seconds, 20)
        return job

    def resumes(self, run):
        job = self.train(self.cfg, run, "--resume", ranks=self.ranks)
        self.same_records(run, "whole")
        self.assertEqual(self.checkpoints(run), self.checkpoints("whole"))
        return job

    def dies_again_and_again(self, points, run="run"):
        """Each start goes on from what the one before left, and dies at a point of its own."""
        for i, point in enumerate(points):
            with self.subTest(point):
                job = self.dies(point, run, "--resume")
                self.assertEqual("ended without letting go" in job.stderr, i > 0, job.text())
        self.assertIn("ended without letting go", self.resumes(run).stderr)


class FaultPoints(Kill):
    def test_kill_between_and_within_steps_resumes_bit_for_bit(self):
        self.prepare(3, 1)
        self.dies_again_and_again(["train.step:1:kill:0", "train.step:5:kill:2", "train.micro_batch:6:kill:1", "data.read:3:kill:2"])

    def test_kill_while_saving_resumes_bit_for_bit(self):
        self.prepare(3, 1)
        self.dies_again_and_again(["checkpoint_skeleton:1:kill:0", "checkpoint_write:20:kill:1", "checkpoint_rename:2:kill:0"])

    @unittest.skipUnless(LONG, "long")
    def test_kill_at_every_point_of_saving_resumes_bit_for_bit(self):
        self.prepare(3, 1)
        for i, (point, nth, rank) in enumerate([("checkpoint_skeleton", 2, 0), ("checkpoint_rename", 1, 0)]
                                               + [("checkpoint_write", n, r) for n in (1, 7, 30) for r in (0, 1, 2)]
                                               + [("checkpoint_fsync", n, r) for n in (1, 2, 3) for r in (0, 1, 2)]):
            self.dies_again_and_again([f"{point}:{nth}:kill:{rank}"], f"run{i}")

    def test_kill_before_the_rename_leaves_a_file_that_is_cleaned(self):
        self.prepare(1, 1)
        self.dies("checkpoint_rename:2:kill", "run")
        self.assertIn(".step_00000006.h5.tmp", self.checkpoints("run"))
        self.assertEqual([n for n in self.checkpoints("run") if n.endswith(".h5")], ["step_00000003.h5"])
        job = self.resumes("run")
        self.assertIn("removed 1 unfinished checkpoint file", job.stderr)

    def test_one_process_without_mpirun_killed_resumes_bit_for_bit(self):
        self.prepare(0, 1)
        self.dies("train.micro_batch:18:kill", "run")
        self.resumes("run")

    def test_killed_run_resumes_at_another_layout(self):
        self.prepare(2, 2)
        self.dies("train.step:8:kill:1", "run")
        self.ranks, self.cfg = 3, self.config(train={"steps": 9})
        self.train(self.cfg, "run", "--resume", ranks=3)
        self.assertEqual([r["step"] for r in self.metrics("run")], list(range(1, 10)))
        self.near(self.losses("run"), self.losses("whole"), 1e-4)


class Outside(Kill):
    def test_random_ranks_killed_at_random_times_until_done(self):
        seed = int.from_bytes(os.urandom(4), "little")
        dice = random.Random(seed)
        self.prepare(2, 2, steps=60, checkpoint_every=7, checkpoint_keep=2)
        path, kills, done = self.folder / "run/metrics.jsonl", 0, False
        while not done and kills < (40 if LONG else 7):
            seen = path.read_bytes().count(b"\n") if path.exists() else 0
            job = self.start("train", self.cfg, "--run-dir", self.folder / "run", "--resume", ranks=2)
            end, until = time.monotonic() + 20, seen + dice.randrange(1, 15)
            while job.process.poll() is None and time.monotonic() < end:
                if path.exists() and path.read_bytes().count(b"\n") >= min(until, 58):
                    break
                time.sleep(0.001)
            pids = job.pids()
            if len(pids) == 2:
                os.kill(pids[dice.randrange(2)], signal.SIGKILL)
                kills += 1
            done = job.wait().status == 0
            self.assertEqual(job.left, {}, f"seed {seed}: ranks are left behind\n" + job.text())
        self.resumes("run")
        self.assertGreater(kills, 1, f"seed {seed}: nothing was killed")

    def test_mpirun_killed_ends_all_ranks_and_nothing_is_written_after(self):
        self.prepare(2, 2)
        long = self.config("long.yaml", parallel={"ep": 2},
                           train={"steps": 1000000, "checkpoint_every": 5, "checkpoint_keep": 2})
        job = self.start("train", long, "--run-dir", self.folder / "run", ranks=2)
        self.wait_for_steps(job, "run", 12)
        self.assertEqual(len(job.pids()), 2)
        job.signal(signal.SIGKILL)
        left = job.ranks_after(2)
        self.assertEqual(left, {}, "ranks outlive mpirun by more than 2 s")
        before = snapshot(self.folder / "run")
        time.sleep(0.5)
        self.assertEqual(snapshot(self.folder / "run"), before)
        job.wait()
        lines = (self.folder / "run/metrics.jsonl").read_text().splitlines()
        self.train(long, "run", "--resume", "--set", f"train.steps={len(lines) + 3}", ranks=2)
        self.assertEqual([r["step"] for r in self.metrics("run")], list(range(1, len(lines) + 4)))

    def test_mpirun_killed_while_a_rank_sleeps_ends_all_ranks(self):
        self.prepare(2, 1)
        job = self.start("train", self.cfg, "--run-dir", self.folder / "run", ranks=2,
                         fault="train.step:5:sleep=60:1")
        self.wait_for_steps(job, "run", 4)
        job.signal(signal.SIGKILL)
        self.assertEqual(job.ranks_after(2), {}, "ranks outlive mpirun by more than 2 s")
        job.wait()
        self.resumes("run")


    def test_any_launcher_killed_ends_its_rank(self):
        """Not every launcher watches its ranks as mpirun does: the program watches its launcher itself."""
        self.cfg = self.config(train={"steps": 1000000, "checkpoint_every": 0})
        launcher = "OMPI_COMM_WORLD_RANK=0 %s train %s --run-dir %s & wait" % (
            shlex.quote(harness.PROGRAM), self.cfg, self.folder / "run")
        job = self.start(program=["sh", "-c", launcher])
        self.wait_for_steps(job, "run", 5)
        self.assertEqual(len(job.pids()), 1)
        job.signal(signal.SIGKILL)
        self.assertEqual(job.ranks_after(2), {}, "the rank outlives its launcher by more than 2 s")


class Failures(Kill):
    """A rank that fails takes the job with it, and says why."""

    def test_failure_of_one_rank_ends_the_job(self):
        """At the head of a step, within one, and reading data; each start goes on from what the one before left."""
        self.prepare(2, 2)
        for point, nth in (("train.step", 5), ("train.micro_batch", 7), ("data.read", 3)):
            with self.subTest(point):
                job = self.job("train", self.cfg, "--run-dir", self.folder / "run", "--resume", ranks=2, fault=f"{point}:{nth}:fail:1")
                self.check_failure(job, 1, ["rank 1", point])
                self.assertLess(job.seconds, 20)
        self.resumes("run")


if __name__ == "__main__":
    harness.main()

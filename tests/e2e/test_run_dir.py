#!/usr/bin/env python3
"""The run directory has one owner and keeps what it has: locks, folders that cannot be written, disks that are full."""

import os
import resource
import signal
import subprocess
import unittest

import harness
from harness import snapshot


class Owner(harness.Case):
    def test_second_job_in_the_same_directory_is_refused_and_names_the_holder(self):
        config = self.config()
        first = self.start("train", config, "--run-dir", self.folder / "run", fault="train.step:4:sleep=60")
        self.wait_for(self.folder / "run/checkpoints/latest")
        before = snapshot(self.folder / "run")
        jobs = [self.start("train", config, "--run-dir", self.folder / "run", "--resume", ranks=n) for n in (0, 2)]
        for job in jobs:
            job.wait(40)
            self.check_failure(job, 2, [self.folder / "run", f"process {first.process.pid}", os.uname().nodename])
            self.assertGreater(job.seconds, 14)
            self.assertLess(job.seconds, 25)
        self.assertEqual(snapshot(self.folder / "run"), before)
        self.assertIsNone(first.process.poll(), "the holder goes on")

    def test_second_job_waits_for_a_holder_that_is_ending(self):
        config = self.config()
        first = self.start("train", config, "--run-dir", self.folder / "run", fault="train.step:4:sleep=3")
        self.wait_for_steps(first, "run", 3)
        job = self.train(config, "run", "--resume")
        self.assertIn("waiting up to 15 s", job.stderr)
        self.assertEqual(first.wait().status, 0, first.text())
        self.assertEqual([r["step"] for r in self.metrics("run")], list(range(1, 9)))

    def test_job_whose_directory_was_moved_leaves_the_next_one_alone(self):
        config = self.config(train={"checkpoint_keep": 1})
        first = self.start("train", config, "--run-dir", self.folder / "run", fault="train.step:5:sleep=3")
        self.wait_for(self.folder / "run/checkpoints/latest")
        (self.folder / "run").rename(self.folder / "moved")
        self.train(config, "run", "--set", "train.steps=4")
        after = snapshot(self.folder / "run")
        first.wait()
        self.assertEqual(first.status, 1, first.text())
        self.assertIn("is of another job", first.stderr)
        self.assertEqual(snapshot(self.folder / "run"), after)

    def test_lock_of_a_killed_job_is_taken_over(self):
        config = self.config()
        first = self.start("train", config, "--run-dir", self.folder / "run", ranks=2, fault="train.step:5:sleep=60")
        self.wait_for_steps(first, "run", 4)
        first.signal(signal.SIGKILL)
        job = self.train(config, "run", "--resume", ranks=2)
        self.assertIn("ended without letting go", job.stderr)
        self.assertEqual([r["step"] for r in self.metrics("run")], list(range(1, 9)))


class Unwritable(harness.Case):
    def test_run_directory_that_cannot_be_made_is_refused(self):
        config = self.config()
        (self.folder / "file").write_text("mine")
        for path, ranks in (("/proc/run", 0), ("/proc/run", 2), (self.folder / "file", 0),
                            (self.folder / "file/run", 2), ("/proc/self/fd/run", 0)):
            with self.subTest(path):
                job = self.fails(2, str(path).split("/run")[0], "train", config, "--run-dir", path, ranks=ranks)
                self.assertLess(job.seconds, 15)
        self.assertEqual((self.folder / "file").read_text(), "mine")

    def test_parts_of_the_run_directory_that_are_of_another_kind_are_refused(self):
        config = self.config()
        for name, kind in (("checkpoints", "file"), ("metrics.jsonl", "folder")):
            with self.subTest(name):
                run = self.folder / ("run_" + name)
                run.mkdir()
                (run / name).write_text("mine") if kind == "file" else (run / name).mkdir()
                self.fails(2, run / name, "train", config, "--run-dir", run)

    def test_unknown_way_to_write_is_refused_before_training(self):
        self.fails(2, ["SY_CHECKPOINT_IO", "'tape'"], "train", self.config(), "--run-dir", self.folder / "run", ranks=2,
                   env={"SY_CHECKPOINT_IO": "tape"})
        self.assertFalse((self.folder / "run").exists())

    @unittest.skipUnless(os.geteuid() != 0, "root may write everywhere")
    def test_folder_without_permission_is_refused(self):
        (self.folder / "run").mkdir(mode=0o555)
        self.fails(2, self.folder / "run", "train", self.config(), "--run-dir", self.folder / "run")


class FailedSave(harness.Case):
    def test_save_that_fails_once_is_a_warning_and_the_next_works(self):
        for point in ("checkpoint_skeleton", "checkpoint_write", "checkpoint_fsync", "checkpoint_rename"):
            with self.subTest(point):
                job = self.job("train", self.config(), "--run-dir", self.folder / point, ranks=2,
                               fault=f"{point}:1:fail:0")
                self.assertEqual(job.status, 0, job.text())
                self.assertEqual(job.errors(), [])
                warnings = [w for w in job.stderr.splitlines() if w.startswith("warning")]
                self.assertEqual(len(warnings), 1, job.text())
                self.assertIn("NOT SAVED at step 3", warnings[0])
                self.assertEqual(self.checkpoints(point), ["latest", "step_00000006.h5", "step_00000008.h5"])

    def test_save_that_fails_on_another_rank_is_a_warning(self):
        job = self.job("train", self.config(), "--run-dir", self.folder / "run", ranks=2,
                       fault="checkpoint_write:1:fail:1")
        self.assertEqual(job.status, 0, job.text())
        self.assertIn("NOT SAVED at step 3", job.stderr)
        self.assertEqual(self.checkpoints("run"), ["latest", "step_00000006.h5", "step_00000008.h5"])

    def test_link_that_cannot_be_made_is_a_warning_and_the_checkpoint_is_saved(self):
        (self.folder / "run/checkpoints/latest").mkdir(parents=True)
        job = self.job("train", self.config(train={"checkpoint_keep": 1}), "--run-dir", self.folder / "run")
        self.assertEqual((job.status, job.errors()), (0, []), job.text())
        self.assertEqual(job.stderr.count("is saved, but cannot point"), 3, job.text())
        self.assertNotIn("NOT SAVED", job.stderr)
        self.assertEqual(self.checkpoints("run"), ["latest", "step_00000008.h5"])

    def test_last_save_that_fails_ends_with_one_and_loses_nothing(self):
        config = self.config()
        self.train(config, "whole")
        job = self.job("train", config, "--run-dir", self.folder / "run", fault="checkpoint_rename:3:fail")
        self.check_failure(job, 1, "checkpoint")
        self.assertEqual(self.checkpoints("run"), ["latest", "step_00000003.h5", "step_00000006.h5"])
        self.assertEqual((self.folder / "run/checkpoints/latest").readlink().name, "step_00000006.h5")
        self.train(config, "run", "--resume")
        self.same_records("run", "whole")

    def full_disk(self, run, **options):
        """Room for one checkpoint and not for two: the first stays, training reaches the end, status 1."""
        config = self.config(train={"checkpoint_keep": 1})
        job = self.job("train", config, "--run-dir", run, **options)
        self.check_failure(job, 1, "checkpoint")
        self.assertIn("NOT SAVED at step 6", job.stderr)
        self.assertIn("NOT SAVED at step 8", job.stderr)
        names = sorted(p.name for p in (run / "checkpoints").iterdir())
        self.assertEqual(names, ["latest", "step_00000003.h5"])
        self.assertEqual((run / "checkpoints/latest").readlink().name, "step_00000003.h5")

    def test_full_disk_keeps_the_checkpoint_and_trains_on(self):
        disk = self.folder / "disk"
        disk.mkdir()
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", disk], capture_output=True)
        if mount.returncode != 0:
            self.skipTest("mounting a small disk needs root")
        try:
            self.full_disk(disk / "run")
            self.succeeds("eval", disk / "run", "--data", self.home / "held_out")
            subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
            self.succeeds("train", self.config(train={"checkpoint_keep": 1}), "--run-dir", disk / "run", "--resume")
        finally:
            subprocess.run(["umount", "-l", disk], check=True)

    def test_file_size_limit_is_a_failed_save(self):
        limit = 300000  # bytes: room for metrics, not for a checkpoint

        def preexec():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        job = self.job("train", self.config(), "--run-dir", self.folder / "run", preexec=preexec)
        self.check_failure(job, 1, "checkpoint")
        self.assertEqual(job.stderr.count("NOT SAVED"), 3, job.text())
        self.assertEqual(self.checkpoints("run"), [])
        self.assertEqual(len(self.metrics("run")), 8)


if __name__ == "__main__":
    harness.main()

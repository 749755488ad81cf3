#!/usr/bin/env python3
"""What the world does to a run that it should not notice, or end in order: streams that nobody reads, clocks that jump, a
terminal that is closed, ranks that crash; and a soak in which nothing may grow."""

import glob
import os
import re
import shutil
import signal
import subprocess
import time
import unittest
from pathlib import Path

import harness

FAKETIME = sorted(glob.glob("/usr/lib*/*/faketime/libfaketimeMT.so.1") + glob.glob("/usr/lib*/faketime/libfaketimeMT.so.1"))


class Outside(harness.Case):
    def whole(self, run, config, ranks=0):
        """The run is what an undisturbed one is."""
        self.train_once(config, "whole", ranks)
        self.same_records(run, "whole")

    def shell(self, command, status=0):
        done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, cwd=self.folder,
                              env={**os.environ, **harness.MPI_ENV, "P": harness.PROGRAM}, timeout=harness.DEADLINE)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done


class Streams(Outside):
    def test_log_that_nobody_reads_does_not_end_the_run(self):
        config = self.config()
        self.shell(f"$P train {config} --run-dir read 2>&1 | head -n 1")
        self.whole("read", config)
        self.shell(f"$P train {config} --run-dir closed 2>&- >&-")
        self.whole("closed", config)
        self.shell(f"$P train {config} --run-dir full >/dev/full 2>&1")
        self.whole("full", config)

    def test_log_of_ranks_that_nobody_reads_does_not_end_the_run(self):
        config = self.config()
        self.shell(f"{harness.ROOT}/launch/mpirun.sh -n 2 $P train {config} --run-dir run 2>&1 | head -n 1")
        self.whole("run", config, 2)

    def test_results_that_cannot_be_written_are_a_failure(self):
        self.shell("$P --help >/dev/full", 1)
        self.shell("$P --version >/dev/full", 1)
        self.shell("$P train --help-config >&-", 1)
        done = self.shell("$P train --help-config >/dev/full", 1)
        self.assertIn("cannot be written to standard output", done.stderr)
        self.assertIn("cannot be written to standard output", self.shell("$P --version >&-", 1).stderr)


class Terminal(Outside):
    def start_run(self, *program, ranks=0):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs these tests may be under nohup, and we would inherit it
        config = self.config(train={"steps": 1000000, "checkpoint_every": 0})
        job = self.start("train", config, "--run-dir", self.folder / "run", program=[*program, harness.PROGRAM], ranks=ranks)
        self.wait_for_steps(job, "run", 3)
        return job

    def test_terminal_that_is_closed_saves_and_stops(self):
        job = self.start_run()
        job.signal(signal.SIGHUP)
        job.wait()
        self.assertEqual(job.status, 75, job.text())
        self.assertIn("step_%08d.h5" % self.metrics("run")[-1]["step"], self.checkpoints("run"))

    def test_nohup_goes_on(self):
        for launcher in ([], [harness.ROOT / "launch/mpirun.sh", "-n", "2"]):  # mpirun listens to SIGHUP even so
            with self.subTest(launcher=launcher):
                shutil.rmtree(self.folder / "run", ignore_errors=True)
                job = self.start_run("nohup", *map(str, launcher))
                job.signal(signal.SIGHUP)
                self.wait_for_steps(job, "run", len(self.metrics("run")) + 3)
                time.sleep(2.5 if launcher else 0)  # so long Open MPI gives ranks that it ends
                self.assertIsNone(job.process.poll(), job.text())
                job.signal(signal.SIGUSR1)
                self.assertEqual(job.wait().status, 75, job.text())

    def test_sigterm_to_one_rank_saves_on_all(self):
        job = self.start_run(ranks=2)
        job.kill_rank(1, signal.SIGTERM)
        job.wait()
        self.assertEqual((job.status, job.left), (75, {}), job.text())
        self.assertIn("step_%08d.h5" % self.metrics("run")[-1]["step"], self.checkpoints("run"))

    def test_sigterm_to_mpirun_ends_all_and_the_run_goes_on(self):
        """mpirun leaves ranks a second or two: there may be a checkpoint or not, but nothing that is wrong."""
        config = self.config(train={"checkpoint_every": 3})
        job = self.start("train", config, "--run-dir", self.folder / "run", ranks=2, fault="train.step:6:sleep=1")
        self.wait_for_steps(job, "run", 5)
        job.signal(signal.SIGTERM)
        job.wait(20)
        self.assertNotEqual(job.status, 0)
        self.assertEqual(job.left, {}, job.text())
        self.train(config, "run", "--resume", ranks=2)
        self.whole("run", config, 2)


class Clocks(Outside):
    @unittest.skipUnless(FAKETIME, "libfaketime is not there")
    def test_clock_that_jumps_by_days_changes_nothing(self):
        stamp = self.folder / "stamp"
        stamp.write_text("+0\n")
        config = self.config(train={"steps": 30, "checkpoint_every": 10, "checkpoint_minutes": 1000, "stop_after_minutes": 1000},
                             parallel={"timeout_s": 30})
        job = self.start("train", config, "--run-dir", self.folder / "run", ranks=2, fault="train.step:8:sleep=1,train.step:20:sleep=1",
                         env={"LD_PRELOAD": FAKETIME[0], "FAKETIME_TIMESTAMP_FILE": str(stamp), "FAKETIME_NO_CACHE": "1",
                              "FAKETIME_DONT_FAKE_MONOTONIC": "1"})
        for steps, jump in ((7, "+9d"), (19, "-400d")):
            self.wait_for_steps(job, "run", steps)
            stamp.write_text(jump + "\n")
        job.wait()
        self.assertEqual((job.status, job.errors(), job.left), (0, [], {}), job.text())
        self.assertNotIn("warning", job.stderr)
        self.whole("run", config, 2)
        seconds = [float(x) for x in re.findall(r'"time_s":([-0-9.e]+)', (self.folder / "run/metrics.jsonl").read_text())]
        self.assertEqual(seconds, sorted(seconds))
        self.assertLess(seconds[-1], 100)


class Crashes(Outside):
    def test_rank_that_crashes_ends_the_job_with_its_signal(self):
        config = self.config()
        for number in (signal.SIGSEGV, signal.SIGABRT) if harness.LONG else (signal.SIGSEGV,):
            with self.subTest(number):
                run = f"run{int(number)}"
                job = self.start("train", config, "--run-dir", self.folder / run, ranks=2, fault="train.step:5:sleep=30")
                self.wait_for_steps(job, run, 4)
                job.kill_rank(1, number)
                job.wait(30)
                self.assertEqual((job.status, job.left), (128 + number, {}), job.text())
                self.assertIn("rank 1", job.stderr)
        self.train(config, run, "--resume", ranks=2)
        self.whole(run, config, 2)


class Soak(Outside):
    STEPS = int(os.environ.get("SY_SOAK_STEPS", "20000" if harness.LONG else "300"))

    def look(self, job):
        """Per rank: resident KiB, open files, threads; and the shared memory that it has mapped."""
        seen = []
        for _, pid in sorted(job.pids().items()):
            status = Path(f"/proc/{pid}/status").read_text()
            seen.append((int(re.search(r"VmRSS:\s+(\d+)", status)[1]), len(os.listdir(f"/proc/{pid}/fd")),
                         int(re.search(r"Threads:\s+(\d+)", status)[1]),
                         len(set(re.findall(r"/dev/shm/\S+", Path(f"/proc/{pid}/maps").read_text())))))
        return seen

    def test_nothing_grows(self):
        n = self.STEPS
        config = self.config(train={"steps": n, "checkpoint_every": max(10, n // 200), "checkpoint_keep": 2, "eval_every": max(50, n // 40),
                                    "eval_batches": 2, "log_every": 1},
                             data={"valid": [{"name": "held_out", "path": str(self.home / "held_out")}]})
        job = self.start("train", config, "--run-dir", self.folder / "run", ranks=2)
        seen = []
        for i in range(1, 10):
            self.wait_for_steps(job, "run", n * i // 10, 60 + n // 10)
            seen.append(self.look(job))
        job.wait(60 + n // 10)
        self.assertEqual((job.status, job.left), (0, {}), job.text())
        for rank in range(2):
            memory, files, threads, shared = zip(*(s[rank] for s in seen))
            if "SY_SOAK_STEPS" in os.environ or harness.LONG:
                print(f"rank {rank}: resident KiB {memory}, files {files}, threads {threads}, shared {shared}")
            self.assertLess(max(memory[4:]) - memory[3], 4096, f"rank {rank} grows: {memory} KiB")
            self.assertLessEqual(max(files[4:]), max(files[:4]) + 2, f"rank {rank}: open files {files}")
            self.assertLessEqual(max(threads[4:]), max(threads[:4]), f"rank {rank}: threads {threads}")
            self.assertEqual(len(set(shared)), 1, f"rank {rank}: shared memory {shared}")
        self.assertEqual(len(self.checkpoints("run")), 3)


if __name__ == "__main__":
    harness.main()

#!/usr/bin/env python3
"""The watchdog: a rank that stops, hangs or calls something else than the rest is found in time and named; a pause that is
legal changes nothing."""

import os
import signal
import time
import unittest

import harness
from harness import LONG

TIMEOUT = 8 if LONG else 3


class Watch(harness.Case):
    def prepare(self, ranks=3, ep=1, timeout=TIMEOUT, **sections):
        self.ranks = ranks
        self.cfg = self.config(parallel={"ep": ep, "timeout_s": timeout}, **sections)

    def hangs(self, words, *args, status=76, fault=None):
        """The job finds the fault, says these words in one message, and leaves nobody behind."""
        job = self.start("train", self.cfg, "--run-dir", self.folder / "run", *args, ranks=self.ranks, fault=fault)
        self.ends(job, words, status)
        return job

    def ends(self, job, words, status=76):
        job.wait()
        self.assertEqual(job.status, status, job.text())
        self.assertEqual(len(job.errors()), 1, "one message\n" + job.text())
        for word in words:
            self.assertIn(word, job.stderr, job.text())
        self.assertEqual(job.left, {}, "ranks are left behind\n" + job.text())


class Hang(Watch):
    def test_rank_stopped_in_dispatch_is_named(self):
        self.prepare(ranks=3, ep=3, moe={"experts": 6})
        self.hangs(["rank 1 (host", "has stopped answering", "s no answer; last seen in forward, step 3",
                          "ranks 0, 2:", "s waiting in 'moe dispatch' (all_to_all over ep", "of layer 1, step 3",
                          "state T (stopped)", "rank 0 stands at:", "PMPI_Alltoallv"],
                         fault="moe dispatch:17:sleep=0.7:1,moe dispatch:18:stop:1")

    def test_rank_asleep_in_forward_is_named_with_its_stack(self):
        self.prepare(ranks=2)
        self.hangs(["rank 1 (host", "has not come to where the others wait",
                          "rank 1 stands at:"], fault="train.micro_batch:3:sleep=1000:1")

    def test_first_rank_stopped_is_found_by_the_second(self):
        self.prepare(ranks=3)
        self.hangs(["error [rank 1]: rank 0 (host", "has stopped answering"], fault="train.step:3:stop:0")


class Desync(Watch):
    """A collective that one rank leaves out, calls twice, or calls with another size."""

    def out_of_step(self, fault, words, **options):
        self.prepare(ranks=3, timeout=20, **options)
        job = self.hangs(words, fault=fault, status=1)
        self.assertLess(job.seconds, 20, "this waited for parallel.timeout_s\n" + job.text())


    def test_skipped_collective_is_found_with_both_calls(self):
        self.out_of_step("moe dispatch:20:skip:1", ["rank 1 "], ep=3, moe={"experts": 6})

    def test_collective_called_twice_is_found_with_both_calls(self):
        self.out_of_step("gradients:3:twice:2", ["rank 2 "])

    def test_collective_of_another_size_is_found_with_both_calls(self):
        self.out_of_step("gradients:3:short:2", ["rank 2 "])

    def test_extra_collective_on_the_host_is_found_with_both_calls(self):
        self.out_of_step("step head:3:twice:2", ["rank 2 "])


if __name__ == "__main__":
    harness.main()

#!/usr/bin/env python3
"""The watchdog: a rank that stops, hangs or calls something else than the rest is found in time and named; a slow one is
named while the run goes on; a pause that is legal, and any timing, change nothing.

Jobs that hang do little but wait, so a test starts several of them at once."""

import os
import re
import signal
import time
import unittest
from pathlib import Path

import harness
from harness import LONG

TIMEOUT = 3
# where: the fault point (its nth passage on a rank), with a pause before it, so that the rank is last seen near it
PLACES = {"forward": ["train.micro_batch:4:sleep=0.7", "train.micro_batch:5:{}"],
          "dispatch": ["moe dispatch:17:sleep=0.7", "moe dispatch:18:{}"],
          "combine": ["moe combine:17:sleep=0.7", "moe combine:18:{}"],
          "save": ["checkpoint_write:3:sleep=0.7", "checkpoint_write:4:{}"],
          "load": ["checkpoint_read:3:sleep=0.7", "checkpoint_read:4:{}"]}


class Watch(harness.Case):
    def watched(self, run, fault, ranks=3, ep=3, timeout=TIMEOUT, args=(), **sections):
        moe = {"experts": 6, **sections.pop("moe", {})}
        cfg = self.config(f"{run}.yaml", parallel={"ep": ep, "timeout_s": timeout}, moe=moe, **sections)
        return self.start("train", cfg, "--run-dir", self.folder / run, *args, ranks=ranks, fault=fault)

    def ends(self, job, words, status=76):
        """One message, all these words, nobody left behind."""
        job.wait(harness.DEADLINE)
        self.assertEqual(job.status, status, job.text())
        self.assertEqual(len(job.errors()), 1, "one message\n" + job.text())
        for word in words:
            self.assertRegex(job.stderr, word)
        self.assertEqual(job.left, {}, "ranks are left behind\n" + job.text())


def faults(place, action, rank):
    return ",".join(f"{point.format(action)}:{rank}" for point in PLACES[place])


class Hang(Watch):
    def hangs_at(self, cases):
        self.train_once(self.config("saved.yaml", moe={"experts": 6}, train={"steps": 3}), "saved", 2)
        jobs = []
        for place, action, rank in cases:
            args = ["--init-from", self.folder / "saved"] if place == "load" else []
            jobs.append(self.watched(f"{place}_{action[:5]}_{rank}", faults(place, action, rank), args=args))
        for (place, action, rank), job in zip(cases, jobs):
            with self.subTest(place=place, action=action, rank=rank):
                how = "has stopped answering" if action == "stop" else "has not come to where the others wait"
                words = [rf"rank {rank} \(host [^)]*\) {how} for {TIMEOUT} s"]
                words += [r"state T \(stopped\)"] if action == "stop" else [f"rank {rank} stands at:\n"]
                if place in ("dispatch", "combine"):
                    words.append(rf"s waiting in 'moe {place}' \(all_to_all over ep, call \d+\) of layer \d, step \d")
                if action == "stop" and rank == 0:
                    words.append(r"error \[rank 1\]")
                if action != "stop":  # else it is where it was last seen
                    words.append(rf"\n  rank {rank}: .* in {place if place in ('save', 'load') else '(forward|backward)'}")
                self.ends(job, words)

    def test_ranks_that_hang_in_a_step_are_named(self):
        self.hangs_at([("dispatch", "stop", 1), ("combine", "sleep=1000", 2), ("forward", "stop", 0)])

    def test_ranks_that_hang_in_saving_and_loading_are_named(self):
        self.hangs_at([("save", "stop", 2), ("load", "sleep=1000", 0)])

    def test_ranks_that_hang_in_eval_and_generate_are_named(self):
        saved = self.folder / "saved"
        cfg = self.config(parallel={"ep": 2, "timeout_s": TIMEOUT}, train={"steps": 1, "probe_every": 0})
        self.train(cfg, "saved", ranks=2)
        jobs = [self.start(*args, ranks=2, fault="moe dispatch:5:stop:1") for args in
                (("eval", saved, "--data", self.home / "held_out"), ("generate", saved, "--prompt", "the "))]
        for job in jobs:
            self.ends(job, [rf"rank 1 \(host [^)]*\) has stopped answering for {TIMEOUT} s",
                            "rank 0: .* waiting in 'moe dispatch' "])

    @unittest.skipUnless(LONG, "long")
    def test_any_rank_that_hangs_anywhere_is_named(self):
        for place in PLACES:
            for action in ("stop", "sleep=1000"):
                self.hangs_at([(place, action, rank) for rank in range(3)])

    @unittest.skipUnless(LONG, "long")
    def test_both_observers_stopped_the_others_end_by_themselves(self):
        job = self.watched("run", "train.step:3:stop:0,train.step:3:stop:1")
        job.wait()
        self.assertEqual(job.status, 76, job.text())
        self.assertIn("ranks 0 and 1 have stopped answering", job.stderr)
        self.assertEqual(job.left, {}, job.text())


class Pause(Watch):
    def test_legal_pauses_and_long_work_change_nothing(self):
        """A rank stopped for half the timeout; the whole job stopped for longer than it; a save that goes on for longer."""
        self.ranks = 3
        steps = {"steps": 6}
        cfg = self.config("whole.yaml", parallel={"ep": 3}, moe={"experts": 6}, train=steps)
        self.train(cfg, "whole", ranks=3)
        job = self.watched("run", "train.step:3:sleep=2,train.step:4:sleep=2,checkpoint_write:2:slow=0.05:1", timeout=3, train=steps)
        self.wait_for_steps(job, "run", 2)
        pids = job.pids()
        os.kill(pids[1], signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(pids[1], signal.SIGCONT)
        self.wait_for_steps(job, "run", 3)
        for pid in pids.values():
            os.kill(pid, signal.SIGSTOP)
        time.sleep(3.5)
        for pid in pids.values():
            os.kill(pid, signal.SIGCONT)
        job.wait()
        self.assertEqual((job.status, job.errors()), (0, []), job.text())
        self.same_records("run", "whole")

    def test_timeout_of_zero_watches_nothing(self):
        job = self.watched("run", "train.step:3:stop:1", ranks=2, ep=2, timeout=0)
        self.wait_for_steps(job, "run", 2)
        time.sleep(1.5)
        self.assertIsNone(job.process.poll(), job.text())
        for pid in job.pids().values():
            tasks = Path(f"/proc/{pid}/task").iterdir()
            self.assertNotIn("sy-watch", [(task / "comm").read_text().strip() for task in tasks])


class Timing(Watch):
    def test_random_delays_before_every_collective_change_no_bit(self):
        cfg = self.config("whole.yaml", parallel={"ep": 3}, moe={"experts": 6}, train={"steps": 4})
        self.train(cfg, "whole", ranks=3)
        for seed in range(50 if LONG else 1):
            run = f"run{seed}"
            job = self.watched(run, f"collective:1:jitter=0.0{100 + seed}", train={"steps": 4}).wait()
            self.assertEqual((job.status, job.errors()), (0, []), job.text())
            self.same_records(run, "whole")

    def test_straggler_is_named_while_the_run_goes_on(self):
        job = self.watched("run", "train.micro_batch:1:slow=0.04:2", train={"steps": 80, "global_batch": 3, "checkpoint_every": 0})
        job.wait()
        self.assertEqual(job.status, 0, job.text())
        named = re.findall(r"rank (\d) \(host [^)]*\) computes ([\d.]+) times as long as the median of the others", job.stderr)
        self.assertEqual([rank for rank, _ in named], ["2"], job.text())
        self.assertGreater(float(named[0][1]), 1.5)

    @unittest.skipUnless(LONG, "long")
    def test_thousand_clean_steps_on_a_loaded_machine_name_nobody(self):
        job = self.watched("run", None, ranks=4, ep=2, train={"steps": 1000, "global_batch": 16, "checkpoint_every": 0},
                           model={"hidden": 128, "seq_len": 64}).wait(600)
        self.assertEqual(job.status, 0, job.text())
        self.assertNotIn("times as long as", job.stderr)


class Desync(Watch):
    """A collective that one rank leaves out, calls twice, or calls with another size."""

    def out_of_step(self, cases):
        jobs = [self.watched(f"run{i}", fault, ep=ep, timeout=30) for i, (fault, ep, _) in enumerate(cases)]
        for (fault, ep, words), job in zip(cases, jobs):
            with self.subTest(fault):
                self.ends(job, [r"rank \d \(host [^)]*\) has made other collective calls than the rest: ", *words], status=1)
                self.assertLess(job.seconds, 30, "this waited for parallel.timeout_s\n" + job.text())

    def test_collectives_left_out_called_twice_or_of_another_size_are_found_with_both_calls(self):
        self.out_of_step([
            ("moe dispatch:20:skip:1", 3, [r"rest: 'moe [a-z ]*' .* of layer \d where rank \d called 'moe [a-z ]*' "]),
            ("step head:3:twice:2", 1, [r"rest: 'step head' .*bytes\) where rank \d called '"]),
            ("gradients:3:short:2", 1, [r"rest: 'gradients' .*, \d+ bytes\) where rank 0 called 'gradients' .*, \d+ bytes\)"])])


if __name__ == "__main__":
    harness.main()

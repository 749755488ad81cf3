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
# where: the fault point (its nth passage on a rank), with a pause before it, so that the rank is last seen near it. A rank
# passes the dispatch and the combine of 2 layers, forward and backward, in each of its micro-batches.
PLACES = {"forward": ["train.micro_batch:4:sleep=0.7", "train.micro_batch:5:{}"],
          "dispatch": ["moe dispatch:17:sleep=0.7", "moe dispatch:18:{}"],
          "combine": ["moe combine:17:sleep=0.7", "moe combine:18:{}"],
          "save": ["checkpoint_write:3:sleep=0.7", "checkpoint_write:4:{}"],
          "load": ["checkpoint_read:3:sleep=0.7", "checkpoint_read:4:{}"]}


class Watch(harness.Case):
    def watched(self, run, fault, ranks=3, ep=3, timeout=TIMEOUT, args=(), **sections):
        """Without a probe, which would pass fault points too."""
        moe = {"experts": 6, **sections.pop("moe", {})}
        train = {"probe_every": 0, **sections.pop("train", {})}
        cfg = self.config(f"{run}.yaml", parallel={"ep": ep, "timeout_s": timeout}, moe=moe, train=train, **sections)
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


class Commands(Watch):
    @classmethod
    def setUpClass(cls):
        """A dense and a MoE model, as sources of what reads one."""
        super().setUpClass()
        case = cls("setUp")
        case.setUp()
        for name, moe in (("dense", {"experts": 0}), ("moe", {"experts": 6})):
            cfg = case.config(moe=moe, parallel={"timeout_s": TIMEOUT}, train={"steps": 1, "probe_every": 0})
            case.train(cfg, name)
            (case.folder / name).rename(cls.home / name)
        case.tearDown()

    def command(self, name):
        """What starts a command, which is watched as its model says."""
        dense, moe = self.home / "dense", self.home / "moe"
        return {"eval": ("eval", moe, "--set", "parallel.ep=2", "--data", self.home / "held_out"),
                "generate": ("generate", moe, "--set", "parallel.ep=2", "--prompt", "the "),
                "upcycle": ("upcycle", dense, "-o", self.folder / "up.h5", "--experts", 2),
                "merge": ("merge", "--method", "btx", "--source", dense, "--source", dense, "-o", self.folder / "merged.h5"),
                "check": ("check", "layout", self.config("check.yaml", parallel={"timeout_s": TIMEOUT}), "--steps", 1),
                "bench": ("bench", "dispatch", "--repeats", 3),
                "doctor": ("doctor", "--run-dir", self.folder)}[name]


class Hang(Commands):
    def hang_at(self, cases):
        """Training runs, with what each must say."""
        jobs = []
        for place, action, rank in cases:
            args = ["--init-from", self.home / "moe"] if place == "load" else []
            how = "has stopped answering" if action == "stop" else "has not come to where the others wait"
            words = [rf"rank {rank} \(host [^)]*\) {how} for {TIMEOUT} s"]
            words += [r"state T \(stopped\)"] if action == "stop" else [rf"rank {rank} stands at \(addr2line -fipe FILE ADDRESS"]
            if place in ("dispatch", "combine"):
                words.append(rf"s waiting in 'moe {place}' \(all_to_all over ep, call \d+\) of layer 1, step 3\n")
            if action == "stop" and rank == 0:
                words.append(r"error \[rank 1\]")
            if action != "stop":  # else it is where it was last seen
                words.append(rf"\n  rank {rank}: .* in {place if place in ('save', 'load') else '(forward|backward)'}")
            jobs.append((self.watched(f"{place}_{action[:5]}_{rank}", faults(place, action, rank), args=args), words))
        return jobs

    def end_all(self, jobs, status=76):
        for job, words in jobs:
            with self.subTest(job.env["SY_FAULT"]):
                self.ends(job, words, status)

    def test_ranks_that_hang_in_a_step_are_named(self):
        self.end_all(self.hang_at([("dispatch", "stop", 1), ("combine", "sleep=1000", 2), ("forward", "stop", 0)]))

    def test_ranks_that_hang_in_saving_loading_and_in_any_command_are_named(self):
        jobs = self.hang_at([("save", "stop", 2), ("load", "sleep=1000", 0)])
        for name, fault, words in (("eval", "moe dispatch:5:stop", "rank 0: .* waiting in 'moe dispatch' "),
                                   ("generate", "moe dispatch:5:stop", "rank 0: .* waiting in 'moe dispatch' "),
                                   ("upcycle", "checkpoint_write:5:sleep=1000", "rank 1: .* in upcycle, "),
                                   ("merge", "checkpoint_read:40:sleep=1000", "rank 1: .* in merge, ")):
            how = "stopped answering" if "stop" in fault else "not come to where the others wait"
            jobs.append((self.start(*self.command(name), ranks=2, fault=fault + ":1"),
                         [rf"rank 1 \(host [^)]*\) has {how} for {TIMEOUT} s", words]))
        self.end_all(jobs)

    def test_slow_work_of_one_rank_is_no_hang(self):
        """Twice as long as the timeout, in pieces: what is read and what is written."""
        jobs = [self.start(*self.command(name), "--set", "parallel.timeout_s=1", ranks=2, fault=f"{point}:1:slow=0.1:1")
                for name, point in (("upcycle", "checkpoint_write"), ("merge", "checkpoint_read"))]
        for job in jobs:
            job.wait()
            self.assertEqual((job.status, job.errors()), (0, []), job.text())
            self.assertGreater(job.seconds, 2)

    def test_commands_whose_ranks_make_other_calls_are_found(self):
        jobs = [self.start(*self.command(name), ranks=2, fault=fault + ":skip:1")
                for name, fault in (("doctor", "places:1"), ("bench", "status:8"), ("check", "status:12"))]
        self.end_all([(job, [r"rank [01] \(host [^)]*\) has made other collective calls than the rest: "]) for job in jobs], 1)

    @unittest.skipUnless(LONG, "long")
    def test_any_rank_that_hangs_anywhere_is_named(self):
        for place in PLACES:
            for action in ("stop", "sleep=1000"):
                self.end_all(self.hang_at([(place, action, rank) for rank in range(3)]))

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
                self.ends(job, [r"rank [12] \(host [^)]*\) has made other collective calls than the rest: ", *words], status=1)
                self.assertLess(job.seconds, 30, "this waited for parallel.timeout_s\n" + job.text())

    def test_collectives_left_out_called_twice_or_of_another_size_are_found_with_both_calls(self):
        self.out_of_step([
            ("moe dispatch:20:skip:1", 3, ["rest: 'moe dispatch extra' .* of layer 0 where rank 0 called 'moe dispatch' "]),
            ("step head:3:twice:2", 1, [r"rest: 'step head' \(all_reduce over host, call 4, .* where rank 0 called 'gradients' "]),
            ("gradients:3:short:2", 1, [r"rest: 'gradients' .*, \d+ bytes\) where rank 0 called 'gradients' .*, \d+ bytes\)"])])


class Ends(Commands):
    """A rank that fails, or is no more, takes the job along at once, and says why in one line."""

    def test_collective_that_fails_on_one_rank_ends_every_command(self):
        cases = [(self.start(*self.command(name), ranks=2, fault=f"collective:{nth}:fail:1"), "'collective' fails")
                 for name, nth in (("eval", 12), ("generate", 1), ("upcycle", 25), ("merge", 40), ("doctor", 7))]
        cases.append((self.watched("run", "gradients:2:short:1", ranks=2, ep=1, timeout=0),  # nobody watches
                      r"'gradients' failed in reduce_scatter over 'dense' on rank 1 of 2: .*truncated"))
        for job, words in cases:
            with self.subTest(job.process.args):
                self.ends(job, [r"error \[rank 1\]: .*" + words], status=1)

    def test_rank_that_exits_or_crashes_is_named_with_the_phase(self):
        cases = [("forward", "exit"), ("save", "exit"), ("load", "exit"), ("dispatch", "crash")]
        if LONG:
            cases = [(place, action) for place in PLACES for action in ("exit", "crash", "kill")]
        jobs = []
        for place, action in cases:
            args = ["--init-from", self.home / "moe"] if place == "load" else []
            jobs.append(self.watched(f"{place}_{action}", PLACES[place][1].format(action) + ":1", ranks=2, ep=2, args=args))
        for (place, action), job in zip(cases, jobs):
            with self.subTest(place=place, action=action):
                phase = place if place in ("save", "load") else "(forward|backward)"
                words = {"exit": rf"error \[rank 1\]: the process was ended from within by exit\(0\), in {phase}, step \d",
                         "crash": rf"error \[rank 1\]: the process died of signal 11 \(segmentation fault\) in {phase}, step \d",
                         "kill": r"process rank 1 .* exited on signal 9 \(Killed\)"}[action]
                job.wait()
                self.assertEqual(job.status, {"exit": 1, "crash": 139, "kill": 137}[action], job.text())
                self.assertEqual(len(re.findall(words, job.stderr)), 1, job.text())
                self.assertEqual(len(job.errors()), action != "kill", job.text())
                self.assertEqual(job.left, {}, job.text())


if __name__ == "__main__":
    harness.main()

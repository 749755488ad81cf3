#!/usr/bin/env python3
"""A request to stop saves a checkpoint, ends with status 75 everywhere, and costs nothing: the resumed run is the one
that was never asked. A second request ends at once."""

import signal
import time

import harness


class Signals(harness.Case):
    def endless(self, **sections):
        """A run that does not end by itself; its learning rate does not depend on train.steps."""
        sections.setdefault("train", {}).update({"steps": 1000000, "checkpoint_every": 0})
        return self.config(**sections)

    def stops(self, number, ranks, **sections):
        config = self.endless(**sections)
        job = self.start("train", config, "--run-dir", self.folder / "run", ranks=ranks, fault="train.step:6:sleep=1")
        self.wait_for_steps(job, "run", 5)
        job.signal(number)
        job.wait(20)
        self.assertEqual(job.status, 75, job.text())
        self.assertEqual(job.errors(), [], job.text())
        self.assertEqual(job.left, {}, "ranks are left behind\n" + job.text())
        self.assertIn("--resume", job.stderr)
        step = self.metrics("run")[-1]["step"]
        self.assertEqual(self.checkpoints("run"), ["latest", f"step_{step:08d}.h5"])

        more = ["--set", f"train.steps={step + 5}"]
        self.train(config, "run", "--resume", *more, ranks=ranks)
        self.train(config, "whole", *more, ranks=ranks)
        self.same_records("run", "whole")

    def test_sigusr1_to_one_process_saves_and_resumes_bit_for_bit(self):
        self.stops(signal.SIGUSR1, 0)

    def test_sigterm_to_one_process_saves_and_resumes_bit_for_bit(self):
        self.stops(signal.SIGTERM, 0)

    def test_sigint_to_one_process_saves_and_resumes_bit_for_bit(self):
        self.stops(signal.SIGINT, 0)

    def test_job_asked_again_and_again_loses_no_step(self):
        """SIGTERM to mpirun leaves the ranks 2 s: what they save by then stands, else the run goes on from before."""
        config, run = self.endless(parallel={"ep": 2}), self.folder / "run"
        saved = 0
        for what, ask, status in (("SIGUSR1 to mpirun", lambda job: job.signal(signal.SIGUSR1), 75),
                                  ("SIGTERM to one rank", lambda job: job.kill_rank(1, signal.SIGTERM), 75),
                                  ("SIGUSR1 to one rank", lambda job: job.kill_rank(0, signal.SIGUSR1), 75),
                                  ("SIGTERM to mpirun", lambda job: job.signal(signal.SIGTERM), 1)):
            with self.subTest(what):
                job = self.start("train", config, "--run-dir", run, "--resume", ranks=2,
                                 fault="train.step:3:sleep=1" if status == 75 else None)
                self.wait_for_steps(job, "run", saved + 2)
                ask(job)
                job.wait(30)
                self.assertEqual(job.status, status, job.text())
                self.assertEqual((job.errors(), job.left), ([], {}), job.text())
                last, asked = self.metrics("run")[-1]["step"], "stopped on request after step" in job.stderr
                stands = f"step_{last:08d}.h5" in self.checkpoints("run")
                self.assertTrue(asked or status == 1, job.text())
                self.assertTrue(stands or not asked, job.text())
                saved = last if stands else saved
        more = ["--set", f"train.steps={saved + 3}"]
        job = self.train(config, "run", "--resume", *more, ranks=2)
        self.assertIn(f"step_{saved:08d}.h5", job.stderr)
        self.train(config, "whole", *more, ranks=2)
        self.same_records("run", "whole")

    def test_second_signal_ends_at_once(self):
        job = self.start("train", self.endless(), "--run-dir", self.folder / "run", fault="train.step:4:sleep=50")
        self.wait_for_steps(job, "run", 3)
        job.signal(signal.SIGUSR1)
        time.sleep(0.3)
        self.assertIsNone(job.process.poll(), "the first request waits for the step")
        job.signal(signal.SIGUSR1)
        job.wait(3)
        self.assertNotIn(job.status, (0, 2, 3, 75))

    def evaluation_is_cut_short(self, ranks, ask):
        """Asked while the second of three sets is under way: it and the third have no figure, the first has."""
        sets = [{"name": name, "path": str(self.home / "held_out")} for name in ("first", "second", "third")]
        sections = {"data": {"valid": sets}, "parallel": {"ep": 1}}
        config = self.endless(train={"eval_every": 3, "eval_batches": 4}, **sections)
        job = self.start("train", config, "--run-dir", self.folder / "run", ranks=ranks, fault="train.eval:6:sleep=2")
        self.wait_for_steps(job, "run", 2)
        time.sleep(0.5)
        ask(job)
        job.wait(20)
        self.assertEqual(job.status, 75, job.text())
        self.assertEqual(job.errors(), [], job.text())
        self.assertEqual(job.left, {}, "ranks are left behind\n" + job.text())
        self.assertIn("--resume", job.stderr)
        last = self.metrics("run")[-1]
        self.assertEqual(last["step"], 3)
        self.assertEqual([k for k in last if k.startswith("valid/")], ["valid/first/loss"])
        self.assertEqual(self.checkpoints("run"), ["latest", "step_00000003.h5"])

        more = ["--set", "train.steps=7"]
        self.train(config, "run", "--resume", *more, ranks=ranks)
        self.train(config, "whole", *more, ranks=ranks)
        ours, theirs = self.metrics("run"), self.metrics("whole")
        self.assertEqual([r["step"] for r in ours], list(range(1, 8)))
        self.assertEqual(ours[5]["valid/third/loss"], ours[5]["valid/first/loss"])
        for name in ("second", "third"):
            del theirs[2][f"valid/{name}/loss"]
        self.assertEqual(ours, theirs)

    def test_sigterm_during_evaluation_cuts_it_short(self):
        self.evaluation_is_cut_short(0, lambda job: job.signal(signal.SIGTERM))

    def test_sigusr1_to_one_rank_during_evaluation_cuts_it_short_on_all(self):
        self.evaluation_is_cut_short(2, lambda job: job.kill_rank(1, signal.SIGUSR1))

    def test_request_before_the_first_step_saves_nothing_wrong(self):
        job = self.start("train", self.endless(), "--run-dir", self.folder / "run", fault="train.step:1:sleep=1")
        self.wait_for(self.folder / "run/metrics.jsonl")
        job.signal(signal.SIGUSR1)
        job.wait(20)
        self.assertEqual(job.status, 75, job.text())
        self.train(self.endless(), "run", "--resume", "--set", "train.steps=3")
        self.train(self.endless(), "whole", "--set", "train.steps=3")
        self.same_records("run", "whole")


if __name__ == "__main__":
    harness.main()

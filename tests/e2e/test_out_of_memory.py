#!/usr/bin/env python3
"""One rank of two has no memory for its n-th allocation: the job ends with one message, or a save is tried again later;
no rank waits for another."""

import os
import random
import shutil
import unittest

import harness
from harness import LONG

SECONDS = 30  # a job takes one


class OutOfMemory(harness.Case):
    def setUp(self):
        super().setUp()
        self.cfg = self.config(model={"hidden": 16, "layers": 1, "heads": 2, "ffn_hidden": 16},
                               moe={"experts": 2}, parallel={"ep": 2},
                               train={"steps": 2, "global_batch": 2, "checkpoint_every": 1})
        self.dir = self.folder / "run"

    def refuses(self, n, rank, status, args):
        """False where the job came to its end as if nothing had been: it allocates no more than that."""
        job = self.job(*args, ranks=2, fault=f"alloc:{n}:fail:{rank}", seconds=SECONDS)
        self.assertEqual(job.left, {}, job.text())
        if job.status == status and not job.errors():
            return "out of memory" in job.stderr  # a warning
        self.assertEqual(job.status, 1, job.text())
        self.assertEqual(len(job.errors()), 1, job.text())
        self.assertIn("out of memory", job.stderr)
        return True

    def run_through(self, stride, status, *args, before=None):
        """The first n and about one in `stride`, in a long run one in 8."""
        seed = int.from_bytes(os.urandom(4), "little")
        dice = random.Random(seed)
        for rank in (0, 1):
            n, more = 1, True
            while more:
                with self.subTest(n=n, rank=rank, seed=seed, command=args[0]):
                    if before:
                        before()
                    more = False  # one failure is enough
                    more = self.refuses(n, rank, status, args)
                n += dice.randint(1, 15 if LONG else 2 * stride)

    def test_training_ends_or_goes_on_together(self):
        self.run_through(450, 0, "train", self.cfg, "--run-dir", self.dir,
                         before=lambda: shutil.rmtree(self.dir, ignore_errors=True))

    def test_resuming_ends_or_goes_on_together(self):
        self.train(self.cfg, "whole", ranks=2)

        def before():
            shutil.rmtree(self.dir, ignore_errors=True)
            shutil.copytree(self.folder / "whole", self.dir, symlinks=True)
        self.run_through(900, 0, "train", self.cfg, "--run-dir", self.dir, "--resume", "--set", "train.steps=4", before=before)

    def test_readers_end_together(self):
        self.train(self.cfg, "run", ranks=2)
        a, b = (self.dir / f"checkpoints/step_0000000{step}.h5" for step in (1, 2))
        self.run_through(150, 0, "verify", a)
        self.run_through(250, 1, "diff", a, b)
        self.run_through(400, 0, "eval", a, "--data", self.home / "held_out")


if __name__ == "__main__":
    harness.main()

#!/usr/bin/env python3
"""One rank of two has no memory for its n-th allocation: the job ends with one message, or a save is tried again later;
no rank waits for another."""

import os
import random
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import harness
from harness import LONG

SECONDS = 60  # a job takes one
RUN = object()  # in a command: the run directory


class OutOfMemory(harness.Case):
    def setUp(self):
        super().setUp()
        self.cfg = self.config(model={"hidden": 16, "layers": 1, "heads": 2, "ffn_hidden": 16},
                               moe={"experts": 2}, parallel={"ep": 2},
                               train={"steps": 2, "global_batch": 2, "checkpoint_every": 1})

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

    def fail_at_random(self, rank, seed, stride, status, args, before):
        """The first n and about one in `stride`, in a long run one in 8; until a job comes to its end."""
        dice = random.Random(f"{seed} {rank}")
        folder, n, more = self.folder / f"rank{rank}", 1, True
        folder.mkdir(exist_ok=True)
        while more:
            before(folder / "run")
            try:
                more = self.refuses(n, rank, status, [folder / "run" if a is RUN else a for a in args])
            except AssertionError as error:
                raise AssertionError(f"{args[0]}, allocation {n} of rank {rank}, seed {seed}: {error}") from error
            n += dice.randint(1, 15 if LONG else 2 * stride)

    def run_through(self, stride, status, *args, before=lambda run: None):
        """Allocations of either rank, both at the same time: a start waits more than it computes."""
        seed = int.from_bytes(os.urandom(4), "little")
        with ThreadPoolExecutor() as both:
            for end in [both.submit(self.fail_at_random, rank, seed, stride, status, args, before) for rank in (0, 1)]:
                end.result()

    def test_training_ends_or_goes_on_together(self):
        self.run_through(450, 0, "train", self.cfg, "--run-dir", RUN, before=lambda run: shutil.rmtree(run, ignore_errors=True))

    def test_resuming_ends_or_goes_on_together(self):
        self.train(self.cfg, "whole", ranks=2)

        def before(run):
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(self.folder / "whole", run, symlinks=True)
        self.run_through(900, 0, "train", self.cfg, "--run-dir", RUN, "--resume", "--set", "train.steps=4", before=before)

    def test_readers_end_together(self):
        self.train(self.cfg, "run", ranks=2)
        a, b = (self.folder / f"run/checkpoints/step_0000000{step}.h5" for step in (1, 2))
        self.run_through(150, 0, "verify", a)
        self.run_through(250, 1, "diff", a, b)
        self.run_through(400, 0, "eval", a, "--data", self.home / "held_out")


class Limit(harness.Case):
    """All tokens go to one expert, as the text is one letter. Rows beyond the buffer for a fair share travel in further passes, so
    the rank of that expert gets along with the memory of a balanced run; where there is not enough, the job says so and ends."""

    def setUp(self):
        super().setUp()
        harness.write_tokens(self.home / "same", [b"a" * 20000])
        self.cfg = self.config(model={"hidden": 128, "ffn_hidden": 256, "seq_len": 256},
                               moe={"top_k": 1, "normalize_weights": False, "recv_factor": 1}, parallel={"ep": 2},
                               train={"steps": 4, "global_batch": 8, "micro_batch": 4, "checkpoint_every": 0})

    def limited(self, kib, run):
        """All that rank 1 may map is so much."""
        shutil.rmtree(self.folder / run, ignore_errors=True)
        limit = f'[ "$OMPI_COMM_WORLD_RANK" = 0 ] || ulimit -v {kib}; exec "$0" "$@"'
        return self.job("train", self.cfg, "--run-dir", self.folder / run, "--set", f"data.train=[{{path: {self.home / 'same'}}}]", ranks=2,
                        program=["bash", "-c", limit, harness.PROGRAM])

    def test_imbalance_needs_no_more_memory_and_a_limit_ends_the_job(self):
        job = self.start("train", self.cfg, "--run-dir", self.folder / "balanced", "--set", "moe.force_balance=true", ranks=2,
                         fault="train.step:4:sleep=3")
        self.wait_for_steps(job, "balanced", 3)
        peak = int(re.search(r"VmPeak:\s+(\d+)", Path(f"/proc/{job.pids()[1]}/status").read_text())[1])
        job.wait()
        self.assertEqual(float(self.metrics("balanced")[-1]["moe/load_max_over_mean"]), 1)

        job = self.limited(peak + (24 << 10), "uneven")
        self.assertEqual((job.status, job.errors(), job.left), (0, [], {}), job.text())
        for record in self.metrics("uneven"):
            self.assertEqual((float(record["moe/load_max_over_mean"]), float(record["moe/drop_fraction"])), (4, 0))

        for less in range(8, 160, 4) if LONG else (24,):
            with self.subTest(less=less):
                self.check_failure(self.limited(peak - (less << 10), "none"), 1, ["rank 1"])
                self.assertRegex(self.jobs[-1].errors()[0], "out of memory.* [0-9]+ bytes|cannot start thread")


if __name__ == "__main__":
    harness.main()

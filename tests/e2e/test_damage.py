#!/usr/bin/env python3
"""A checkpoint that is not what was written is never trained on: status 3 in one sentence, or the one before it with a
warning; the files stay as they are."""

import array
import os
import random
import re
import shutil

import harness
from harness import LONG, snapshot


def norm_offset(data):
    """Where the weights of a norm lie: 32 floats near 1 in a row, at any byte."""
    for shift in range(4):
        floats, run = array.array("f", bytes(data[shift:shift + (len(data) - shift) // 4 * 4])), 0
        for i, x in enumerate(floats):
            run = run + 1 if 0.8 < x < 1.2 else 0
            if run == 32:
                return shift + 4 * (i - 31)
    raise AssertionError("no norm in the checkpoint")


class Damage(harness.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        case = cls("prepare")
        case.setUp()
        case.prepare()
        cls.source = cls.home / "source"
        shutil.copytree(case.folder / "run", cls.source, symlinks=True)
        cls.good = (cls.source / "checkpoints/step_00000003.h5").read_bytes()
        case.tearDown()

    def prepare(self):
        self.train(self.config(train={"steps": 6}), "run")

    def damaged(self, data, name="bad.h5"):
        path = self.folder / name
        path.write_bytes(data)
        return path

    def is_damaged(self, data, words=None, ranks=0):
        """Whoever reads it says so, with status 3."""
        path = self.damaged(data)
        words = [path.name] if words is None else words
        self.fails(3, words, "train", self.config(), "--run-dir", self.folder / "run", "--resume", path, ranks=ranks)
        self.assertEqual(path.read_bytes(), data)
        return path


class Whole(Damage):
    def test_file_that_is_no_checkpoint_is_damaged(self):
        for data in (b"", b"x", b"\x89HDF\r\n\x1a\n", b"once upon a time " * 5000, bytes(100000)):
            path = self.is_damaged(data)
            self.fails(3, path.name, "inspect", path)
            self.fails(3, path.name, "eval", path, "--data", self.home / "held_out")
        self.fails(3, path.name, "generate", path, "--prompt", "a")
        self.is_damaged(b"once upon a time ", ranks=2)

    def test_truncated_file_is_damaged(self):
        n = len(self.good)
        for size in (48, 96, 600, 2048, n // 3, n // 2, n - 4096, n - 8, n - 1):
            with self.subTest(size):
                path = self.is_damaged(self.good[:size])
                self.fails(3, path.name, "inspect", path)
        self.is_damaged(self.good[:n // 2], ranks=2)

    def test_file_with_a_tail_or_a_hole_is_damaged(self):
        n = len(self.good)
        self.is_damaged(self.good[:n // 2] + bytes(4096) + self.good[n // 2 + 4096:])
        self.is_damaged(self.good[:n // 2] + self.good[n // 2 + 4096:] + bytes(4096))

    def test_unknown_format_version_is_damaged(self):
        at = self.good.index(b"format_version\0")
        value = self.good.index(b"\1\0\0\0\0\0\0\0", at)
        self.assertLess(value - at, 100)
        self.is_damaged(self.good[:value] + b"\2" + self.good[value + 1:])

    def test_bits_flipped_anywhere_are_found(self):
        """A named file is verified whole before training goes on from it: every byte but the time of its making."""
        seed = int.from_bytes(os.urandom(4), "little")
        dice = random.Random(seed)
        n = len(self.good)
        places = [0, 8, 20, 48, 100, 500, n - 1] + [dice.randrange(n) for _ in range(600 if LONG else 25)]
        places += [dice.randrange(8192) for _ in range(200 if LONG else 10)]
        self.train(self.config(), "whole")
        for i, at in enumerate(places):
            with self.subTest(byte=at, of=n, seed=seed):
                data = bytearray(self.good)
                data[at] ^= 1 << dice.randrange(8)
                self.is_found(bytes(data), f"run{i}")

    def is_found(self, data, run):
        path = self.damaged(data)
        (self.folder / run).mkdir()
        shutil.copy(self.source / "metrics.jsonl", self.folder / run)
        job = self.job("train", self.config(), "--run-dir", self.folder / run, "--resume", path)
        if job.status == 0:  # the value of `created`, which no sum covers
            self.same_records(run, "whole")
            text = re.search(rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", self.good).span()
            changed = [i for i, (a, b) in enumerate(zip(data, self.good)) if a != b]
            self.assertTrue(text[0] - 64 <= changed[0] < text[1] + 64, job.text())
            return
        self.check_failure(job, 3, [])

    def test_bit_flipped_in_a_weight_is_found_by_every_reader_and_named(self):
        data = bytearray(self.good)
        data[norm_offset(data) + 20] ^= 16
        path = self.is_damaged(bytes(data), ["bad.h5", "norm"], ranks=3)
        self.fails(3, ["bad.h5", "norm"], "eval", path, "--data", self.home / "held_out")
        self.fails(3, ["bad.h5", "norm"], "generate", path, "--prompt", "a", ranks=2)
        self.fails(3, ["bad.h5", "norm"], "train", self.config(), "--run-dir", self.folder / "run", "--init-from", path)

    def test_checkpoint_that_was_never_finished_is_damaged(self):
        job = self.job("train", self.config(), "--run-dir", self.folder / "killed", fault="checkpoint_fsync:1:kill")
        self.assertNotEqual(job.status, 0)
        unfinished = (self.folder / "killed/checkpoints/.step_00000003.h5.tmp").read_bytes()
        self.is_damaged(unfinished)


class Verified(Damage):
    N_FLIPS, BATCH = 1000, 100

    def test_every_flipped_bit_is_reported_by_verify(self):
        """Anywhere, and as often where there is something: weights, names, tables, what HDF5 keeps."""
        seed = int.from_bytes(os.urandom(4), "little")
        dice = random.Random(seed)
        filled = [i for i, byte in enumerate(self.good) if byte]
        for first in range(0, self.N_FLIPS, self.BATCH):
            flips = {}
            for k in range(self.BATCH):
                at = dice.choice(filled) if k % 2 else dice.randrange(len(self.good))
                data = bytearray(self.good)
                data[at] ^= 1 << dice.randrange(8)
                flips[self.damaged(data, f"flip{k}.h5")] = at
            job = self.job("verify", *flips, ranks=2 if first == 0 else 0)
            self.assertEqual(job.status, 3, job.text())
            self.assertEqual(job.stdout, "")
            missed = {at: path for path, at in flips.items() if f"'{path}'" not in job.stderr}
            self.assertEqual(missed, {}, f"seed {seed}")
            self.assertEqual(len(job.errors()), self.BATCH, job.text())


class PassedOver(Damage):
    def spoil(self, run, step):
        path = self.folder / run / f"checkpoints/step_{step:08d}.h5"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def test_newest_checkpoint_that_is_damaged_is_passed_over(self):
        config = self.config()
        self.train(config, "whole")
        for ranks in (0, 2):
            run = f"run{ranks}"
            shutil.copytree(self.source, self.folder / run, symlinks=True)
            self.spoil(run, 6)
            job = self.train(config, run, "--resume", ranks=ranks)
            warnings = [w for w in job.stderr.splitlines() if w.startswith("warning")]
            self.assertEqual(len(warnings), 2, job.text())
            self.assertIn("step_00000006.h5", warnings[0])
            self.assertIn("step_00000006.h5.old", warnings[1])
            self.assertIn("step_00000003.h5", job.stderr)
            self.assertEqual([r["step"] for r in self.metrics(run)], list(range(1, 9)))
        self.same_records("run0", "whole")

    def test_damaged_checkpoints_are_none_of_those_that_are_kept(self):
        config = self.config(train={"checkpoint_keep": 2, "checkpoint_every": 4})
        shutil.copytree(self.source, self.folder / "run", symlinks=True)
        self.spoil("run", 6)
        self.train(config, "run", "--resume", "--set", "train.steps=7")
        self.assertEqual(self.checkpoints("run"), ["latest", "step_00000004.h5", "step_00000006.h5.old", "step_00000007.h5"])

    def test_checkpoint_that_cannot_be_read_is_tried_again_and_is_not_damaged(self):
        config = self.config()
        for n_fails, status in ((1, 0), (6, 1)):
            run = f"run{n_fails}"
            shutil.copytree(self.source, self.folder / run, symlinks=True)
            before = snapshot(self.folder / run)
            fault = ",".join(f"checkpoint_open:{i + 1}:fail:1" for i in range(n_fails))
            job = self.job("train", config, "--run-dir", self.folder / run, "--resume", ranks=2, fault=fault)
            if status == 0:
                self.assertEqual(job.status, 0, job.text())
                self.assertRegex(job.stderr, r"resuming from \S*step_00000006\.h5")
            else:
                self.check_failure(job, 1, ["could not be read", "checkpoint_open"])
                self.assertEqual(snapshot(self.folder / run), before)

    def test_latest_names_the_newest_that_is_whole_for_readers_too(self):
        shutil.copytree(self.source, self.folder / "run", symlinks=True)
        self.spoil("run", 6)
        job = self.succeeds("eval", self.folder / "run", "--data", self.home / "held_out")
        self.assertIn("step 3", job.stdout)

    def test_run_whose_checkpoints_are_all_damaged_is_refused_and_kept(self):
        shutil.copytree(self.source, self.folder / "run", symlinks=True)
        self.spoil("run", 6)
        self.spoil("run", 3)
        before = snapshot(self.folder / "run")
        for ranks in (0, 2):
            self.fails(3, self.folder / "run", "train", self.config(), "--run-dir", self.folder / "run", "--resume",
                       ranks=ranks)
        self.assertEqual(snapshot(self.folder / "run"), before)

    def test_link_to_nothing_is_a_missing_path(self):
        shutil.copytree(self.source, self.folder / "run", symlinks=True)
        (self.folder / "run/checkpoints/step_00000006.h5").unlink()
        self.fails(2, "latest", "eval", self.folder / "run/checkpoints/latest", "--data", self.home / "held_out")


if __name__ == "__main__":
    harness.main()

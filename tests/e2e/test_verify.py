#!/usr/bin/env python3
"""verify and diff: what stands in checkpoints, looked at by one rank and by several."""

import shutil
import unittest

import harness


class Files(harness.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        case = cls("prepare")
        case.setUp()
        case.prepare()
        for name in ("run", "other"):
            (case.folder / name).rename(cls.home / name)
        case.tearDown()

    def prepare(self):
        self.train(self.config(train={"steps": 6}), "run", ranks=2)
        self.train(self.config(train={"steps": 6}, optim={"lr": 0.011}), "other", ranks=2)

    def ckpt(self, step, run="run"):
        return self.home / run / f"checkpoints/step_{step:08}.h5"

    def spoil(self, name, at):
        path = self.folder / name
        raw = bytearray(self.ckpt(6).read_bytes())
        raw[at] ^= 16
        path.write_bytes(raw)
        return path


class Verify(Files):
    def test_whole_files_get_a_line_each(self):
        for ranks in (0, 3):
            job = self.succeeds("verify", self.ckpt(3), self.ckpt(6), ranks=ranks)
            lines = job.stdout.splitlines()
            self.assertEqual(len(lines), 2)
            self.assertIn("step_00000003.h5: whole: training, step 3, ", lines[0])
            self.assertIn("step_00000006.h5: whole: training, step 6, ", lines[1])

    def test_run_directory_means_every_checkpoint_in_it(self):
        lines = self.succeeds("verify", self.home / "run").stdout.splitlines()
        self.assertEqual([line.split(":")[0].split("/")[-1] for line in lines],
                         ["step_00000006.h5", "step_00000003.h5"])

    def test_damage_is_reported_and_the_others_are_looked_at(self):
        size = self.ckpt(6).stat().st_size
        bad = [self.spoil(f"{i}.h5", at) for i, at in enumerate((100, size // 2, size - 5000))]
        empty, cut = self.folder / "empty.h5", self.folder / "cut.h5"
        empty.write_bytes(b"")
        cut.write_bytes(self.ckpt(6).read_bytes()[:-1])
        for ranks in (0, 2):
            job = self.job("verify", *bad, self.ckpt(3), empty, cut, ranks=ranks)
            self.assertEqual(job.status, 3, job.text())
            self.assertEqual(job.stdout.count("whole"), 1)
            for path in (*bad, empty, cut):
                self.assertEqual(sum(path.name in line for line in job.errors()), 1, job.text())

    def test_what_is_not_there_is_wrong_use(self):
        self.fails(2, "nowhere", "verify", self.folder / "nowhere", ranks=2)
        job = self.job("verify", self.ckpt(3), self.folder / "nowhere", self.spoil("bad.h5", 5000), self.ckpt(6), ranks=2)
        self.assertEqual(job.status, 3, job.text())
        self.assertEqual(job.stdout.count("whole"), 2, job.text())
        self.assertEqual([("nowhere" in e, "bad.h5" in e) for e in job.errors()], [(True, False), (False, True)])


class Diff(Files):
    def differs(self, a, b, *args, ranks=0):
        job = self.job("diff", a, b, *args, ranks=ranks)
        self.assertEqual(job.status, 1, job.text())
        self.assertEqual(job.errors(), [])
        return job.stdout.splitlines()

    def test_file_is_the_same_as_its_copy(self):
        shutil.copy(self.ckpt(6), self.folder / "copy.h5")
        for ranks in (0, 3):
            self.assertRegex(self.succeeds("diff", self.ckpt(6), self.folder / "copy.h5", ranks=ranks).stdout,
                             r"^same: \d+ values compared\n$")

    def test_reload_and_save_changes_nothing(self):
        for ranks, ep in ((1, 1), (4, 4)):
            with self.subTest(ranks=ranks):
                run = self.folder / f"again{ranks}"
                (run / "checkpoints").mkdir(parents=True)
                shutil.copy(self.ckpt(6), run / "checkpoints/step_00000006.h5")
                before = (run / "checkpoints/step_00000006.h5").read_bytes()
                cfg = self.config(train={"steps": 6})
                self.train(cfg, f"again{ranks}", "--resume", self.ckpt(6), "--set", f"parallel.ep={ep}", ranks=ranks)
                lines = self.job("diff", self.ckpt(6), run / "checkpoints/step_00000006.h5").stdout.splitlines()
                self.assertTrue(all(line.startswith(("config ", "same", "different")) for line in lines), lines)
                self.assertTrue(before)

    def test_steps_and_settings_are_told_apart(self):
        for ranks in (0, 3):
            lines = self.differs(self.ckpt(3), self.ckpt(6), ranks=ranks)
            self.assertIn("attribute   step: 3 -> 6", lines)
            self.assertTrue(any(line.startswith("values      /model/embed: ") for line in lines))
            self.assertTrue(any(line.startswith("values      /state/step: 1 of 1 differ") for line in lines))
        lines = self.differs(self.ckpt(6), self.ckpt(6, "other"))
        self.assertIn("config      optim.lr: 0.01 -> 0.011", [line.replace("0.010999999999999999", "0.011") for line in lines])

    def test_ranks_find_the_same(self):
        alone = self.differs(self.ckpt(3), self.ckpt(6))
        self.assertEqual(self.differs(self.ckpt(3), self.ckpt(6), ranks=4), alone)

    def test_tolerance_decides(self):
        lines = self.differs(self.ckpt(6), self.ckpt(6, "other"), "--tolerance", "2")
        self.assertFalse(any(line.startswith("values      /model") for line in lines), lines)
        lines = self.differs(self.ckpt(6), self.ckpt(6, "other"), "--tolerance", "1e-9")
        self.assertTrue(any(line.startswith("values      /model") for line in lines), lines)

    def test_another_model_differs_in_shape_and_datasets(self):
        cfg = self.config(model={"ffn_hidden": 40}, moe={"experts": 2, "layers": [1]}, train={"steps": 1})
        self.train(cfg, "small")
        lines = self.differs(self.ckpt(6), self.folder / "small")
        self.assertTrue(any(line.startswith("shape       /model/layers/001/moe/experts/gate: [4, 48, 32] -> [2, 40, 32]")
                            for line in lines), lines)
        self.assertIn("only in A   /model/layers/000/moe/router", lines)
        self.assertIn("only in B   /model/layers/000/mlp/gate", lines)

    def test_damage_is_no_difference(self):
        bad = self.spoil("bad.h5", self.ckpt(6).stat().st_size // 2)
        self.fails(3, "bad.h5", "diff", self.ckpt(6), bad, ranks=2)
        self.fails(2, "nowhere", "diff", self.ckpt(6), self.folder / "nowhere")


if __name__ == "__main__":
    harness.main()

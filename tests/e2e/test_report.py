"""report: of a run that runs, that was killed, whose metrics are damaged, that has no metrics, and of two beside each other."""

import re
import signal

import harness


class Report(harness.Case):
    def report(self, *runs):
        """The text of the page, without its marks."""
        path = self.folder / "page.html"
        self.succeeds("report", *[self.folder / r for r in runs], "-o", path)
        page = path.read_text()
        found = harness.Page(page)
        self.assertEqual(found.faults, [])
        self.assertNotIn("<script", page)
        body = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
        return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))

    def test_report_says_how_the_run_stands(self):
        config = self.config()
        job = self.start("train", config, "--run-dir", self.folder / "run", fault="train.step:6:sleep=60", ranks=2)
        self.wait_for_steps(job, "run", 5)
        self.assertRegex(self.report("run"), r"running step 5 of 8 \(62 %\)")
        for rank in (0, 1):
            job.kill_rank(rank, signal.SIGKILL)
        job.wait()
        self.assertIn("died step 5 of 8 (62 %). train --resume goes on from there.", self.report("run"))

        metrics = self.folder / "run/metrics.jsonl"
        lines = metrics.read_bytes().splitlines(keepends=True)
        metrics.write_bytes(b"".join(lines[:2] + [b"\0\xff{\n"] + lines[2:]) + b'{"step":6,"tr')
        page = self.report("run")
        self.assertIn("Line 3 of metrics.jsonl is damaged and was left out.", page)
        self.assertIn("The last line of metrics.jsonl has no end", page)
        self.assertIn("from 5 logged steps", page)

        metrics.unlink()
        self.assertIn("died it ended before a step was logged.", self.report("run"))
        (self.folder / "run/config.yaml").unlink()
        self.fails(2, ["run", "neither metrics.jsonl nor config.yaml"], "report", self.folder / "run")

    def test_report_of_two_runs_shows_where_they_differ(self):
        for run, lr in (("one", 0.01), ("two", 0.02)):
            self.train(self.config(optim={"lr": lr}, train={"steps": 3}), run)
        page = self.report("one", "two")
        self.assertIn("one finished 3 steps in", page)
        self.assertIn("optim.lr 0.01 0.02", page)
        self.assertNotIn("optim.eps 1", page.split("config.yaml")[0])
        self.assertIn("finished 3 steps in", self.report("one"))
        self.assertIn("compare.html", self.succeeds("report", self.folder / "one", self.folder / "two").stdout)
        self.assertIn("(the same run again)", self.report("one", "one"))
        self.fails(2, "-o", "report", self.folder / "one", "-o", "")
        self.fails(2, "at most 6", "report", *["x"] * 7)


if __name__ == "__main__":
    harness.main()

#!/usr/bin/env python3
"""Every command of README.md and docs/TUTORIAL.md is run, as it stands there, in a folder that looks like a checkout.

Training is cut short, and what a reader has and we have not (models from a hub, texts of his own) is stood in for by small things of the same kind.
"""

import gzip
import json
import os
import re
import shutil
import subprocess

import harness
from harness import MPI_ENV, PROGRAM, ROOT, write_tokens

PARITY = ROOT / "tests/parity"
SMALLER = [(r"(hidden|seq_len): 128", r"\1: 32"), (r"ffn_hidden: 384", "ffn_hidden: 48"), (r"layers: 4", "layers: 2"), (r"heads: 4", "heads: 2"),
           (r"\bsteps: \d+", "steps: 24"), (r"\bsteps=\d+", "steps=4"), (r"(every|warmup_steps): \d+", r"\1: 4")]


def blocks(document):
    """The shell blocks of a Markdown file."""
    return re.findall(r"^```sh\n(.*?)^```", (ROOT / document).read_text(), re.M | re.S)


class Documents(harness.Case):
    def setUp(self):
        super().setUp()
        self.checkout = self.folder / "checkout"
        self.checkout.mkdir()
        for name in ("configs", "launch", "docs"):
            (self.checkout / name).symlink_to(ROOT / name)
        (self.checkout / "data/samples").mkdir(parents=True)
        for name, size in (("prose.txt", 40000), ("prose_valid.txt", 3000)):
            (self.checkout / "data/samples" / name).write_bytes((ROOT / "data/samples" / name).read_bytes()[:size])
        (self.checkout / "build/launch").mkdir(parents=True)
        (self.checkout / "build/launch/switchyard").symlink_to(os.path.abspath(PROGRAM))

    def run_blocks(self, document, skip=()):
        script = "\n".join(block for block in blocks(document) if not any(word in block for word in skip))
        for pattern, smaller in SMALLER:
            script = re.sub(pattern, smaller, script)
        script = "sleep() { until [ -s tutorial/moe/metrics.jsonl ]; do command sleep 0.05; done; }\n" + script
        path = f"{self.checkout}/build/launch:{self.checkout}/launch:{os.environ['PATH']}"
        done = subprocess.run(["bash", "-euo", "pipefail", "-x", "-c", script], cwd=self.checkout, text=True, errors="replace", stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
                              env={**os.environ, **MPI_ENV, "PATH": path})
        self.assertEqual(done.returncode, 0, done.stdout[-6000:])
        return done.stdout

    def test_tutorial_runs_from_the_first_command_to_the_last(self):
        said = self.run_blocks("docs/TUTORIAL.md", skip=["meson setup"])
        self.assertRegex(said, "exit status 75")
        made = {p.name for p in (self.checkout / "tutorial").iterdir()}
        self.assertLessEqual({"dense", "moe", "moe.h5", "my-moe", "again.h5", "mix.h5"}, made)
        self.assertIn("<svg", (self.checkout / "tutorial/moe/report.html").read_text())

    def test_readme_commands_run(self):
        self.stand_in()
        self.run_blocks("README.md", skip=["quickstart.sh"])

    def stand_in(self):
        """What the commands of the README take for granted."""
        here = self.checkout
        sample = (here / "data/samples/prose_valid.txt").read_text()
        (here / "book.txt").write_text(sample)
        with gzip.open(here / "web-1.jsonl.gz", "wt") as file:
            file.write(json.dumps({"text": sample}) + "\n")
        write_tokens(here / "data/held_out", [sample.encode()])
        for hub, fixture in (("Qwen3-30B-A3B", "qwen3_moe"), ("Llama-3.2-1B", "llama")):
            shutil.copytree(PARITY / "fixtures" / fixture, here / hub)
        shutil.copy(PARITY / "tokenizers/qwen2.json", here / "Qwen3-30B-A3B/tokenizer.json")
        for lora, adapter in (("code", "plain"), ("law", "other")):
            shutil.copytree(PARITY / "adapters" / adapter, here / "lora" / lora)
            write_tokens(here / "data" / lora, [bytes(i * i % 61 for i in range(600))])
        config = {"data": {"train": [{"path": "data/book"}]}, "parallel": {"ep": 4}, "train": {"steps": 24, "checkpoint_every": 20},
                  "model": {"vocab_size": 320}}
        self.config(**config).rename(here / "config.yaml")
        dense = self.config(**{**config, "moe": {"experts": 0}, "parallel": {}, "train": {"steps": 2},
                               "data": {"train": [{"path": str(here / "data/held_out")}]}})
        for i, name in enumerate(("code", "prose", "maths")):
            self.succeeds("train", dense, "--run-dir", here / "runs" / name, "--set", f"run.seed={i + 1}", cwd=here)


if __name__ == "__main__":
    harness.main()

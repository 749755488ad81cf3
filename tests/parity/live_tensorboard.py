#!/usr/bin/env python3
"""Does a real TensorBoard show what metrics.jsonl says: scalars, and loads of experts as histograms? Before and after a
resume that goes back a few steps.

    SWITCHYARD=build/launch/switchyard python3 tests/parity/live_tensorboard.py

Exit status 77 where the package tensorboard is missing; launch/parity.sh installs it.
"""
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError as missing:
    print(f"skipped: {missing}; launch/parity.sh installs what the live comparison needs", file=sys.stderr)
    sys.exit(77)

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("SWITCHYARD", str(ROOT / "build/launch/switchyard"))
CONFIG = {"device": {"backend": "cpu", "threads": 1},
          "model": {"vocab_size": 320, "hidden": 32, "layers": 2, "heads": 4, "ffn_hidden": 48, "seq_len": 32},
          "moe": {"experts": 6, "top_k": 2, "capacity_factor": 1.0}, "optim": {"lr": 0.01},
          "train": {"steps": 7, "global_batch": 4, "checkpoint_every": 4, "checkpoint_keep": 0}}


def run(*args):
    subprocess.run([PROGRAM, *map(str, args)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def compare(run_dir):
    """Every number and every array of every record. Returns how many."""
    board = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0, "histograms": 0})
    board.Reload()
    scalars = {tag: {e.step: e.value for e in board.Scalars(tag)} for tag in board.Tags()["scalars"]}
    histograms = {tag: {e.step: e.histogram_value for e in board.Histograms(tag)} for tag in board.Tags()["histograms"]}
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    n = 0
    for record in records:
        for key, value in record.items():
            if key == "step":
                continue
            n += 1
            if isinstance(value, list):
                shown = histograms[key][record["step"]]
                assert list(shown.bucket) == value, (key, record["step"], list(shown.bucket), value)
                assert list(shown.bucket_limit) == [e + 1 for e in range(len(value))], key
                assert math.isclose(shown.num, sum(value), abs_tol=1e-9), key
            elif value is not None:
                shown = scalars[key][record["step"]]
                assert abs(shown - value) <= 1e-6 * abs(value), (key, record["step"], shown, value)
    steps = {r["step"] for r in records}
    assert set(scalars["train/loss"]) == steps, "steps that were taken back are still shown"
    return n


with tempfile.TemporaryDirectory(prefix="switchyard-tensorboard-") as folder:
    folder = Path(folder)
    run("tokenize", ROOT / "data/samples/prose_valid.txt", "-o", folder / "text", "--tokenizer", "bytes")
    CONFIG["data"] = {"tokenizer": "bytes", "train": [{"path": str(folder / "text")}]}
    (folder / "config.yaml").write_text(json.dumps(CONFIG))
    run("train", folder / "config.yaml", "--run-dir", folder / "run")
    first = compare(folder / "run")
    run("train", folder / "config.yaml", "--run-dir", folder / "run", "--resume",
        folder / "run/checkpoints/step_00000004.h5")
    second = compare(folder / "run")
    print(f"{first} and, after a resume, {second} values are what TensorBoard shows")

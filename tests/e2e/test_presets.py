#!/usr/bin/env python3
"""Presets of whole models: estimate counts the parameters that were published, and the small sibling of each trains."""

import json
import random
import re

import harness
from harness import ROOT

FOLDER = ROOT / "configs/presets"
# name: (parameters, active ones, in 10^9 as published, and half of the last digit of each). Some papers count the input embedding as active.
PUBLISHED = {
    "deepseekmoe_16b": (16.4, 0.05, 2.8, 0.05),
    "deepseek_v2": (236, 0.5, 21, 0.5),
    "deepseek_v2_lite": (15.7, 0.05, 2.4, 0.1),
    "deepseek_v3": (671, 0.5, 37, 0.5),
}
SHORT = ("--set", "train.global_batch=8", "--set", "model.seq_len=64")  # changes no parameter
SMALL = ("model.layers=2", "model.seq_len=32", "model.ffn_hidden=48", "moe.expert_hidden=24", "train.global_batch=2", "train.micro_batch=1",
         "train.log_every=1", "train.steps=2", "data.valid=null")


class Presets(harness.Case):
    def test_every_preset_counts_what_was_published(self):
        self.assertEqual({p.stem for p in FOLDER.glob("*.yaml")}, set(PUBLISHED))
        for name, (total, total_half, active, active_half) in PUBLISHED.items():
            with self.subTest(name):
                preset = FOLDER / f"{name}.yaml"
                o = json.loads(self.succeeds("estimate", preset, "--gpus", 8, "--short", "--json", *SHORT).stdout)
                self.assertLessEqual(abs(o["params_m"] / 1e3 - total), total_half)
                shape = {k: int(v) for k, v in re.findall(r"^  (vocab_size|hidden): (\d+)", preset.read_text(), re.M)}
                embedding = shape["vocab_size"] * shape["hidden"] / 1e9
                self.assertLessEqual(o["active_m"] / 1e3 - active_half, active)
                self.assertGreaterEqual(o["active_m"] / 1e3 + embedding + active_half, active)

    def test_every_small_sibling_trains(self):
        draw = random.Random(4)
        data = harness.write_tokens(self.folder / "text", [[draw.randrange(256) for _ in range(2000)]])
        settings = [word for s in (*SMALL, f"data.train=[{{path: {data}}}]") for word in ("--set", s)]
        self.assertEqual({p.stem for p in (FOLDER / "small").glob("*.yaml")}, set(PUBLISHED))
        for name in PUBLISHED:
            with self.subTest(name):
                run = self.folder / name
                self.succeeds("train", FOLDER / f"small/{name}.yaml", "--run-dir", run, *settings)
                self.assertEqual(len(self.metrics(run)), 2)


if __name__ == "__main__":
    harness.main()

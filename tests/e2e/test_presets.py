#!/usr/bin/env python3
"""Presets of whole models: estimate counts the parameters that were published, and the small sibling of each trains."""

import json
import random
import re

import harness
from harness import ROOT

FOLDER = ROOT / "configs/presets"
# Of the files with modules that predict further tokens, which have copies of embedding and head: not in the numbers below.
FILES = {"deepseek_v3": (685, 0.6)}
# name: (parameters, half of the last digit or how far ours may be away, the same of the active ones), in 10^9; None: not published. Some papers count
# the input embedding as active.
PUBLISHED = {
    "deepseekmoe_16b": (16.4, 0.05, 2.8, 0.05),
    "deepseek_v2": (236, 0.5, 21, 0.5),
    "deepseek_v2_lite": (15.7, 0.05, 2.4, 0.1),
    "deepseek_v3": (671, 0.5, 37, 0.5),
    "gshard": (600, 24, None, None),  # a decoder alone, and 600 is rounded
    "mixtral_8x22b": (141, 0.5, 39, 0.5),
    "mixtral_8x7b": (46.7, 0.05, 12.9, 0.05),
    "olmoe_1b_7b": (6.92, 0.005, 1.28, 0.005),
    "openmoe_8b": (11.9, 0.1, None, None),  # of its weights; the paper says 8.7
    "openmoe_base": (0.8, 0.02, None, None),  # of its code; the paper says 0.65
    "qwen2_57b_a14b": (57.41, 0.05, 14.2, 0.1),
    "qwen3_235b_a22b": (235, 0.5, 22, 0.5),
    "qwen3_30b_a3b": (30.5, 0.05, 3.35, 0.05),
    "remoe": (None, None, 0.182, 0.002),
    "st_moe": (269, 5, None, None),  # without cross-attention
    "switch": (7.4, 0.07, None, None),
}
SHORT = ("--set", "train.global_batch=64", "--set", "train.batch_ramp_from=0", "--set", "train.micro_batch=1",
         "--set", "model.seq_len=64")  # changes no parameter
SMALL = ("model.seq_len=32", "model.ffn_hidden=48", "moe.expert_hidden=24", "train.global_batch=2", "train.micro_batch=1",
         "train.log_every=1", "train.steps=2", "data.valid=null")


class Presets(harness.Case):
    def test_every_preset_counts_what_was_published(self):
        self.assertEqual({p.stem for p in FOLDER.glob("*.yaml")}, set(PUBLISHED))
        for name, (total, total_half, active, active_half) in PUBLISHED.items():
            with self.subTest(name):
                preset = FOLDER / f"{name}.yaml"
                o = json.loads(self.succeeds("estimate", preset, "--gpus", 64, "--gpu", "h100", "--short", "--json", *SHORT).stdout)
                shape = {k: int(v) for k, v in re.findall(r"^  (vocab_size|hidden): (\d+)", preset.read_text(), re.M)}
                embedding = shape["vocab_size"] * shape["hidden"] / 1e9
                mtp = o.get("mtp_params", 0) / 1e9
                self.assertEqual(mtp > 0, name in FILES)
                if mtp > 0:
                    self.assertLessEqual(abs(o["params"] / 1e9 + 2 * embedding - FILES[name][0]), FILES[name][1])
                if total is not None:
                    self.assertLessEqual(abs(o["params"] / 1e9 - mtp - total), total_half)
                if active is None:
                    continue
                ours = o["active_params"] / 1e9
                self.assertLessEqual(min(abs(ours - active), abs(ours + embedding - active)), active_half)

    def test_every_small_sibling_trains(self):
        draw = random.Random(4)
        data = harness.write_tokens(self.folder / "text", [[draw.randrange(256) for _ in range(2000)]])
        settings = [word for s in (*SMALL, f"data.train=[{{path: {data}}}]") for word in ("--set", s)]
        self.assertEqual({p.stem for p in (FOLDER / "small").glob("*.yaml")}, set(PUBLISHED))
        for name in PUBLISHED:
            with self.subTest(name):
                run = self.folder / name
                self.succeeds("train", FOLDER / f"small/{name}.yaml", "--run-dir", run, *settings)
                self.succeeds("verify", run)
                self.assertEqual(len(self.metrics(run)), 2)


if __name__ == "__main__":
    harness.main()

#!/usr/bin/env python3
"""The recipes of routers and experts: there is one for every router, its own or a preset's small sibling (test_presets.py); each trains."""

import random
import re

import harness
from harness import ROOT

PRESETS = sorted((ROOT / "configs/routers").glob("*.yaml"))
SIBLINGS = sorted((ROOT / "configs/presets/small").glob("*.yaml"))  # test_presets.py trains them
EXPERTS = sorted((ROOT / "configs/experts").glob("*.yaml"))
SMALL = ("model.layers=2", "model.seq_len=32", "model.hidden=32", "model.ffn_hidden=48", "train.global_batch=3",
         "train.micro_batch=1", "train.log_every=1", "data.valid=null")


class Presets(harness.Case):
    def settings(self, *own):
        draw = random.Random(4)
        data = harness.write_tokens(self.folder / "text", [[draw.randrange(256) for _ in range(2000)]])
        return [word for s in (*SMALL, *own, f"data.train=[{{path: {data}}}]") for word in ("--set", s)]

    def test_every_kind_of_experts_has_a_preset_that_trains(self):
        settings = self.settings()
        for preset in EXPERTS:
            with self.subTest(preset.name):
                run = self.folder / preset.stem
                self.succeeds("train", preset, "--run-dir", run, *settings, "--set", "train.steps=2")
                self.assertEqual(len(self.metrics(run)), 2)
                self.succeeds("verify", run)

    def test_every_router_has_a_preset_that_trains(self):
        settings = self.settings("moe.expert_hidden=24")
        for preset in PRESETS:
            with self.subTest(preset.name):
                run = self.folder / preset.stem
                log = self.succeeds("train", preset, "--run-dir", run, *settings, "--set", "train.steps=2")
                if preset.stem in ("hash", "maskmoe"):
                    self.assertIn("made from the training data", log.stdout + log.stderr)
                self.assertEqual(len(self.metrics(run)), 2)
                self.succeeds("verify", run)
        named = [re.search(r"^  router: (\w+)", p.read_text(), re.M) for p in PRESETS + SIBLINGS]
        known = {p.stem for p in (ROOT / "moe/routers").glob("*.c")}
        self.assertEqual({m[1] if m else "topk" for m in named}, known)


if __name__ == "__main__":
    harness.main()

#!/usr/bin/env python3
"""The layout is not part of the result: the same losses on any number of ranks, with any ep, with ZeRO (of either kind) or without."""

import json

import harness
from harness import LONG

LAYOUTS = [(2, 2), (3, 1), (3, 3), (4, 4), (4, 2), (5, 1)]  # ranks, ep; beside one process
DROPLESS, CAPACITY = {}, {"capacity_factor": 1.0, "min_capacity": 1}


class Layouts(harness.LayoutCase):
    def all_layouts(self, zero):
        layouts = [(r, e, zero) for r, e in LAYOUTS] + [(r, e, 1 - zero) for r, e in (LAYOUTS if LONG else LAYOUTS[4:5])]
        return layouts

    def test_ref_dropless_agrees_at_all_layouts(self):
        self.agree(1e-9, self.all_layouts(1), 20, device={"backend": "ref"}, moe=DROPLESS)

    def test_ref_capacity_agrees_at_all_layouts(self):
        self.agree(1e-9, self.all_layouts(0), 20, device={"backend": "ref"}, moe=CAPACITY)

    def test_fp32_agrees_at_all_layouts_for_five_steps(self):
        self.agree(1e-6, self.all_layouts(1) if LONG else [(3, 3, 1), (4, 2, 0), (5, 1, 1)], 5, optim={"lr": 1e-3})

    def test_gradients_in_windows_agree_and_take_less_memory(self):
        deep = {"model": {"layers": 8}, "device": {"backend": "ref"}, "moe": {"experts": 4, "jitter": 0.01}, "train": {"recompute": "block"}}
        self.agree(1e-9, [(3, 1, 1), (3, 1, 2), (4, 2, 2)], 6, **deep)
        files = [self.folder / f"run{i}_n3_ep1_zero{i - 1}" / "metrics.jsonl" for i in (2, 3)]
        whole, windows = [json.loads(file.read_text().splitlines()[0])["mem/grads_bytes"] for file in files]
        self.assertLess(windows, 0.75 * whole)


if __name__ == "__main__":
    harness.main()

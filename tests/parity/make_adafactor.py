#!/usr/bin/env python3
"""Writes tests/unit/adafactor_golden.h: what transformers' Adafactor makes of four matrices in five steps, in double, for
test_adafactor.

    python3 tests/parity/make_adafactor.py

Needs torch and transformers. An expert is a matrix of its own here, so each is handed to the library as one parameter.
"""
import math
import pathlib

import torch
from transformers import Adafactor

STEPS = 5
RATES = [0.05, 0.04, 0.03, 0.02, 0.01]
# name, number of the case, shape; as test_adafactor.c fills them
MATRICES = [("norm", 0, (8,)), ("router", 1, (4, 8)), ("gate of expert 2", 2, (6, 8)), ("down of expert 1", 3, (8, 6))]
RUNS = [("clipped, scaled, decayed", dict(clip_threshold=0.5, scale_parameter=True, weight_decay=0.01, beta1=None), True),
        ("with momentum, not scaled", dict(clip_threshold=1.0, scale_parameter=False, weight_decay=0.0, beta1=0.9), True),
        ("not factored", dict(clip_threshold=1.0, scale_parameter=True, weight_decay=0.0, beta1=None), False)]


def value(case, i):
    return 0.3 * math.cos(1.1 * i + case)


def gradient(case, i, step):
    return 0.01 * (1 + i % 5) * math.sin(0.7 * i + 1.3 * step + case)


def run(options, factored, case, shape):
    n = math.prod(shape)
    flat = torch.tensor([value(case, i) for i in range(n)], dtype=torch.float64)
    # vectors do not decay in ours
    decay = 0.0 if len(shape) == 1 else options["weight_decay"]
    p = torch.nn.Parameter(flat.reshape(shape) if factored else flat)
    optimizer = Adafactor([p], lr=1.0, eps=(1e-30, 1e-3), decay_rate=-0.8, relative_step=False, warmup_init=False, **{**options, "weight_decay": decay})
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATES[step]
        p.grad = torch.tensor([gradient(case, i, step + 1) for i in range(n)], dtype=torch.float64).reshape(p.shape)
        optimizer.step()
    return p.detach().flatten().tolist()


def main():
    out = ["/* What transformers' Adafactor makes of the matrices of test_adafactor.c; written by", " * tests/parity/make_adafactor.py. */",
           "#ifndef SY_TESTS_UNIT_ADAFACTOR_GOLDEN_H", "#define SY_TESTS_UNIT_ADAFACTOR_GOLDEN_H", "",
           f"enum {{ GOLDEN_RUNS = {len(RUNS)}, GOLDEN_MATRICES = {len(MATRICES)}, GOLDEN_STEPS = {STEPS}, GOLDEN_MOST = 48 }};",
           f"static const double golden_rate[GOLDEN_STEPS] = {{{', '.join(map(repr, RATES))}}};",
           "static const double golden[GOLDEN_RUNS][GOLDEN_MATRICES][GOLDEN_MOST] = {"]
    for name, options, factored in RUNS:
        out.append(f"    {{ /* {name} */")
        for title, case, shape in MATRICES:
            numbers = ", ".join(f"{x:.17g}" for x in run(options, factored, case, shape))
            out.append(f"        {{{numbers}}}, /* {title} */")
        out.append("    },")
    out += ["};", "", "#endif"]
    (pathlib.Path(__file__).parent.parent / "unit/adafactor_golden.h").write_text("\n".join(out) + "\n")


if __name__ == "__main__":
    main()

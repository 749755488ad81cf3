#!/usr/bin/env python3
"""Writes tests/parity/fixtures/: what torch and transformers compute of tiny models, for test_parity.

    python3 tests/parity/make_fixtures.py [--out DIR] [--seed N] [NAME...]

Needs torch, transformers and safetensors (launch/parity.sh installs them). With the same versions on the
same kind of machine it writes the same files.
"""
import argparse
import datetime
import hashlib
import platform
from pathlib import Path

import safetensors
import torch
import transformers

import witness

README = """# Fixtures

Tiny models with random weights, saved by transformers, and what PyTorch computes of them. Read by
`tests/parity/test_parity.c`; made by

    python3 tests/parity/make_fixtures.py

on {date} with torch {torch}, transformers {transformers}, safetensors {safetensors}, Python {python}.

| file | holds |
|---|---|
| `config.json`, `model.safetensors` | the model, fp32, as `save_pretrained` writes it |
| `settings` | what a run of ours needs beside it, as arguments of `--set` |
| `expected.safetensors` | see below |

| tensor | is |
|---|---|
| `tokens` [20, 3, 12] | a batch for each step: 11 inputs, targets shifted by one. Every sequence begins and ends with token 0 |
| `logits`, `logits_fp32`, `logits_bf16` [3, 11, V] | of the first batch, in double, fp32 and bf16 |
| `loss`, `grad_norm` [20] | of 20 steps of AdamW in double: mean cross-entropy; norm of all gradients before clipping |
| `aux`, `z` [20, MoE layers] | balance and z-loss of these steps, unscaled, by docs/NUMERICS.md section 3 |
| `loss_fp32` [1] | of the first batch as the library itself computes it, in fp32 |
| `hf_aux_loss` [1] | the library's own balance loss of the first batch, where one layer is MoE |
| `grad/<tensor of model.safetensors>` | gradient of the first batch's loss, balance and z-loss included, in double |
"""


def digest(root):
    h = hashlib.sha256()
    for path in sorted(p for p in Path(root).glob("*/*") if p.is_file()):
        h.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return h.hexdigest()


def main():
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=here / "fixtures")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("name", nargs="*", help="; ".join(witness.MODELS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    before = digest(args.out)
    witness.write_fixtures(args.out, args.seed, args.name)
    if digest(args.out) != before or not (args.out / "README.md").exists():
        (args.out / "README.md").write_text(README.format(
            date=datetime.date.today(), torch=torch.__version__, transformers=transformers.__version__,
            safetensors=safetensors.__version__, python=platform.python_version()))


if __name__ == "__main__":
    main()

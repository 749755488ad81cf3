#!/usr/bin/env python3
"""Read a checkpoint with h5py: what it is, the loads of the experts at its step, one expert's matrix.

    read_checkpoint.py RUN_DIR/checkpoints/latest [LAYER [EXPERT]]
"""
import sys

import h5py
import numpy as np


def read(dataset, part):
    """A part of a dataset; bf16, which numpy has not, as the float32 that has its bits as the upper half."""
    if dataset.id.get_type().get_size() != 2 or dataset.id.get_type().get_ebias() != 127:
        return dataset[part]
    bits = np.empty(dataset.shape, np.uint16)
    dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, bits, mtype=dataset.id.get_type())
    return (bits[part].astype(np.uint32) << 16).view(np.float32)


layer, expert = (sys.argv[2:] + ["0", "0"][len(sys.argv) - 2:])[:2]
with h5py.File(sys.argv[1], "r") as f:
    for name in ("format", "format_version", "kind", "step", "tokens_seen", "complete"):
        print(f"{name}: {f.attrs[name].decode() if isinstance(f.attrs[name], bytes) else f.attrs[name]}")
    for i, load in enumerate(f["state/loads"] if "state/loads" in f else []):  # rows that the last step sent to each
        print(f"layer {i}: {'dense' if not load.any() else load}")
    gate = read(f[f"model/layers/{int(layer):03d}/moe/experts/gate"], int(expert))
    print(f"layer {layer}, expert {expert}, gate {gate.shape}: norm {np.linalg.norm(gate):.6f}\n{gate}")

"""safetensors files and Hugging Face folders in Python's standard library, as the format describes them."""

import json
import struct
from pathlib import Path

BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "U8": 1}


def read(path):
    """{name: (type, shape, bytes)} of one file."""
    raw = Path(path).read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + n])
    header.pop("__metadata__", None)
    data = raw[8 + n:]
    return {k: (v["dtype"], v["shape"], data[slice(*v["data_offsets"])]) for k, v in header.items()}


def pack(tensors, change=None):
    """The bytes of a file; `change` may spoil the header."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    if change:
        change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write(folder, tensors, config, change=None):
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(pack(tensors, change))
    (folder / "config.json").write_text(json.dumps(config))


def write_sharded(folder, tensors, config, shards):
    """Tensors dealt to files in turn, with their index."""
    folder.mkdir()
    names, where = list(tensors), {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {k: tensors[k] for k in names[i::shards]}
        where.update({k: file for k in part})
        (folder / file).write_bytes(pack(part))
    total = sum(len(t[2]) for t in tensors.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": where}))
    (folder / "config.json").write_text(json.dumps(config))


def fuse(tensors, experts):
    """Mixtral's experts, one tensor each, as transformers 5 and mergekit hold them: stacked, gate before up."""
    out = {}
    for name, value in tensors.items():
        if ".block_sparse_moe.experts." not in name:
            out[name.replace(".block_sparse_moe.gate.", ".mlp.gate.")] = value
    for layer in sorted({k.split(".block_sparse_moe")[0] for k in tensors if ".experts." in k}):
        part = lambda e, w: tensors[f"{layer}.block_sparse_moe.experts.{e}.{w}.weight"]
        dtype, (inner, hidden), _ = part(0, "w1")
        out[f"{layer}.mlp.experts.gate_up_proj"] = (
            dtype, [experts, 2 * inner, hidden], b"".join(part(e, w)[2] for e in range(experts) for w in ("w1", "w3")))
        out[f"{layer}.mlp.experts.down_proj"] = (
            dtype, [experts, hidden, inner], b"".join(part(e, "w2")[2] for e in range(experts)))
    return out


def to_bf16(tensors):
    """The upper halves: a bf16 model, not rounded."""
    cut = lambda raw: b"".join(raw[i + 2:i + 4] for i in range(0, len(raw), 4))
    return {k: ("BF16", shape, cut(raw)) for k, (_, shape, raw) in tensors.items()}


def to_f16(tensors):
    half = lambda raw: b"".join(struct.pack("<e", x) for x in struct.unpack(f"<{len(raw) // 4}f", raw))
    return {k: ("F16", shape, half(raw)) for k, (_, shape, raw) in tensors.items()}

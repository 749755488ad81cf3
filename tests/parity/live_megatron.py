#!/usr/bin/env python3
"""Is what `tokenize` writes what Megatron-LM's own builder writes, byte for byte?

    live_megatron.py MEGATRON_CHECKOUT SWITCHYARD

Needs numpy and torch. Megatron's module is taken without the packages around it, of which the builder needs none.
"""
import builtins
import re
import subprocess
import sys
import tempfile
import typing
from pathlib import Path

import numpy
import torch

source = (Path(sys.argv[1]) / "megatron/core/datasets/indexed_dataset.py").read_text()
source = re.sub(r"from megatron[^\n]*\([^)]*\)\n", "", source, flags=re.S)
source = re.sub(r"from megatron[^\n]*\n", "", source)
outside = set(re.findall(r"\b(ObjectStorage\w*|MultiStorage\w*|S3Config|MSCConfig)\b", source))
scope = {"__name__": "indexed_dataset", "Any": typing.Any, "maybe_msc": type("Files", (), {"open": staticmethod(builtins.open)}),
         **{name: object for name in outside}}
for name in re.findall(r"\b(cache_index_file|dataset_exists|get_index_cache_path|get_object_storage_access|"
                       r"is_object_storage_path|parse_s3_path|log_single_rank)\b", source):
    scope[name] = lambda *args, **options: None
exec(compile(source, "indexed_dataset.py", "exec"), scope)

text = (Path(__file__).parents[2] / "data/samples/prose.txt").read_bytes()[:100000]
documents = [text[:10], text[10:50000], b"", text[50000:]]
with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    builder = scope["IndexedDatasetBuilder"](str(folder / "theirs.bin"), dtype=numpy.uint16)
    for i, document in enumerate(documents):
        (folder / f"{i}.txt").write_bytes(document)
        ids = list(document) + [256] * bool(document)  # preprocess_data.py ends what is not empty
        builder.add_document(torch.tensor(ids, dtype=torch.int64), [len(ids)] if ids else [])
    builder.finalize(str(folder / "theirs.idx"))
    subprocess.run([sys.argv[2], "tokenize", *(folder / f"{i}.txt" for i in range(len(documents))), "-o", folder / "ours",
                    "--tokenizer", "bytes", "--append-eod"], check=True, capture_output=True)
    for end in ("bin", "idx"):
        same = (folder / f"ours.{end}").read_bytes() == (folder / f"theirs.{end}").read_bytes()
        print(f".{end}: {'the same bytes' if same else 'DIFFERENT'}")

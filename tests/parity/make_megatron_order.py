#!/usr/bin/env python3
"""Checksums of the index arrays that Megatron-LM's own code builds, for the tables of tests/unit/test_megatron.c.

    make_megatron_order.py MEGATRON_CHECKOUT

Needs numpy and the compiled megatron/core/datasets/helpers_cpp (its Makefile). The functions are taken out of
gpt_dataset.py by name, so that nothing else of Megatron has to be importable.
"""
import ast
import importlib.util
import math
import sys
from pathlib import Path

import numpy

folder = Path(sys.argv[1]) / "megatron/core/datasets"
built = next(folder.glob("helpers_cpp*.so"))
spec = importlib.util.spec_from_file_location("helpers_cpp", built)
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)

source = (folder / "gpt_dataset.py").read_text()
wanted = {"_build_document_index", "_build_shuffle_index"}
body = [x for x in ast.parse(source).body if isinstance(x, ast.FunctionDef) and x.name in wanted]
scope = {"numpy": numpy}
exec(compile(ast.Module([ast.parse("from __future__ import annotations").body[0], *body], []), "gpt_dataset.py", "exec"), scope)


def fnv(array):
    """FNV-1a over 64-bit little-endian elements."""
    h = 0xcbf29ce484222325
    for x in array.reshape(-1).tolist():
        h = (h ^ (x & 0xffffffffffffffff)) * 0x100000001b3 & 0xffffffffffffffff
    return h


def order(n, S, seed, wanted):
    lengths = numpy.array([1 + (i * 7919 + 13 * seed) % 97 for i in range(n)], dtype=numpy.int32)
    tokens = int(lengths.sum())
    epochs = max(1, math.ceil((wanted * S + 1) / tokens))
    separate = False
    if epochs > 1:
        before = ((epochs - 1) * tokens - 1) // S
        separate = wanted - before < int(0.80 * ((tokens - 1) // S))
    random = numpy.random.RandomState(seed)
    documents = scope["_build_document_index"](numpy.arange(n, dtype=numpy.int32), epochs, random, separate)
    samples = helpers.build_sample_idx_int32(lengths, documents, S, epochs, tokens, True, 1)
    total = samples.shape[0] - 1
    shuffle = scope["_build_shuffle_index"](before if separate else total, total, random)
    print(f"{{{n}, {S}, {seed}u, {wanted}, {epochs}, {str(separate).lower()}, 0x{fnv(documents):016x}, "
          f"0x{fnv(samples):016x}, 0x{fnv(shuffle):016x}}},")


for case in [(1, 8, 1234, 5), (5, 4, 1234, 9), (40, 16, 0, 100), (40, 16, 1, 125), (40, 16, 2, 126), (40, 16, 3, 240),
             (400, 33, 4294967295, 1000), (3000, 128, 1234, 1100), (3000, 128, 1234, 1165), (3000, 128, 77, 5000)]:
    order(*case)


def blend(weights, size):
    weights = [w / sum(weights) for w in weights]
    total = sum(math.ceil(size * w) for w in weights)
    dataset, sample = numpy.zeros(total, dtype=numpy.int16), numpy.zeros(total, dtype=numpy.int64)
    helpers.build_blending_indices(dataset, sample, numpy.array(weights), len(weights), total, False)
    print(f"{total}, 0x{fnv(dataset):016x}, 0x{fnv(sample):016x}")


for weights, size in ([(0.7, 0.3), 10], [(1, 2, 3), 1000], [(0.3, 0.3, 0.4), 777], [(5.5, 0.01, 2, 11), 5000]):
    blend(weights, size)

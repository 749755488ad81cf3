#!/usr/bin/env python3
"""Lengths: functions at most 120 lines (kernels 150), their median at most 20, files at most 800 lines.

Files above 400 lines are reported without failing.
"""

import statistics
import sys

import lint_lib

FUNCTION, KERNEL, MEDIAN, FILE, FILE_AIM = 120, 150, 20, 800, 400


def long_functions(source):
    for function in source.functions():
        limit = KERNEL if function.name.endswith("_kernel") else FUNCTION
        if function.n_lines > limit:
            yield f"{source.path}:{function.line} {function.name} has {function.n_lines} lines, at most {limit}"


def medians(tree):
    lengths = {}
    for source in tree.product():
        lengths.setdefault(source.folder, []).extend(f.n_lines for f in source.functions())
    for folder, values in lengths.items():
        if values and statistics.median(values) > MEDIAN:
            yield f"{folder}: the median function has {statistics.median(values):g} lines, at most {MEDIAN}"


def check(tree):
    found = []
    for source in tree.sources:
        found += long_functions(source)
        if source.n_lines() > FILE:
            found.append(f"{source.path}:1 has {source.n_lines()} lines, at most {FILE}")
    return found + list(medians(tree))


def report(tree):
    for source in tree.sources:
        if FILE_AIM < source.n_lines() <= FILE:
            print(f"lint_sizes: note: {source.path} has {source.n_lines()} lines, the aim is {FILE_AIM}")


def check_and_report(tree):
    report(tree)
    return check(tree)


if __name__ == "__main__":
    sys.exit(lint_lib.run("lint_sizes", check_and_report))

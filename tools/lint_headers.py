#!/usr/bin/env python3
"""Every header compiles alone, and twice in one file, as C11; public ones as C++17 too (CUDA sources include them)."""

import concurrent.futures
import os
import shlex
import subprocess
import sys

import lint_lib

WARNINGS = ["-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-fsyntax-only"]
MODES = {
    "C11": [os.environ.get("CC", "cc"), "-x", "c", "-std=c11", "-Wstrict-prototypes", "-Wmissing-prototypes"],
    # offsetof of a plain struct is fine in C++17; the op table's initialisers are C alone
    "C++17": [os.environ.get("CXX", "c++"), "-x", "c++", "-std=c++17"],
}


def library_flags():
    """Where mpi.h and hdf5.h are, for the few private headers that want them."""
    flags = []
    for package in ("ompi-c", "hdf5-openmpi"):
        done = subprocess.run(["pkg-config", "--cflags", package], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True, check=False)
        flags += done.stdout.split() if done.returncode == 0 else []
    return flags


def compile_alone(root, path, mode, flags):
    """None, or the first error."""
    text = f'#include "{path}"\n' * 2
    command = shlex.split(MODES[mode][0]) + MODES[mode][1:] + WARNINGS + flags + ["-I", root, "-"]
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False)
    if done.returncode == 0:
        return None
    errors = [line for line in done.stdout.splitlines() if "error" in line] or ["no message"]
    return f"{path}:1 does not compile alone as {mode}: {errors[0]}"


def check(tree):
    flags = library_flags() + ["-I", os.path.join(tree.root, "tests/emulator/include")]  # for those of backend/cuda
    jobs = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for source in tree.headers():
            for mode in MODES:
                if mode == "C11" or not source.path.endswith("_impl.h"):
                    jobs.append(pool.submit(compile_alone, tree.root, source.path, mode, flags))
        return [job.result() for job in jobs if job.result()]


if __name__ == "__main__":
    sys.exit(lint_lib.run("lint_headers", check))

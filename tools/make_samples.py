#!/usr/bin/env python3
"""Write the sample texts that are not committed: this project's C source, and arithmetic from a fixed seed.

    make_samples.py FOLDER      writes {source,arithmetic}{,_valid}.txt there

The same tree gives the same bytes, on any machine.
"""

import os
import random
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOURCE_BYTES = 1_000_000  # of each file at most
HELD_OUT_EVERY = 10
ARITHMETIC_BYTES = {"arithmetic_valid.txt": 30_000, "arithmetic.txt": 300_000}
SEED = 1


def source_files():
    """Tracked C files, sorted; in an unpacked release without git, those of all folders that are not build output."""
    try:
        listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", "*.c", "*.h"], check=True,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        files = [name for name in listed.decode().split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        files = []
    if not files:
        for folder, inner, names in os.walk(ROOT):
            inner[:] = [d for d in inner if not d.startswith((".", "build"))]
            files += [os.path.relpath(os.path.join(folder, n), ROOT) for n in names if n.endswith((".c", ".h"))]
    return sorted(name for name in files if os.path.isfile(os.path.join(ROOT, name)))


def write_source(folder):
    parts = {"source.txt": [], "source_valid.txt": []}
    size = dict.fromkeys(parts, 0)
    for i, name in enumerate(source_files()):
        part = "source_valid.txt" if i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else "source.txt"
        with open(os.path.join(ROOT, name), encoding="utf-8", newline="") as f:
            text = f.read().replace("\r\n", "\n").encode()
        if size[part] + len(text) <= SOURCE_BYTES:
            parts[part].append(text)
            size[part] += len(text)
    for part, texts in parts.items():
        with open(os.path.join(folder, part), "wb") as f:
            f.write(b"\n".join(texts))


def draw(rng, limit):
    """0 .. limit-1. Only random() is promised to stay the same in all versions of Python."""
    return int(rng.random() * limit)


def number(rng):
    """One to three digits, each length as likely."""
    return draw(rng, (10, 100, 1000)[draw(rng, 3)])


def problem(rng):
    a, b = number(rng), number(rng)
    kind = draw(rng, 7)
    if kind == 0:
        return f"{a}+{b}={a + b}"
    if kind == 1:
        return f"{a}-{b}={a - b}"
    if kind == 2:
        a, b = draw(rng, 100), draw(rng, 100)
        return f"{a}*{b}={a * b}"
    if kind == 3:
        return f"{a} + {b} = {a + b}"
    if kind == 4:
        c = draw(rng, 10)
        return f"{c}*({a}+{b})={c * (a + b)}"
    if kind == 5:
        return f"a={a}; b={b}; a-b={a - b}"
    return f"{a} plus {b} is {a + b}."


def write_arithmetic(folder):
    """The held-out lines come first; training then leaves out every line that is among them."""
    rng = random.Random(SEED)
    held_out = set()
    for name, n_bytes in ARITHMETIC_BYTES.items():
        lines, size = [], 0
        while size < n_bytes:
            line = problem(rng) + "\n"
            if line not in held_out:
                lines.append(line)
                size += len(line)
        held_out.update(lines)
        with open(os.path.join(folder, name), "w", encoding="ascii", newline="\n") as f:
            f.writelines(lines)


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__.strip(), file=sys.stderr)
        return 0 if sys.argv[1:] in (["-h"], ["--help"]) else 2
    os.makedirs(sys.argv[1], exist_ok=True)
    write_source(sys.argv[1])
    write_arithmetic(sys.argv[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Nothing lies around unused: every source, test, lint and op is registered where it must be.

Every .c of a product folder and every test stands in a meson.build of its folder; every op of SY_OPS has a function
in backend/ref and in backend/cpu, and a row in a case table of tests/ops; every lint stands in tests/lint/meson.build.
"""

import os
import re
import sys

import lint_lib

TEST = re.compile(r'tests/(unit|mpi|fuzz)/((?:test|fuzz)_\w+)\.c|tests/(?:e2e|parity|lint)/(test_\w+\.(?:sh|py))')


def build_text(tree, path):
    """All meson.build from the file's folder up to the root's."""
    folder, text = os.path.dirname(path), ""
    while folder:
        if tree.exists(folder + "/meson.build"):
            text += tree.read(folder + "/meson.build")
        folder = os.path.dirname(folder)
    return text


def check_sources(tree):
    for source in tree.product():
        if source.path.endswith(".c"):
            name = os.path.basename(source.path)
            parent = os.path.basename(os.path.dirname(source.path))
            if not re.search(r"'(?:[^'\n]*/)?(?:" + parent + "/)?" + re.escape(name) + "'", build_text(tree, source.path)):
                yield f"{source.path}:1 is in no meson.build"


def check_tests(tree):
    for path in tree.files((".c", ".sh", ".py"), ("tests",)):
        match = TEST.fullmatch(path)
        if match:
            name = match.group(2) or match.group(3)
            if not re.search(r"'(?:[^'\n]*/)?" + re.escape(name) + r"'", build_text(tree, path)):
                yield f"{path}:1 is not registered in its meson.build"
        if path.startswith("tests/ops/") and f"'{os.path.basename(path)}'" not in build_text(tree, path):
            yield f"{path}:1 is not registered in its meson.build"


def check_lints(tree):
    for name in sorted(os.listdir(os.path.join(tree.root, "tools"))):
        stem = name.removesuffix(".py")
        if name.startswith("lint_") and name.endswith(".py") and name != "lint_lib.py" \
                and stem not in tree.read("tests/lint/meson.build"):
            yield f"tools/{name}:1 is not run by tests/lint/meson.build"


def ops(tree):
    text = re.sub(r'\\\n', ' ', tree.read("backend/ops.h"))
    listed = re.search(r'^#define SY_OPS\(X\)(.*)$', text, re.M)
    return re.findall(r'X\((\w+)\)', listed.group(1))


def text_of(tree, folder):
    return "\n".join(s.code for s in tree.sources if s.path.startswith(folder + "/"))


def check_ops(tree):
    defined = {f.name for s in tree.product() for f in s.functions()}
    cases = text_of(tree, "tests/ops")
    for op in ops(tree):
        for backend in ("ref", "cpu"):
            if f"sy__{backend}_{op}" not in defined and not re.search(
                    rf"\bsy__{backend}_{op}\b", text_of(tree, "backend/" + backend)):
                yield f"backend/ops.h:1 op {op} has no sy__{backend}_{op} in backend/{backend}"
        if not re.search(rf"\bSY_OP_{op}\b", cases):
            yield f"backend/ops.h:1 op {op} has no case in tests/ops"


def check(tree):
    return list(check_sources(tree)) + list(check_tests(tree)) + list(check_lints(tree)) + list(check_ops(tree))


if __name__ == "__main__":
    sys.exit(lint_lib.run("lint_registered", check))

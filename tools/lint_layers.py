#!/usr/bin/env python3
"""Includes against tools/layers.txt: which folder may include which, and which file may include which library.

Also: project includes are rooted ("folder/file.h") and exist; *_impl.h stays inside its folder.
"""

import re
import sys

import lint_lib

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.M)


def read_table(tree):
    """({folder: folders}, [(system header pattern, places)])"""
    folders, system = {}, []
    for line in tree.read("tools/layers.txt").splitlines():
        line = line.split("#")[0].strip()
        if line:
            left, right = line.split(":")
            if left.startswith("<"):
                system.append((left.strip("<>"), right.split()))
            else:
                folders[left] = [left] + right.split()
    return folders, system


def matches(pattern, header):
    return header.startswith(pattern[:-1]) if pattern.endswith("*") else header == pattern


def inside(path, places):
    return any(path == place or path.startswith(place + "/") for place in places)


def check_project(tree, source, included, folders):
    folder = included.split("/")[0]
    if "/" not in included or not tree.exists(included):
        return f"includes \"{included}\", which is not a path from the root"
    if folder not in folders.get(source.folder, []):
        return f"includes \"{included}\": {source.folder} may not include {folder} (tools/layers.txt)"
    if included.endswith("_impl.h") and folder != source.folder:
        return f"includes \"{included}\", which is private to {folder}"
    return None


def check(tree):
    folders, system = read_table(tree)
    found = []
    for source in tree.sources:
        for match in INCLUDE.finditer(source.text):
            message = None
            if match.group(1) == '"':
                message = check_project(tree, source, match.group(2), folders)
            else:
                for pattern, places in system:
                    if matches(pattern, match.group(2)) and not inside(source.path, places):
                        message = f"includes <{match.group(2)}>, allowed in: {' '.join(places)} (tools/layers.txt)"
            if message:
                found.append(f"{source.at(match.start(1))} {message}")
    return found


if __name__ == "__main__":
    sys.exit(lint_lib.run("lint_layers", check))

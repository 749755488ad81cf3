#!/usr/bin/env python3
"""Names: sy_ for what is public, sy__ for what one folder shares, neither _t types nor pointer typedefs.

Functions that are not static begin with sy_. Functions, types and macros of public headers begin with sy_ or SY_.
A name sy__x is declared in a *_impl.h and used in that folder alone.
"""

import re
import sys

import lint_lib

# The C library's allocator under its own names, so that the bench can count calls.
FOREIGN = {"launch/malloc_count.c"}
# Headers of libraries under their own names, for an emulation of them.
FOREIGN_HEADERS = "tests/emulator/include/"
TYPEDEF = re.compile(r'\btypedef\b')
PRIVATE = re.compile(r'\bsy__\w+')
DEFINE = re.compile(r'^[ \t]*#[ \t]*define[ \t]+(\w+)', re.M)


def typedef_names(source):
    """(offset, name, is a pointer) of each typedef."""
    for match in TYPEDEF.finditer(source.flat):
        depth, i = 0, match.end()
        while i < len(source.flat) and (depth > 0 or source.flat[i] != ";"):
            depth += (source.flat[i] in "{(") - (source.flat[i] in "})")
            i += 1
        text = re.sub(r'\{.*\}', ' ', source.flat[match.end():i], flags=re.S)
        pointer = re.search(r'\(\s*\*+\s*(\w+)\s*\)\s*\(', text)
        function = re.search(r'(\w+)\s*\([^()]*(?:\([^()]*\)[^()]*)*\)\s*$', text)
        plain = re.search(r'(\*?)\s*(\w+)\s*(?:\[[^\]]*\]\s*)*$', text)
        if pointer:
            yield match.start(), pointer.group(1), True
        elif function:
            yield match.start(), function.group(1), False
        elif plain:
            yield match.start(), plain.group(2), plain.group(1) == "*"


def check_typedefs(source):
    if source.path.startswith(FOREIGN_HEADERS):
        return
    public = source.path.endswith(".h") and source.folder in lint_lib.PRODUCT
    for offset, name, pointer in typedef_names(source):
        if name.endswith("_t"):
            yield f"{source.at(offset)} type {name}: names in _t belong to POSIX"
        if pointer:
            yield f"{source.at(offset)} type {name} hides a pointer"
        if public and not source.path.endswith("_impl.h") and not name.startswith("sy_"):
            yield f"{source.at(offset)} public type {name} does not begin with sy_"


def check_functions(source):
    if source.folder not in lint_lib.PRODUCT or source.path in FOREIGN:
        return
    for function in source.functions() + source.declarations():
        if function.static or function.name == "main":
            continue
        if not function.name.startswith("sy_"):
            yield f"{source.path}:{function.line} {function.name} is neither static nor begins with sy_"
        elif not re.fullmatch(r'sy__?[a-z0-9][a-z0-9_]*', function.name):
            yield f"{source.path}:{function.line} {function.name} is not snake_case"


def check_macros(source):
    if source.folder not in lint_lib.PRODUCT or not source.path.endswith(".h") or source.path.endswith("_impl.h"):
        return
    for match in DEFINE.finditer(source.code):
        if not match.group(1).startswith(("SY_", "sy_")):
            yield f"{source.at(match.start(1))} public macro {match.group(1)} does not begin with SY_"


def private_owners(tree):
    """{sy__ name: folders}, from the *_impl.h; and complaints about public headers that have such names."""
    owners, public = {}, {}
    for source in tree.headers():
        for match in PRIVATE.finditer(source.code):
            if source.path.endswith("_impl.h"):
                owners.setdefault(match.group(0), set()).add(source.folder)
            else:
                public.setdefault(source.path, set()).add(match.group(0))
    found = [f"{path}:1 is public by its name (not *_impl.h) but has {' '.join(sorted(names))}"
             for path, names in public.items()]
    return owners, found


def check_private(tree):
    owners, found = private_owners(tree)
    for source in tree.sources:
        for match in PRIVATE.finditer(source.code):
            of = owners.get(match.group(0), {source.folder})
            if source.folder not in of:
                found.append(f"{source.at(match.start())} {match.group(0)} is private to {' '.join(sorted(of))}")
        if source.folder in lint_lib.PRODUCT and source.path.endswith(".c"):
            found += [f"{source.path}:{f.line} {f.name} is declared in no *_impl.h" for f in source.functions()
                      if f.name.startswith("sy__") and not f.static and f.name not in owners
                      and not made_by_macro(owners, f.name)]
    return found


def made_by_macro(owners, name):
    """A header that says sy__cpu_##op declares sy__cpu_gemm."""
    return any(stem.endswith("_") and name.startswith(stem) for stem in owners)


def check(tree):
    found = []
    for source in tree.sources:
        found += list(check_typedefs(source)) + list(check_functions(source)) + list(check_macros(source))
    return found + check_private(tree)


if __name__ == "__main__":
    sys.exit(lint_lib.run("lint_names", check))

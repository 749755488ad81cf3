#!/usr/bin/env python3
"""Calls that have no place here, or only in one place."""

import re
import sys

import lint_lib

PRODUCT = lint_lib.PRODUCT
ALL = PRODUCT + ("tests",)

# names, folders they are banned in, paths that may use them, why and what instead
RULES = [
    ("strcpy strcat sprintf vsprintf gets stpcpy wcscpy", PRODUCT, (), "has no bound: snprintf, memcpy"),
    ("strncpy strncat", PRODUCT, (), "may leave text without an end: snprintf"),
    ("atoi atol atoll atof scanf", PRODUCT, (), "hides errors: strtoll, strtod and a check of the end"),
    ("strtok asctime ctime gmtime localtime readdir_r tmpnam tempnam mktemp", PRODUCT, (),
     "keeps hidden state or a race: the _r form"),
    ("rand srand random srandom drand48 lrand48 rand_r", ALL, (), "is another generator: core/rng.h"),
    ("alloca", ALL, (), "takes unbounded stack: sy_alloc"),
    ("setlocale newlocale uselocale", ALL, (), "changes how numbers are written: never"),
    ("malloc calloc realloc reallocarray aligned_alloc posix_memalign memalign strdup strndup asprintf vasprintf free",
     PRODUCT, ("core/alloc.c", "launch/malloc_count.c"), "is not counted: core/alloc.h"),
    ("getline getdelim open_memstream", PRODUCT, (), "allocates uncounted memory: core/alloc.h"),
    ("exit _exit _Exit quick_exit atexit abort", PRODUCT, ("launch", "core/fault.c", "parallel/comm.c"),
     "ends the process: return a status; launch ends it"),
    ("system popen", PRODUCT, ("launch",), "starts a shell"),
    ("printf vprintf puts putchar perror", PRODUCT, ("launch",), "writes to a standard stream: core/log.h, or hand the text up"),
    ("longjmp siglongjmp setjmp sigsetjmp", PRODUCT, ("backend/check",), "jumps over cleanup"),
]
# Standard streams as objects: results come from launch and report, log lines from core/log.c.
STREAMS = [("stdout", ("launch", "report")), ("stderr", ("launch", "report", "core/log.c"))]
# A text conversion in a scanf format that has no width.
SCAN = re.compile(r'\b[fs]?scanf\s*\([^;]*%(?:s|\[)')
RAW_ASSERT = re.compile(r'\b(assert_(?!all\b|all_)\w+|fail|fail_msg)\s*\(')


def inside(path, places):
    return any(path == place or path.startswith(place + "/") for place in places)


def rule_patterns():
    for names, folders, allowed, why in RULES:
        yield re.compile(r'(?<![\w.>])(' + "|".join(names.split()) + r')\s*\('), folders, allowed, why


def check_calls(source, patterns):
    for pattern, folders, allowed, why in patterns:
        if source.folder not in folders or inside(source.path, allowed):
            continue
        for match in pattern.finditer(source.code):
            yield f"{source.at(match.start(1))} {match.group(1)} {why}"


def check_streams(source):
    if source.folder not in PRODUCT:
        return
    for stream, allowed in STREAMS:
        if not inside(source.path, allowed):
            for match in re.finditer(r'\b' + stream + r'\b', source.code):
                yield f"{source.at(match.start())} {stream} belongs to: {' '.join(allowed)}"


def check_scans(source):
    for match in SCAN.finditer(source.text):
        yield f"{source.at(match.start())} scanf reads text without a bound: give %s a width"


def check_raw_asserts(source):
    """A plain assert that fails on one rank leaves the others waiting for ever."""
    if source.path.startswith("tests/mpi/"):
        for match in RAW_ASSERT.finditer(source.code):
            yield f"{source.at(match.start(1))} {match.group(1)} hangs the other ranks: assert_all"


def check(tree):
    patterns = list(rule_patterns())
    found = []
    for source in tree.sources:
        found += check_calls(source, patterns)
        found += check_streams(source)
        found += check_scans(source)
        found += check_raw_asserts(source)
    return found


if __name__ == "__main__":
    sys.exit(lint_lib.run("lint_banned", check))

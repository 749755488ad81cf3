#!/usr/bin/env python3
"""What the built libraries define: exported names begin with sy_, and nothing is mutable but what DESIGN lists.

    lint_symbols.py LIBRARY.a...
"""

import os
import re
import subprocess
import sys

import lint_lib

# Objects that may hold mutable globals: log, thread-local status, allocation counters, fault points, the stop flag,
# the flight recorder, the communicators over NCCL, the recorder of spans, the pulse and the stack that the watchdog asked for; and the page-fault handler of the check backend.
MUTABLE = {
    "log.c.o", "status.c.o", "alloc.c.o", "fault.c.o", "span.c.o", "signals.c.o", "recorder.c.o", "pulse.c.o", "watch_stack.c.o", "comm_nccl.c.o", "check_trap.c.o",
}
# What a C++ compiler adds for exceptions: one pointer per type, shared by the objects of a program.
OF_THE_COMPILER = "DW.ref."
WRITABLE = re.compile(r'\.(data|bss|tbss|tdata)(?!\.rel\.ro)')


def run(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def check_exports(library):
    for line in run("nm", "-g", "--defined-only", library).splitlines():
        words = line.split()
        if len(words) == 3 and not words[2].startswith(("sy_", OF_THE_COMPILER)) and words[2] != "main":
            yield f"{os.path.basename(library)} exports {words[2]}, which does not begin with sy_"


def check_globals(library):
    member = ""
    for line in run("objdump", "-t", library).splitlines():
        if ":     file format" in line:
            member = os.path.basename(line.split(":     file format")[0])
        match = re.match(r'^[0-9a-f]+ (.{7}) (\S+)\t[0-9a-f]+ (?:\.hidden )?(\S+)$', line)
        if match and match.group(3).startswith(OF_THE_COMPILER):
            continue
        if match and "O" in match.group(1) and WRITABLE.match(match.group(2)) and member not in MUTABLE:
            yield f"{os.path.basename(library)} {member} has the mutable global {match.group(3)}"


def check(libraries):
    found = []
    for library in libraries:
        found += list(check_exports(library)) + list(check_globals(library))
    return found


if __name__ == "__main__":
    sys.exit(lint_lib.finish("lint_symbols", check(sys.argv[1:])))

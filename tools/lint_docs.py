#!/usr/bin/env python3
"""Doc blocks: every function declared in a public header has a comment above it, and says whether it is collective.

A comment speaks for all declarations below it up to the next blank line or comment. "Collective over X" or "Not
collective" may stand in that comment, or once for several in an earlier comment of the header that says so of more
than one ("Not collective, all three.", "Nothing here is collective."). Folders that may not include parallel/ cannot
communicate: there it goes without saying.
"""

import re
import sys

import lint_layers
import lint_lib

COMMENT = re.compile(r'/\*.*?\*/', re.S)
MANY = re.compile(r'\b(all|both|each|every|none|nothing|any|no function|the rest|here)\b', re.I)
SENTENCE = re.compile(r'[^.;]*ollective[^.;]*(?:[.;]|$)')


def comments(source):
    """(begin, end, text) of comments that begin a line."""
    for match in COMMENT.finditer(source.text):
        line_start = source.text.rfind("\n", 0, match.start()) + 1
        if not source.text[line_start:match.start()].strip():
            yield match.start(), match.end(), match.group(0)


def block_of(source, function, blocks):
    """The comment that speaks for the function, or None."""
    above = [b for b in blocks if b[1] <= function.begin]
    if not above:
        return None
    between = source.text[above[-1][1]:function.begin]
    return None if re.search(r'\n[ \t]*\n', between) else above[-1]


def says_collective(text):
    return "ollective" in text


def speaks_for_many(text):
    return any(MANY.search(sentence) for sentence in SENTENCE.findall(text))


def check_header(source, may_communicate):
    blocks = list(comments(source))
    for function in source.declarations():
        block = block_of(source, function, blocks)
        where = f"{source.path}:{function.line} {function.name}"
        if block is None:
            yield f"{where} has no comment above it"
        elif may_communicate and not says_collective(block[2]) and not any(
                speaks_for_many(b[2]) for b in blocks if b[1] <= function.begin):
            yield f"{where} does not say whether it is collective"


def check(tree):
    folders, _ = lint_layers.read_table(tree)
    found = []
    for source in tree.headers():
        if not source.path.endswith("_impl.h"):
            found += check_header(source, "parallel" in folders.get(source.folder, ()))
    return found


if __name__ == "__main__":
    sys.exit(lint_lib.run("lint_docs", check))

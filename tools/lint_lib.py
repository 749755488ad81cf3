"""What the lints share: the list of sources, C text without comments, functions and declarations in it.

A lint is tools/lint_<name>.py with check(tree, ...) -> list of messages "path:line what is wrong". Alone:
lint_<name>.py [ROOT] prints them and exits 1 if there are any.
"""

import bisect
import os
import re
import sys

PRODUCT = ("core", "backend", "parallel", "model", "moe", "optim", "data", "checkpoint", "upcycle", "report",
           "train", "launch")

_TOKEN = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
_DIRECTIVE = re.compile(r'^[ \t]*#(?:[^\n]*\\\n)*[^\n]*', re.M)
_ATTRIBUTE = re.compile(r'__attribute__\s*\(\((?:[^()]|\([^()]*\))*\)\)')


def _blank(text):
    return re.sub(r'[^\n]', ' ', text)


def _blank_token(match):
    text = match.group(0)
    return text[0] + _blank(text[1:-1]) + text[-1] if text[0] in '"\'' else _blank(text)


class Source:
    """One C file: `text` as it is; `code` without comments and the insides of strings; `flat` also without
    preprocessor lines. All three have the same length and the same line breaks."""

    def __init__(self, root, path):
        self.path = path
        self.folder = path.split("/")[0]
        with open(os.path.join(root, path), encoding="utf-8") as f:
            self.text = f.read()
        self.code = _TOKEN.sub(_blank_token, self.text)
        self.flat = _DIRECTIVE.sub(lambda m: _blank(m.group(0)), self.code)
        self._starts = [m.end() for m in re.finditer(r'\n', self.text)]
        self._parsed = None

    def line(self, offset):
        return bisect.bisect_right(self._starts, offset) + 1

    def n_lines(self):
        return len(self.text.splitlines())

    def at(self, offset):
        return f"{self.path}:{self.line(offset)}"

    def _parse(self):
        if self._parsed is None:
            self._parsed = parse(self)
        return self._parsed

    def functions(self):
        return self._parse()[0]

    def declarations(self):
        return self._parse()[1]


class Function:
    """A function's definition, or its declaration in a header (then end is where it ends)."""

    def __init__(self, source, name, head, begin, end):
        self.source, self.name, self.begin, self.end = source, name, begin, end
        self.static = re.search(r'\bstatic\b', head) is not None
        self.line = source.line(begin)
        self.n_lines = source.line(end) - self.line + 1


def _called_name(head):
    """Name in front of the last parenthesis group that ends the text, or None."""
    head = _ATTRIBUTE.sub(lambda m: " " * len(m.group(0)), head).rstrip()
    if not head.endswith(")"):
        return None
    depth = 0
    for i in range(len(head) - 1, -1, -1):
        depth += (head[i] == ")") - (head[i] == "(")
        if depth == 0:
            name = re.search(r'(\w+)\s*$', head[:i])
            returns = name and head[:name.start()].strip()
            return name.group(1) if returns and "=" not in returns else None
    return None


def parse(source):
    """(definitions, declarations) of functions at the top level, in order."""
    text, defined, declared = source.flat, [], []
    depth, start, body = 0, 0, None
    for match in re.finditer(r'[{};()]', text):
        char, i = match.group(0), match.start()
        if char in "()":
            continue
        if char == "{":
            if depth == 0 and re.search(r'extern\s*"\s*C?\s*"\s*$', text[start:i]):
                start = i + 1
                continue
            if depth == 0:
                body = (start, i)
            depth += 1
        elif char == "}":
            if depth == 0:  # the end of extern "C"
                start = i + 1
                continue
            depth -= 1
            if depth == 0:
                head = text[body[0]:body[1]]
                name = _called_name(head)
                if name:
                    begin = body[0] + len(head) - len(head.lstrip())
                    defined.append(Function(source, name, head, begin, i))
                    start = i + 1
        elif depth == 0:
            head = text[start:i]
            name = None if re.match(r'\s*typedef\b', head) else _called_name(head)
            if name:
                begin = start + len(head) - len(head.lstrip())
                declared.append(Function(source, name, head, begin, i))
            start = i + 1
    return defined, declared


class Tree:
    """All sources of a checkout, read once."""

    def __init__(self, root):
        self.root = os.path.abspath(root)
        self.sources = [Source(self.root, path) for path in self.files((".c", ".h"))]

    def files(self, endings, folders=PRODUCT + ("tests",)):
        found = []
        for folder in folders:
            for where, inner, names in os.walk(os.path.join(self.root, folder)):
                inner[:] = sorted(d for d in inner if d != "__pycache__")
                found += [os.path.relpath(os.path.join(where, n), self.root) for n in sorted(names)
                          if n.endswith(endings)]
        return found

    def read(self, path):
        with open(os.path.join(self.root, path), encoding="utf-8") as f:
            return f.read()

    def exists(self, path):
        return os.path.exists(os.path.join(self.root, path))

    def product(self):
        return [s for s in self.sources if s.folder in PRODUCT]

    def headers(self):
        """Public headers and those of a folder alone."""
        return [s for s in self.product() if s.path.endswith(".h")]


def run(name, check):
    """Body of a lint that takes no argument but the root."""
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return finish(name, check(Tree(root)))


def finish(name, messages):
    for message in messages:
        print(f"{name}: {message}")
    print(f"{name}: {len(messages)} found" if messages else f"{name}: clean")
    return 1 if messages else 0

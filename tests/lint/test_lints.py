#!/usr/bin/env python3
"""Each lint finds what it is for: violations are planted in a copy of the tree, one file each, and must be reported;
innocent look-alikes must not be."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
import lint_banned
import lint_docs
import lint_headers
import lint_layers
import lint_lib
import lint_names
import lint_registered
import lint_sizes
import lint_symbols

COPIED = lint_lib.PRODUCT + ("tests", "tools")


def lines(n):
    return "".join(f"    x += {i};\n" for i in range(n))


# file: (its text, lint, what the message must hold)
PLANTS = {
    "core/planted_up.c": ('#include "moe/plan.h"\n', "layers", "core may not include moe"),
    "data/planted_mpi.c": ("#include <mpi.h>\n", "layers", "includes <mpi.h>"),
    "model/planted_hdf5.c": ("  #  include <hdf5.h>\n", "layers", "includes <hdf5.h>"),
    "parallel/planted_omp.c": ("#include <omp.h>\n", "layers", "includes <omp.h>"),
    "backend/planted_cuda.c": ("#include <cuda_runtime.h>\n", "layers", "includes <cuda_runtime.h>"),
    "moe/planted_private.c": ('#include "core/config_impl.h"\n', "layers", "private to core"),
    "moe/planted_unrooted.c": ('#include "plan.h"\n', "layers", "not a path from the root"),

    "core/planted_long.c": (f"static int planted(int x)\n{{\n{lines(119)}    return x;\n}}\n",
                            "sizes", "planted has 123 lines, at most 120"),
    "backend/cpu/planted_kernel.c": (f"static int planted_kernel(int x)\n{{\n{lines(149)}    return x;\n}}\n",
                                     "sizes", "at most 150"),
    "core/planted_file.c": ("\n" * 801, "sizes", "has 801 lines, at most 800"),

    "core/planted_public.c": ("int planted(void)\n{\n    return 0;\n}\n", "names", "neither static nor begins"),
    "core/planted_t.c": ("typedef struct planted { int x; } planted_t;\n", "names", "belong to POSIX"),
    "core/planted_pointer.c": ("typedef struct sy_planted *sy_planted_ref;\n", "names", "hides a pointer"),
    "core/planted_callback.c": ("typedef int (*sy_planted_fn)(int);\n", "names", "hides a pointer"),
    "core/planted_type.h": ("typedef enum color { SY_RED } color;\n", "names", "public type color"),
    "core/planted_macro.h": ("#define PLANTED 1\n", "names", "public macro PLANTED"),
    "core/planted_impl.h": ("int sy__planted(void);\n", None, None),
    "moe/planted_foreign.c": ("int sy_moe_planted(void)\n{\n    return sy__planted();\n}\n",
                              "names", "sy__planted is private to core"),
    "core/planted_header.h": ("int sy__planted_elsewhere(void); /* not collective */\n", "names", "is public by its name"),
    "core/planted_undeclared.c": ("int sy__undeclared(void)\n{\n    return 0;\n}\n", "names", "declared in no *_impl.h"),

    "core/planted_printf.c": ('static void f(void)\n{\n    printf("x");\n}\n', "banned", "printf writes to a standard"),
    "train/planted_stdout.c": ('static void f(void)\n{\n    fputs("x", stdout);\n}\n', "banned", "stdout belongs to"),
    "moe/planted_stderr.c": ('static void f(void)\n{\n    fprintf(stderr, "x");\n}\n', "banned", "stderr belongs to"),
    "data/planted_strcpy.c": ("static void f(char *a)\n{\n    strcpy(a, a);\n}\n", "banned", "strcpy has no bound"),
    "report/planted_sprintf.c": ('static void f(char *a)\n{\n    sprintf(a, "x");\n}\n', "banned", "sprintf has no"),
    "data/planted_atoi.c": ('static int f(void)\n{\n    return atoi("1");\n}\n', "banned", "atoi hides errors"),
    "data/planted_scanf.c": ('static void f(char *a)\n{\n    sscanf(a, "%d %s", 0, a);\n}\n', "banned", "give %s a width"),
    "core/planted_malloc.c": ("static void *f(void)\n{\n    return malloc(1);\n}\n", "banned", "malloc is not counted"),
    "core/planted_free.c": ("static void f(void *p)\n{\n    free(p);\n}\n", "banned", "free is not counted"),
    "train/planted_exit.c": ("static void f(void)\n{\n    exit(1);\n}\n", "banned", "exit ends the process"),
    "moe/planted_rand.c": ("static int f(void)\n{\n    return rand();\n}\n", "banned", "rand is another generator"),
    "launch/planted_locale.c": ('static void f(void)\n{\n    setlocale(0, "");\n}\n', "banned", "setlocale changes"),
    "core/planted_alloca.c": ("static void *f(int n)\n{\n    return alloca(n);\n}\n", "banned", "alloca takes"),
    "tests/mpi/planted_assert.c": ("static void f(void)\n{\n    assert_true(0);\n}\n", "banned", "hangs the other ranks"),

    "core/planted_doc.h": ("/* What it does. Not collective. */\n\nint sy_planted_bare(void);\n",
                           "docs", "sy_planted_bare has no comment"),
    "moe/planted_collective.h": ("/* What it does. */\nint sy_planted_silent(void);\n",
                                  "docs", "sy_planted_silent does not say"),

    "core/planted_alone.h": ("/* Needs stdint. Not collective. */\nint32_t sy_planted_alone(void);\n",
                             "headers", "does not compile alone as C11"),
    "core/planted_guard.h": ("struct sy_planted_twice { int x; };\n", "headers", "does not compile alone as C11"),
    "core/planted_cxx.h": ("#ifndef A\n#define A\nstruct sy_planted_cxx { int new; };\n#endif\n",
                           "headers", "does not compile alone as C++17"),

    "core/planted_loose.c": ("static int x;\n", "registered", "is in no meson.build"),
    "tests/unit/test_planted.c": ("int main(void)\n{\n    return 0;\n}\n", "registered", "is not registered"),
    "tests/mpi/test_planted.c": ("int main(void)\n{\n    return 0;\n}\n", "registered", "is not registered"),
    "tests/e2e/test_planted.sh": ("true\n", "registered", "is not registered"),
    "tools/lint_planted.py": ("", "registered", "is not run by"),
}

INNOCENT = {
    "data/innocent_local.h": "#ifndef SY_B\n#define SY_B\n/* Cannot communicate. */\nint sy_innocent_c(void);\n#endif\n",
    "core/innocent.h": """/* Look-alikes. Nothing here is collective. */
#ifndef SY_CORE_INNOCENT_H
#define SY_CORE_INNOCENT_H
#ifdef __cplusplus
extern "C" {
#endif
typedef int sy_innocent_call(int x);
typedef struct sy_innocent { int *p, a[3]; int (*free)(void *p); } sy_innocent;
/* One comment for two. */
int sy_innocent_a(int (*fn)(int));
int sy_innocent_b(const char *format, ...) __attribute__((format(printf, 1, 2)));
#ifdef __cplusplus
}
#endif
#endif
""",
    "core/innocent.c": '''#include "core/innocent.h"

/* printf( and malloc(1) in a comment, #include "moe/plan.h" */
// free(p) int planted(void) {
static const char *const text = "rand() // exit(1) \\" strcpy( {";
static int x_exit(int (*free_it)(void *)) { return free_it(0); }
int sy_innocent_a(int (*fn)(int))
{
    struct sy_innocent i = {.free = 0};
    return fn(text[0]) + x_exit(0) + i.free(0);
}
''',
}


def run_lints(root, libraries=()):
    tree = lint_lib.Tree(root)
    lints = {"layers": lint_layers, "sizes": lint_sizes, "names": lint_names, "banned": lint_banned,
             "docs": lint_docs, "headers": lint_headers, "registered": lint_registered}
    found = {name: lint.check(tree) for name, lint in lints.items()}
    found["symbols"] = lint_symbols.check(libraries)
    return found


def write(root, path, text):
    full = os.path.join(root, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "w", encoding="utf-8") as f:
        f.write(text)


def drop_headers(root):
    """Compiling all of the tree's own headers again would prove nothing."""
    kept = os.path.join(root, "core/status.h")
    for where, _, names in os.walk(root):
        for name in names:
            path = os.path.join(where, name)
            if name.endswith(".h") and path != kept and "planted" not in name and "innocent" not in name \
                    and not path.endswith(("core/config_impl.h", "moe/plan.h", "backend/ops.h")):
                os.remove(path)


class Lints(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="sy_lint_")
        root = cls.folder.name
        for folder in COPIED:
            shutil.copytree(os.path.join(ROOT, folder), os.path.join(root, folder),
                            ignore=shutil.ignore_patterns("samples", "__pycache__"))
        drop_headers(root)
        for path, plant in PLANTS.items():
            write(root, path, plant[0])
        for path, text in INNOCENT.items():
            write(root, path, text)
        cls.plant_op(root)
        cls.library = cls.plant_library(root)
        cls.found = run_lints(root, [cls.library])

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @staticmethod
    def plant_op(root):
        path = os.path.join(root, "backend/ops.h")
        with open(path, encoding="utf-8") as f:
            text = f.read()
        assert "#define SY_OPS(X)" in text
        write(root, "backend/ops.h", text.replace("#define SY_OPS(X)", "#define SY_OPS(X) X(planted_op)"))

    @staticmethod
    def plant_library(root):
        write(root, "planted_exports.c", "int planted_export(void) { static int n; return n++; }\n"
              "const char *const sy_planted_table[] = {\"a\"}; static const int fine = 1;\n"
              "int sy_planted_fine(void) { return fine; }\n")
        subprocess.run(["cc", "-fPIC", "-c", "planted_exports.c"], cwd=root, check=True)
        subprocess.run(["ar", "rcs", "libplanted.a", "planted_exports.o"], cwd=root, check=True)
        return os.path.join(root, "libplanted.a")

    def messages(self, lint, path):
        return [m for m in self.found[lint] if m.startswith(path + ":")]

    def test_planted_violation_is_reported(self):
        for path, (_, lint, words) in PLANTS.items():
            if lint:
                with self.subTest(path):
                    self.assertTrue(any(words in m for m in self.messages(lint, path)),
                                    f"lint_{lint} says of {path}: {self.messages(lint, path)}")

    def test_look_alike_is_not_reported(self):
        for path in INNOCENT:
            for lint in self.found:
                if lint != "registered":
                    self.assertEqual(self.messages(lint, path), [], f"lint_{lint} on {path}")

    def test_op_without_functions_and_case_is_reported(self):
        text = "\n".join(self.messages("registered", "backend/ops.h"))
        for words in ("sy__ref_planted_op", "sy__cpu_planted_op", "planted_op has no case"):
            self.assertIn(words, text)

    def test_symbols_of_a_library_are_reported(self):
        text = "\n".join(self.found["symbols"])
        self.assertIn("exports planted_export", text)
        self.assertIn("mutable global n", text)
        self.assertNotIn("sy_planted", text)

    def test_median_of_a_folder_is_reported(self):
        with tempfile.TemporaryDirectory() as root:
            write(root, "core/a.c", f"static int f(int x)\n{{\n{lines(30)}    return x;\n}}\n")
            self.assertIn("the median function has 34 lines", "\n".join(lint_sizes.check(lint_lib.Tree(root))))

    def test_lint_exit_status_follows_what_it_found(self):
        for root, status in ((self.folder.name, 1), (tempfile.mkdtemp(dir=self.folder.name), 0)):
            done = subprocess.run([sys.executable, os.path.join(ROOT, "tools/lint_banned.py"), root],
                                  stdout=subprocess.DEVNULL, check=False)
            self.assertEqual(done.returncode, status)


if __name__ == "__main__":
    unittest.main()

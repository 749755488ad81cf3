/* Mutated configurations and overrides, the same ones in every run. Whatever comes: no crash, no
   leak, a refusal is a usage error with a message, and what is accepted echoes to a text that
   parses to the same echo. fuzz_config [ITERATIONS [SEED]] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/config.h"
#include "core/rng.h"

typedef struct toy {
    bool flag;
    int32_t count, mode;
    int64_t big;
    double rate, betas[2];
    char *name;
    sy_opt_f64 factor;
    sy_str_list freeze;
    sy_map_list train;
} toy;

static const char *const modes[] = {"softmax", "sigmoid", "no", NULL};
static const char *const train_keys[] = {"*path", "weight", NULL};

static const sy_config_key toy_keys[] = {
    {"flag", SY_CFG_BOOL, offsetof(toy, flag), "true", 0, 0, NULL, "A switch."},
    {"count", SY_CFG_I32, offsetof(toy, count), "2", 1, 64, NULL, "How many."},
    {"big", SY_CFG_I64, offsetof(toy, big), "0", 0, 0, NULL, "A large number."},
    {"rate", SY_CFG_F64, offsetof(toy, rate), "0.1", 0, 0, NULL, "How fast."},
    {"name", SY_CFG_STR, offsetof(toy, name), "null", 0, 0, NULL, "What it is called."},
    {"mode", SY_CFG_ENUM, offsetof(toy, mode), "softmax", 0, 0, modes, "Which way."},
    {"factor", SY_CFG_OPT_F64, offsetof(toy, factor), "null", 0, 0, NULL, "Or none."},
    {"freeze", SY_CFG_STR_LIST, offsetof(toy, freeze), "null", 0, 0, NULL, "Patterns."},
    {"betas", SY_CFG_F64_PAIR, offsetof(toy, betas), "[0.9, 0.95]", 0, 0, NULL, "Two."},
    {"train", SY_CFG_MAP_LIST, offsetof(toy, train), "null", 0, 0, train_keys, "Sources."},
    {0}};
static const sy_config_section toy_section = {"toy", "A toy.", toy_keys, sizeof(toy), NULL};
static const sy_config_section inner_section = {"toy.inner", "Inside.", toy_keys, sizeof(toy),
                                                NULL};
static const sy_config_section *const sections[] = {&toy_section, &inner_section};

static const char *const corpus[] = {
    "toy:\n  flag: false\n  count: 0x10\n  big: -9223372036854775808\n  rate: 1e-4\n",
    "toy:\n  name: \"a \\u00e9 \\n\"\n  mode: sigmoid\n  factor: null\n  betas: [0.5, 1]\n",
    "toy:\n  train:\n    - path: data/a\n      weight: 0.7\n    - {path: \"b, c\"}\n",
    "toy:\n  freeze: [embed, 'layers/0*', \"x\"]\n  inner:\n    count: 9\n    name: |\n      a\n",
    "{\"toy\": {\"name\": \"x\", \"count\": 4, \"freeze\": [\"a\", 3]}, \"toy.big\": 7}",
    "# comment\n---\ntoy: {name: >-\n   folded\n   text}\n...\n",
};
static const char *const overrides[] = {
    "toy.count=10",       "toy.betas=[0.9,0.99]", "toy.train=[{path: a, weight: 2}]",
    "toy.inner.name=a=b", "toy.factor=null",      "toy.freeze=[a,\"b\"]",
    "toy.name=\"\\x41\"", "toy.rate=-1.5e+300",
};
static const char *const pieces[] = {
    "\n",
    "  ",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "\"",
    "'",
    "#",
    "&a",
    "*a",
    "!",
    "|\n",
    ">\n",
    "? ",
    "null",
    "true",
    "~",
    "010",
    "1e9",
    "-",
    "\t",
    "\\",
    "%",
    "---",
    "...",
    "toy",
    "count",
    "\r",
    "\xc2",
    "\x80",
    "\xef\xbb\xbf",
    "<<",
    "=",
    ".",
    "0x",
    "inf",
    "99999999999999999999",
    "name: ",
    "\xe2\x80\xa8",
};

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

enum { MAX_TEXT = 2048 };

typedef struct dice {
    uint64_t seed, n_drawn;
} dice;

static size_t below(dice *d, size_t n)
{
    return (size_t)(sy_rng_u64(d->seed, SY_RNG_TEST, d->n_drawn++) % n);
}

/* Put `n` bytes in the place of `n_old` at `at`, as far as there is room. */
static size_t splice(char *text, size_t size, size_t at, size_t n_old, const char *bytes, size_t n)
{
    if (size - n_old + n >= MAX_TEXT) {
        return size;
    }
    memmove(text + at + n, text + at + n_old, size - at - n_old);
    memcpy(text + at, bytes, n);
    return size - n_old + n;
}

static size_t mutate_once(dice *d, char *text, size_t size)
{
    size_t at = below(d, size + 1), rest = size - at, n = rest ? 1 + below(d, rest) : 0;
    char byte = (char)below(d, 256), copy[MAX_TEXT];
    const char *piece = pieces[below(d, COUNT_OF(pieces))];
    switch (below(d, 6)) {
    case 0: /* another byte */
        return splice(text, size, at, rest ? 1 : 0, &byte, 1);
    case 1: /* a piece of syntax in between */
        return splice(text, size, at, 0, piece, strlen(piece));
    case 2: /* ... in the place of something */
        return splice(text, size, at, n < 8 ? n : 1, piece, strlen(piece));
    case 3: /* a part gone */
        return splice(text, size, at, n < 16 ? n : rest ? 1 : 0, "", 0);
    case 4: /* a part twice */
        memcpy(copy, text + at, n);
        return splice(text, size, below(d, size + 1), 0, copy, n);
    default: /* the end gone */
        return below(d, 8) ? size : at;
    }
}

static size_t mutate(dice *d, const char *from, char *text)
{
    size_t size = strlen(from);
    memcpy(text, from, size);
    for (size_t i = below(d, 6); i > 0; i--) {
        size = mutate_once(d, text, size);
    }
    text[size] = '\0';
    return size;
}

/* An accepted configuration must survive its own echo. */
static bool echo_holds(const sy_config *config)
{
    char *echo = NULL, *second = NULL, *diff = NULL;
    sy_config *again = NULL;
    bool held =
        sy_config_echo(config, &echo) == SY_OK &&
        sy_config_parse(sections, 2, echo, strlen(echo), "echo", NULL, 0, &again) == SY_OK &&
        sy_config_echo(again, &second) == SY_OK && strcmp(echo, second) == 0 &&
        sy_config_diff(config, again, NULL, &diff) == SY_OK && diff[0] == '\0';
    if (!held) {
        fprintf(stderr, "%s\n--- echo\n%s\n--- its echo\n%s\n", sy_error_message(),
                echo ? echo : "", second ? second : "");
    }
    sy_free(&diff);
    sy_free(&second);
    sy_free(&echo);
    sy_config_destroy(&again);
    return held;
}

static bool holds(const char *text, size_t size, const char *override, int64_t *n_accepted)
{
    sy_config *config = NULL;
    sy_error_clear();
    sy_status st =
        sy_config_parse(sections, 2, text, size, "fuzz.yaml", &override, override ? 1 : 0, &config);
    bool held =
        st == SY_OK ? echo_holds(config) : st == SY_ERR_USAGE && sy_error_message()[0] && !config;
    *n_accepted += st == SY_OK;
    sy_config_destroy(&config);
    return held && sy_alloc_live() == 0;
}

int main(int argc, char **argv)
{
    int64_t n = argc > 1 ? atoll(argv[1]) : 20000, n_accepted = 0;
    dice d = {.seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1};
    char text[MAX_TEXT + 1], override[MAX_TEXT + 1];
    for (int64_t i = 0; i < n; i++) {
        size_t size = mutate(&d, corpus[below(&d, COUNT_OF(corpus))], text);
        mutate(&d, overrides[below(&d, COUNT_OF(overrides))], override);
        if (!holds(text, size, i % 2 ? override : NULL, &n_accepted)) {
            fprintf(stderr, "iteration %lld, override '%s', text:\n%s\n", (long long)i, override,
                    text);
            return 1;
        }
    }
    printf("%lld configurations, %lld accepted\n", (long long)n, (long long)n_accepted);
    /* Both ways must have been taken, or the mutations are too wild or too tame to find anything.
     */
    return n >= 1000 && (n_accepted < n / 20 || n_accepted > n * 19 / 20);
}

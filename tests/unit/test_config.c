/* core/config: every refusal with its place and the nearest name, every type read and echoed, and
 * what differs. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/alloc.h"
#include "core/config.h"

typedef struct toy {
    bool flag;
    int32_t count;
    int64_t big;
    double rate;
    char *name, *dir;
    int32_t mode;
    sy_opt_f64 factor;
    sy_str_list freeze;
    double betas[2];
    sy_map_list train;
} toy;

static const char *const modes[] = {"softmax", "sigmoid", "no", NULL};
static const char *const train_keys[] = {"*path", "weight", NULL};

static const sy_config_key toy_keys[] = {
    {"flag", SY_CFG_BOOL, offsetof(toy, flag), "true", 0, 0, NULL, "A switch."},
    {"count", SY_CFG_I32, offsetof(toy, count), "2", 1, 64, NULL, "How many | where."},
    {"big", SY_CFG_I64, offsetof(toy, big), "0", 0, 0, NULL, "A large number."},
    {"rate", SY_CFG_F64, offsetof(toy, rate), "0.1", 0, 1, NULL, "How fast."},
    {"name", SY_CFG_STR, offsetof(toy, name), NULL, 0, 0, NULL, "What it is called."},
    {"dir", SY_CFG_STR, offsetof(toy, dir), "null", 0, 0, NULL, "Where it is kept."},
    {"mode", SY_CFG_ENUM, offsetof(toy, mode), "softmax", 0, 0, modes, "Which way."},
    {"factor", SY_CFG_OPT_F64, offsetof(toy, factor), "1.25", 0.5, HUGE_VAL, NULL, "Or none."},
    {"freeze", SY_CFG_STR_LIST, offsetof(toy, freeze), "null", 0, 0, NULL, "Patterns."},
    {"betas", SY_CFG_F64_PAIR, offsetof(toy, betas), "[0.9, 0.95]", 0, 1, NULL, "Two."},
    {"train", SY_CFG_MAP_LIST, offsetof(toy, train), "null", 0, 0, train_keys, "Sources."},
    {0}};

typedef struct nested {
    int32_t iterations;
} nested;

static const sy_config_key nested_keys[] = {
    {"iterations", SY_CFG_I32, offsetof(nested, iterations), "4", 1, 2147483647, NULL, "Rounds."},
    {0}};

/* The toy's own rule: an odd count needs the flag. */
static sy_status check_toy(const void *section, const sy_config *config)
{
    const toy *t = section;
    if (t->count % 2 && !t->flag) {
        return sy_config_error(config, "toy.count", "toy.count %d is odd", t->count);
    }
    return SY_OK;
}

static const sy_config_section toy_section = {"toy", "A toy.", toy_keys, sizeof(toy), check_toy};
static const sy_config_section nested_section = {"toy.inner", "Inside.", nested_keys,
                                                 sizeof(nested), NULL};
static const sy_config_section *const sections[] = {&toy_section, &nested_section};

static sy_status parse(const char *text, const char *override, sy_config **out)
{
    return sy_config_parse(sections, 2, text, strlen(text), "t.yaml", &override, override ? 1 : 0,
                           out);
}

static sy_config *accept(const char *text, const char *override)
{
    sy_config *config = NULL;
    sy_status st = parse(text, override, &config);
    if (st != SY_OK) {
        print_error("refused: %s\n", sy_error_message());
    }
    assert_int_equal(st, SY_OK);
    return config;
}

static void expect_refusal(const char *text, const char *override, const char *message)
{
    int64_t live = sy_alloc_live();
    sy_config *config = NULL;
    sy_error_clear();
    assert_int_equal(parse(text, override, &config), SY_ERR_USAGE);
    if (message) {
        assert_string_equal(sy_error_message(), message);
    }
    assert_null(config);
    assert_int_equal(sy_alloc_live(), live);
    sy_error_clear();
}

static void parse_defaults_fill_what_is_not_given(void **state)
{
    (void)state;
    sy_config *config = accept("# nothing but a name\ntoy: {name: x}\n", NULL);
    const toy *t = sy_config_get(config, "toy");
    assert_true(t->flag);
    assert_int_equal(t->count, 2);
    assert_true(t->rate == 0.1 && t->factor.set && t->factor.value == 1.25);
    assert_string_equal(t->name, "x");
    assert_null(t->dir);
    assert_int_equal(t->freeze.n, 0);
    assert_int_equal(t->train.n, 0);
    assert_true(t->betas[0] == 0.9 && t->betas[1] == 0.95);
    assert_int_equal(((const nested *)sy_config_get(config, "toy.inner"))->iterations, 4);
    assert_true(sy_config_was_set(config, "toy.name"));
    assert_false(sy_config_was_set(config, "toy.count"));
    assert_null(sy_config_get(config, "other"));
    sy_config_destroy(&config);
    assert_null(config);
}

static void parse_every_type_is_read(void **state)
{
    (void)state;
    sy_config *config = accept("toy:\n"
                               "  flag: false\n"
                               "  count: 0x10\n"
                               "  big: -9223372036854775808\n"
                               "  rate: 1e-4\n"
                               "  name: 12 monkeys\n"
                               "  dir: \"null\"\n"
                               "  mode: sigmoid\n"
                               "  factor: null\n"
                               "  freeze: embed\n"
                               "  betas: [0.5, 1]\n"
                               "  train:\n"
                               "    - path: data/a\n"
                               "      weight: 0.7\n"
                               "    - {path: \"b, c\"}\n"
                               "  inner:\n"
                               "    iterations: 9\n",
                               NULL);
    const toy *t = sy_config_get(config, "toy");
    assert_false(t->flag);
    assert_int_equal(t->count, 16);
    assert_true(t->big == INT64_MIN);
    assert_true(t->rate == 1e-4);
    assert_string_equal(t->name, "12 monkeys");
    assert_string_equal(t->dir, "null");
    assert_int_equal(t->mode, 1);
    assert_false(t->factor.set);
    assert_int_equal(t->freeze.n, 1);
    assert_string_equal(t->freeze.item[0], "embed");
    assert_true(t->betas[0] == 0.5 && t->betas[1] == 1);
    assert_int_equal(t->train.n, 2);
    assert_int_equal(t->train.item[0].n, 2);
    assert_int_equal(t->train.item[0].line, 13);
    assert_string_equal(t->train.item[0].entry[1].key, "weight");
    assert_string_equal(t->train.item[0].entry[1].value, "0.7");
    assert_string_equal(t->train.item[1].entry[0].value, "b, c");
    assert_int_equal(((const nested *)sy_config_get(config, "toy.inner"))->iterations, 9);
    sy_config_destroy(&config);
}

static void parse_json_and_dotted_keys_are_read(void **state)
{
    (void)state;
    sy_config *config = accept("{\"toy\": {\"name\": \"x\", \"count\": 4}, \"toy.big\": 7}", NULL);
    const toy *t = sy_config_get(config, "toy");
    assert_int_equal(t->count, 4);
    assert_int_equal(t->big, 7);
    sy_config_destroy(&config);
    expect_refusal("toy.name: x\ntoy: {name: y}\n", NULL,
                   "t.yaml:2: duplicate key 'toy.name' (first on line 1)");
}

static void parse_unknown_key_names_line_and_nearest(void **state)
{
    (void)state;
    expect_refusal("toy:\n  name: x\n  cuont: 3\n", NULL,
                   "t.yaml:3: unknown key 'toy.cuont' (did you mean 'toy.count'?)");
    expect_refusal("toy:\n  name: x\n  Freeze: a\n", NULL,
                   "t.yaml:3: unknown key 'toy.Freeze' (did you mean 'toy.freeze'?)");
    expect_refusal("\n\nty:\n  name: x\n", NULL,
                   "t.yaml:3: unknown key 'ty' (did you mean 'toy'?)");
    expect_refusal("toy: {name: x}\niterations: 3\n", NULL,
                   "t.yaml:2: unknown key 'iterations' (did you mean 'toy.inner.iterations'?)");
    expect_refusal("toy: {name: x}\nsomething_else: 3\n", NULL,
                   "t.yaml:2: unknown key 'something_else'");
    expect_refusal("toy:\n  name: x\n  train: [{path: a, wieght: 1}]\n", NULL,
                   "t.yaml:3: unknown key 'wieght' in an item of toy.train (did you mean "
                   "'weight'?)");
    expect_refusal("toy: {name: x}\n", "toy.cuont=3",
                   "--set toy.cuont=3: unknown key 'toy.cuont' (did you mean 'toy.count'?)");
}

static void parse_duplicate_key_names_both_lines(void **state)
{
    (void)state;
    expect_refusal("toy:\n  name: x\n  count: 1\n  count: 2\n", NULL,
                   "t.yaml:4: duplicate key 'count' (first on line 3)");
    expect_refusal("toy: {name: x}\ntoy: {count: 1}\n", NULL,
                   "t.yaml:2: duplicate key 'toy' (first on line 1)");
    expect_refusal("toy:\n  name: x\n  train: [{path: a, path: b}]\n", NULL,
                   "t.yaml:3: duplicate key 'path' (first on line 3)");
}

static void parse_wrong_value_names_key_and_mend(void **state)
{
    (void)state;
    static const struct {
        const char *value, *message;
    } cases[] = {
        {"count: two", "toy.count 'two' is not an integer: write digits (or 0x and hex digits), "
                       "unquoted"},
        {"count: \"2\"", "toy.count '2' is not an integer: write digits (or 0x and hex digits), "
                         "unquoted"},
        {"count: 65", "toy.count 65 is out of range: write 1..64"},
        {"count: 3000000000",
         "toy.count 3000000000 does not fit its type: write -2147483648..2147483647"},
        {"count: [1]", "toy.count is a list, but must be an integer"},
        {"count: {a: 1}", "toy.count is a map, but must be an integer"},
        {"count:", "toy.count has no value: write an integer"},
        {"count: null", "toy.count may not be null: write an integer"},
        {"rate: 1.5", "toy.rate 1.5 is out of range: write 0..1"},
        {"rate: fast", "toy.rate 'fast' is not a finite number: write it like 0.1 or 1.0e-4, "
                       "unquoted"},
        {"factor: 0.1", "toy.factor 0.1 is out of range: write >= 0.5"},
        {"flag: yes", "toy.flag 'yes' is neither true nor false"},
        {"flag: \"true\"", "toy.flag 'true' is neither true nor false"},
        {"mode: softmx", "toy.mode 'softmx' is not one of softmax, sigmoid, no (did you mean "
                         "'softmax'?)"},
        {"mode: 7", "toy.mode '7' is not one of softmax, sigmoid, no"},
        {"dir: ~", "toy.dir is ~: write null if nothing is meant, or put it in quotes"},
        {"dir: [a]", "toy.dir is a list, but must be a text"},
        {"freeze: {a: b}", "toy.freeze is a map, but must be a list of texts"},
        {"freeze: [a, [b]]", "toy.freeze is a list, but must be a text"},
        {"freeze: [a, null]", "toy.freeze may not be null: write a text"},
        {"betas: 0.9", "toy.betas must be a list of two numbers: write [a, b]"},
        {"betas: [0.9]", "toy.betas must be a list of two numbers: write [a, b]"},
        {"betas: [0.9, 2]", "toy.betas 2 is out of range: write 0..1"},
        {"train: a", "toy.train must be a list of maps: write [{path: ...}]"},
        {"train: [a]", "an item of toy.train must be a map: write {path: ...}"},
        {"train: [{weight: 2}]", "an item of toy.train lacks its key 'path'"},
        {"train: [{path: [a]}]", "toy.train is a list, but must be a text"},
        {"inner: 3", "section toy.inner must hold 'key: value' lines"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256], message[512];
        snprintf(text, sizeof text, "toy:\n  name: x\n  %s\n", cases[i].value);
        snprintf(message, sizeof message, "t.yaml:3: %s", cases[i].message);
        expect_refusal(text, NULL, message);
    }
}

/* What YAML 1.1 reads as a boolean, an octal, a sexagesimal ... is refused where a number or a
 * boolean must stand. */
static void parse_yaml_tricks_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "count: 010",     "count: 1_0",  "count: 0b11",     "count: 0o17",
        "count: 12:30",   "count: 1.0",  "count: 1e1",      "count: 0x",
        "count: 0xg",     "count: +",    "count: --1",      "rate: .nan",
        "rate: .inf",     "rate: nan",   "rate: inf",       "rate: 0x1p-1",
        "factor: 1e999",  "rate: 00.5",  "rate: 0.1.2",     "rate: e",
        "rate: .",        "rate: 1e",    "flag: on",        "flag: True",
        "flag: TRUE",     "flag: 1",     "count: &a 3",     "count: *a",
        "count: !!int 3", "count: !x 3", "rate: 0,5",       "<<: {count: 3}",
        "? [a]\n  : 3",   "big: 1k",     "freeze: !!set a", "big: 9223372036854775808",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[256];
        snprintf(text, sizeof text, "toy:\n  name: x\n  %s\n", bad[i]);
        sy_config *config = NULL;
        if (parse(text, NULL, &config) == SY_OK) {
            fail_msg("accepted: %s", bad[i]);
        }
        assert_non_null(strstr(sy_error_message(), "t.yaml:3: "));
        sy_error_clear();
    }
}

static void parse_broken_text_names_the_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *begin;
    } cases[] = {
        {"toy:\n  name: x\n  dir: \"open\n", "t.yaml:4: not valid YAML"},
        {"toy:\n\tname: x\n", "t.yaml:2: not valid YAML"},
        {"toy:\n  name: x\n  dir: [a\n", "t.yaml:4: not valid YAML"},
        {"toy:\n  name: \xff\n", "t.yaml:2: not valid YAML"},
        {"toy:\n  name: a\x01\n", "t.yaml:2: not valid YAML"},
        {"toy:\n  name: \"a\\0b\"\n", "t.yaml:2: a text contains a zero byte"},
        {"toy: {name: x}\n---\ntoy: {name: y}\n", "t.yaml:2: a second YAML document"},
        {"just a text\n", "t.yaml:1: the file must hold"},
        {"- a\n- b\n", "t.yaml:1: the file must hold"},
        {"toy: [[[[[[[[[[1]]]]]]]]]]\n", "t.yaml:1: values are nested deeper than 8"},
        {"", "t.yaml: toy.name is missing and has no default: What it is called."},
        {"toy:\n", "t.yaml: toy.name is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sy_config *config = NULL;
        sy_error_clear();
        assert_int_equal(parse(cases[i].text, NULL, &config), SY_ERR_USAGE);
        if (strncmp(sy_error_message(), cases[i].begin, strlen(cases[i].begin)) != 0) {
            fail_msg("%s", sy_error_message());
        }
    }
    sy_error_clear();
}

static void parse_endless_text_is_bounded(void **state)
{
    (void)state;
    enum { BYTES = 1100000 };
    char *text = NULL;
    sy_config *config = NULL;
    assert_int_equal(sy_alloc(BYTES, 1, (void **)&text), SY_OK);
    memset(text, '#', BYTES);
    assert_int_equal(sy_config_parse(sections, 2, text, BYTES, "t.yaml", NULL, 0, &config),
                     SY_ERR_USAGE);
    assert_string_equal(sy_error_message(), "t.yaml: longer than 1048576 bytes");
    sy_error_clear();
    strcpy(text, "toy: {name: x, freeze: [");
    for (size_t n = strlen(text); n < 900000; n += 2) {
        memcpy(text + n, "a,", 2);
    }
    assert_int_equal(sy_config_parse(sections, 2, text, 900000, "t.yaml", NULL, 0, &config),
                     SY_ERR_USAGE);
    assert_string_equal(sy_error_message(), "t.yaml:1: more than 65536 values");
    sy_error_clear();
    sy_free(&text);
}

static void override_wins_over_file_and_later_over_earlier(void **state)
{
    (void)state;
    const char *text = "toy: {name: x, count: 8, freeze: [a, b]}\n";
    const char *const set[] = {
        "toy.count=10",    "toy.betas=[0.9,0.99]", "toy.train=[{path: a, weight: 2}]",
        "toy.count=12",    "toy.name=a=b",         "toy.inner.iterations=7",
        "toy.freeze=null", "toy.factor=null",
    };
    sy_config *config = NULL;
    assert_int_equal(sy_config_parse(sections, 2, text, strlen(text), "t.yaml", set, 8, &config),
                     SY_OK);
    const toy *t = sy_config_get(config, "toy");
    assert_int_equal(t->count, 12);
    assert_true(t->betas[1] == 0.99);
    assert_string_equal(t->train.item[0].entry[1].value, "2");
    assert_string_equal(t->name, "a=b");
    assert_int_equal(t->freeze.n, 0);
    assert_false(t->factor.set);
    assert_int_equal(((const nested *)sy_config_get(config, "toy.inner"))->iterations, 7);
    assert_true(sy_config_was_set(config, "toy.betas"));
    sy_config_destroy(&config);
}

static void override_wrong_is_refused_with_its_text(void **state)
{
    (void)state;
    const char *text = "toy: {name: x}\n";
    expect_refusal(text, "toy.count", "--set toy.count: write --set section.key=value");
    expect_refusal(text, "toy.count=", "--set toy.count=: toy.count has no value");
    expect_refusal(text, "toy.count=0",
                   "--set toy.count=0: toy.count 0 is out of range: write 1..64");
    expect_refusal(text, "toy={count: 3}",
                   "--set toy={count: 3}: toy is a section: set one of its keys");
    expect_refusal(text, "toy.dir=*a",
                   "--set toy.dir=*a: anchors (&), aliases (*) and tags (!) are not used here; "
                   "put a text that begins with one of them in quotes");
    expect_refusal(text, "=3", NULL);
    expect_refusal(text, "", NULL);
}

static void check_of_a_section_points_to_the_key(void **state)
{
    (void)state;
    expect_refusal("toy:\n  name: x\n  flag: false\n  count: 3\n", NULL,
                   "t.yaml:4: toy.count 3 is odd");
    expect_refusal("toy:\n  name: x\n  flag: false\n  count: 4\n", "toy.count=5",
                   "--set toy.count=5: toy.count 5 is odd");
}

static void error_on_a_defaulted_key_names_the_file(void **state)
{
    (void)state;
    sy_config *config = accept("toy: {name: x}\n", NULL);
    sy_error_clear();
    assert_int_equal(sy_config_error(config, "toy.count", "too %s", "few"), SY_ERR_USAGE);
    assert_string_equal(sy_error_message(), "t.yaml: too few");
    sy_error_clear();
    sy_config_destroy(&config);
}

static void derived_default_does_not_count_as_set(void **state)
{
    (void)state;
    sy_config *config = accept("toy: {name: x}\n", NULL);
    assert_int_equal(sy_config_default(config, "toy.count", "32"), SY_OK);
    assert_int_equal(sy_config_default(config, "toy.dir", "runs/x"), SY_OK);
    const toy *t = sy_config_get(config, "toy");
    assert_int_equal(t->count, 32);
    assert_string_equal(t->dir, "runs/x");
    assert_false(sy_config_was_set(config, "toy.count"));
    assert_int_equal(sy_config_default(config, "toy.count", "99"), SY_ERR_USAGE);
    assert_string_equal(sy_error_message(),
                        "default of toy.count: toy.count 99 is out of range: write 1..64");
    assert_int_equal(t->count, 32);
    sy_error_clear();
    sy_config_destroy(&config);
}

static void echo_is_readable_yaml(void **state)
{
    (void)state;
    char *echo = NULL;
    sy_config *config = accept("toy:\n  name: \"a: b\"\n  rate: 1e-4\n  mode: no\n"
                               "  freeze: [layers/0*, 3, \"007\", 'yes', '']\n"
                               "  train: [{path: data/a, weight: 0.5}]\n",
                               NULL);
    assert_int_equal(sy_config_echo(config, &echo), SY_OK);
    assert_string_equal(echo, "toy:\n"
                              "  flag: true\n"
                              "  count: 2\n"
                              "  big: 0\n"
                              "  rate: 0.0001\n"
                              "  name: \"a: b\"\n"
                              "  dir: null\n"
                              "  mode: \"no\"\n"
                              "  factor: 1.25\n"
                              "  freeze: [\"layers/0*\", 3, \"007\", \"yes\", \"\"]\n"
                              "  betas: [0.9, 0.95]\n"
                              "  train: [{path: data/a, weight: 0.5}]\n"
                              "  inner:\n"
                              "    iterations: 4\n");
    sy_free(&echo);
    sy_config_destroy(&config);
}

static void echo_text_of_a_float_keeps_its_bits(void **state)
{
    (void)state;
    static const double values[] = {0.1,    1e-5, 1.0 / 3, DBL_MIN, 5e-324, 0.5 + DBL_EPSILON,
                                    1e-300, 0.3,  1e-4,    1,       0,      2.0 / 3};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        char text[128], *echo = NULL;
        snprintf(text, sizeof text, "toy: {name: x, rate: %.17g}", values[i]);
        sy_config *config = accept(text, NULL);
        assert_int_equal(sy_config_echo(config, &echo), SY_OK);
        sy_config *again = accept(echo, NULL);
        double back = ((const toy *)sy_config_get(again, "toy"))->rate;
        assert_memory_equal(&back, &values[i], sizeof back);
        /* To PyYAML a float has a point, and a sign in its exponent. */
        char *rate = strstr(echo, "rate: ") + 6, *end = strchr(rate, '\n');
        *end = '\0';
        assert_non_null(strchr(rate, '.'));
        char *exponent = strchr(rate, 'e');
        assert_true(!exponent || exponent[1] == '-' || exponent[1] == '+');
        sy_free(&echo);
        sy_config_destroy(&again);
        sy_config_destroy(&config);
    }
}

static void echo_text_of_any_string_parses_to_the_same(void **state)
{
    (void)state;
    static const char *const strings[] = {"x",
                                          "",
                                          " ",
                                          "null",
                                          "~",
                                          "true",
                                          "No",
                                          "12",
                                          "0x1f",
                                          "-",
                                          "- a",
                                          "a: b",
                                          "a #b",
                                          "'",
                                          "\"",
                                          "\\",
                                          "line\nbreak\ttab",
                                          "caf\xc3\xa9",
                                          "a \xe2\x80\xa8 b",
                                          "\xc2\x85",
                                          "\xef\xbb\xbf",
                                          "\xf0\x9f\x90\xa7",
                                          "*",
                                          "&a",
                                          "!t",
                                          "%d %s %n",
                                          "{a: b}",
                                          "[a]",
                                          "@x",
                                          "`",
                                          "\x7f",
                                          "\x1b[0m",
                                          "1.",
                                          ".5",
                                          "-0",
                                          "=",
                                          "<<",
                                          "1e5",
                                          "1:30",
                                          "2024-01-01",
                                          "/abs/path",
                                          "rel/path.bin"};
    for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++) {
        char *echo = NULL;
        sy_config *config = accept("toy: {name: x}", NULL);
        toy *t = (toy *)sy_config_get(config, "toy");
        sy_free(&t->name);
        assert_int_equal(sy_strdup(strings[i], &t->name), SY_OK);
        assert_int_equal(sy_config_echo(config, &echo), SY_OK);
        sy_config *again = accept(echo, NULL);
        assert_string_equal(((const toy *)sy_config_get(again, "toy"))->name, strings[i]);
        sy_free(&echo);
        sy_config_destroy(&again);
        sy_config_destroy(&config);
    }
}

static bool counts_no_name(const char *key)
{
    return strcmp(key, "toy.name") != 0;
}

static void diff_lists_changed_keys_only(void **state)
{
    (void)state;
    char *diff = NULL;
    sy_config *a = accept("toy: {name: x, freeze: [a]}", NULL);
    sy_config *b = accept("toy: {name: y, count: 4, rate: 0.10, freeze: a}", "toy.factor=null");
    assert_int_equal(sy_config_diff(a, b, NULL, &diff), SY_OK);
    assert_string_equal(diff, "toy.count: 2 -> 4\ntoy.name: x -> \"y\"\n"
                              "toy.factor: 1.25 -> null\n");
    sy_free(&diff);
    assert_int_equal(sy_config_diff(a, b, counts_no_name, &diff), SY_OK);
    assert_string_equal(diff, "toy.count: 2 -> 4\ntoy.factor: 1.25 -> null\n");
    sy_free(&diff);
    assert_int_equal(sy_config_diff(a, a, NULL, &diff), SY_OK);
    assert_string_equal(diff, "");
    sy_free(&diff);
    sy_config_destroy(&b);
    sy_config_destroy(&a);
}

static void help_shows_every_key_with_its_facts(void **state)
{
    (void)state;
    char *help = NULL;
    assert_int_equal(sy_config_help(sections, 2, false, &help), SY_OK);
    assert_non_null(strstr(help, "toy.count = 2  (integer, 1..64)\n      How many | where."));
    assert_non_null(strstr(help, "toy.name = REQUIRED  (text)"));
    assert_non_null(strstr(help, "toy.mode = softmax  (softmax|sigmoid|no)"));
    assert_non_null(strstr(help, "toy.train = null  (list of maps of path, weight)"));
    assert_non_null(strstr(help, "toy.inner.iterations = 4  (integer, >= 1)"));
    sy_free(&help);
    assert_int_equal(sy_config_help(sections, 2, true, &help), SY_OK);
    assert_non_null(strstr(help, "| `toy.count` | integer | `2` | 1..64 | How many \\| where. |"));
    assert_non_null(strstr(help, "| `toy.name` | text | required |  |"));
    assert_non_null(strstr(help, "softmax \\| sigmoid \\| no"));
    sy_free(&help);
}

static void nearest_name_takes_small_slips_only(void **state)
{
    (void)state;
    static const char *const names[] = {"train", "eval", "generate", "upcycle", "moe.top_k", "run"};
    assert_string_equal(sy_nearest_name("trian", names, 6), "train");
    assert_string_equal(sy_nearest_name("urn", names, 6), "run");
    assert_string_equal(sy_nearest_name("genrate", names, 6), "generate");
    assert_string_equal(sy_nearest_name("moe.topk", names, 6), "moe.top_k");
    assert_string_equal(sy_nearest_name("moe.top-k", names, 6), "moe.top_k");
    assert_string_equal(sy_nearest_name("EVAL", names, 6), "eval");
    assert_null(sy_nearest_name("x", names, 6));
    assert_null(sy_nearest_name("checkpoint", names, 6));
    assert_null(sy_nearest_name("", names, 6));
    assert_null(sy_nearest_name("train", names, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parse_defaults_fill_what_is_not_given),
        cmocka_unit_test(parse_every_type_is_read),
        cmocka_unit_test(parse_json_and_dotted_keys_are_read),
        cmocka_unit_test(parse_unknown_key_names_line_and_nearest),
        cmocka_unit_test(parse_duplicate_key_names_both_lines),
        cmocka_unit_test(parse_wrong_value_names_key_and_mend),
        cmocka_unit_test(parse_yaml_tricks_are_refused),
        cmocka_unit_test(parse_broken_text_names_the_line),
        cmocka_unit_test(parse_endless_text_is_bounded),
        cmocka_unit_test(override_wins_over_file_and_later_over_earlier),
        cmocka_unit_test(override_wrong_is_refused_with_its_text),
        cmocka_unit_test(check_of_a_section_points_to_the_key),
        cmocka_unit_test(error_on_a_defaulted_key_names_the_file),
        cmocka_unit_test(derived_default_does_not_count_as_set),
        cmocka_unit_test(echo_is_readable_yaml),
        cmocka_unit_test(echo_text_of_a_float_keeps_its_bits),
        cmocka_unit_test(echo_text_of_any_string_parses_to_the_same),
        cmocka_unit_test(diff_lists_changed_keys_only),
        cmocka_unit_test(help_shows_every_key_with_its_facts),
        cmocka_unit_test(nearest_name_takes_small_slips_only),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed || sy_alloc_live() != 0;
}

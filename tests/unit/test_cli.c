/* The command line's parser, on a table that has one option of every kind. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "core/alloc.h"
#include "launch/cli.h"

static const sy_option options[] = {
    {"json", SY_OPTION_FLAG, NULL, "Print JSON."},
    {"seed", SY_OPTION_VALUE, "N", "Seed."},
    {"temperature", SY_OPTION_VALUE, "T", "Temperature."},
    {"output", SY_OPTION_VALUE, "FILE", "Where to."},
    {"resume", SY_OPTION_OPTIONAL, "[CKPT]", "Go on."},
    {"data", SY_OPTION_LIST, "PATH...", "Files."},
    {0},
};
static const sy_command plain = {.name = "train",
                                 .operands = "CONFIG.yaml",
                                 .help = "Train.",
                                 .min_operands = 1,
                                 .max_operands = 1,
                                 .options = options};

enum { MAX_ARGS = 16 };

/* Parse "a b c" as if `switchyard COMMAND` stood before it; line keeps the text. */
static sy_status parse_as(const sy_command *command, const char *text, char line[256], sy_cli *cli)
{
    char *argv[MAX_ARGS] = {"switchyard", "train"}, *rest = NULL;
    int argc = 2;
    assert_true(strlen(text) < 256);
    memcpy(line, text, strlen(text) + 1);
    for (char *word = strtok_r(line, " ", &rest); word != NULL; word = strtok_r(NULL, " ", &rest)) {
        assert_true(argc < MAX_ARGS);
        argv[argc++] = word;
    }
    return sy_cli_parse(command, argc, argv, cli);
}

static void parse(const sy_command *command, const char *text, char line[256], sy_cli *cli)
{
    if (parse_as(command, text, line, cli) != SY_OK) {
        fail_msg("'%s': %s", text, sy_error_message());
    }
}

static void refuse(const sy_command *command, const char *text, const char *says)
{
    char line[256];
    sy_cli cli = {.n_operands = 77};
    sy_status st = parse_as(command, text, line, &cli);
    if (st != SY_ERR_USAGE || strstr(sy_error_message(), says) == NULL) {
        fail_msg("'%s': status %d, '%s'", text, (int)st, sy_error_message());
    }
    assert_int_equal(cli.n_operands, 77); /* outputs change only on success */
    sy_error_clear();
}

static void check_list(const sy_cli *cli, const char *a, const char *b, const char *c)
{
    const char *want[] = {a, b, c};
    int32_t n = -1, n_want = c != NULL ? 3 : 2;
    const char *const *list = sy_cli_list(cli, "data", &n);
    assert_int_equal(n, n_want);
    for (int32_t i = 0; i < n; i++) {
        assert_string_equal(list[i], want[i]);
    }
}

static void options_stand_before_or_after_the_operand_with_space_or_equals(void **state)
{
    static const char *const lines[] = {
        "c.yaml --seed 7 --json --output x=y",
        "--seed=7 --output=x=y --json c.yaml",
        "--json --output x=y c.yaml --seed 7",
        "-o x=y --json --seed=7 c.yaml",
    };
    char line[256];
    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        sy_cli cli = {0};
        parse(&plain, lines[i], line, &cli);
        assert_int_equal(cli.n_operands, 1);
        assert_string_equal(cli.operand[0], "c.yaml");
        assert_true(sy_cli_given(&cli, "json"));
        assert_string_equal(sy_cli_text(&cli, "seed"), "7");
        assert_string_equal(sy_cli_text(&cli, "output"), "x=y");
        assert_false(sy_cli_given(&cli, "temperature"));
        assert_null(sy_cli_text(&cli, "temperature"));
        sy_cli_free(&cli);
    }
}

static void list_takes_one_value_each_unless_the_command_is_greedy(void **state)
{
    sy_command greedy = plain;
    sy_cli cli = {0};
    char line[256];
    int32_t n = -1;
    (void)state;
    greedy.greedy_lists = true;

    parse(&plain, "--data a c.yaml --data=b --data c", line, &cli);
    check_list(&cli, "a", "b", "c");
    assert_string_equal(cli.operand[0], "c.yaml");
    sy_cli_free(&cli);
    refuse(&plain, "c.yaml --data a b", "unexpected argument 'b'");

    parse(&greedy, "c.yaml --data a b --json --data c", line, &cli);
    check_list(&cli, "a", "b", "c");
    assert_true(sy_cli_given(&cli, "json"));
    sy_cli_free(&cli);
    parse(&greedy, "--data=a c.yaml --data=b", line, &cli); /* with '=' it takes one */
    check_list(&cli, "a", "b", NULL);
    assert_string_equal(cli.operand[0], "c.yaml");
    sy_cli_free(&cli);

    parse(&plain, "c.yaml", line, &cli);
    sy_cli_list(&cli, "data", &n);
    assert_int_equal(n, 0);
    sy_cli_free(&cli);
}

static void optional_value_is_taken_only_after_the_operand_or_equals(void **state)
{
    static const struct {
        const char *line, *value;
    } cases[] = {
        {"c.yaml --resume", NULL},        {"c.yaml --resume last.h5", "last.h5"},
        {"c.yaml --resume --json", NULL}, {"--resume c.yaml", NULL},
        {"--resume --json c.yaml", NULL}, {"--resume=last.h5 c.yaml", "last.h5"},
    };
    char line[256];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sy_cli cli = {0};
        parse(&plain, cases[i].line, line, &cli);
        assert_true(sy_cli_given(&cli, "resume"));
        assert_string_equal(cli.operand[0], "c.yaml");
        if (cases[i].value != NULL) {
            assert_string_equal(sy_cli_text(&cli, "resume"), cases[i].value);
        } else {
            assert_null(sy_cli_text(&cli, "resume"));
        }
        sy_cli_free(&cli);
    }
}

static void unknown_option_is_refused_with_the_nearest_name(void **state)
{
    (void)state;
    refuse(&plain, "c.yaml --sede 7", "unknown option '--sede' (did you mean '--seed'?)");
    refuse(&plain, "c.yaml --temprature=1", "'--temprature' (did you mean '--temperature'?)");
    refuse(&plain, "c.yaml --see 7", "(did you mean '--seed'?)"); /* a beginning is not the name */
    refuse(&plain, "c.yaml --seeds=7", "(did you mean '--seed'?)");
    refuse(&plain, "c.yaml --xyzzyplugh", "'--xyzzyplugh'; see switchyard train --help");
    refuse(
        &plain,
        "c.yaml --aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "unknown option '--aaaa");
}

static void option_given_twice_is_refused_but_for_lists(void **state)
{
    (void)state;
    refuse(&plain, "c.yaml --seed 1 --seed 1", "--seed is given twice");
    refuse(&plain, "c.yaml --json --json", "--json is given twice");
    refuse(&plain, "c.yaml -o a --output=b", "--output is given twice");
    refuse(&plain, "c.yaml --resume --resume", "--resume is given twice");
}

static void value_that_is_missing_or_not_wanted_is_refused(void **state)
{
    (void)state;
    refuse(&plain, "c.yaml --seed", "--seed needs a value: --seed N");
    refuse(&plain, "c.yaml --seed --json", "--seed needs a value: --seed N");
    refuse(&plain, "c.yaml --data", "--data needs a value: --data PATH...");
    refuse(&plain, "c.yaml -o", "--output needs a value: --output FILE");
    refuse(&plain, "c.yaml --json=yes", "--json takes no value");
}

static void operands_are_counted(void **state)
{
    sy_command any = plain;
    sy_cli cli = {0};
    char line[256];
    (void)state;
    refuse(&plain, "", "an argument is missing; usage: switchyard train CONFIG.yaml");
    refuse(&plain, "--json", "an argument is missing");
    refuse(&plain, "--seed c.yaml", "an argument is missing");
    refuse(&plain, "a.yaml b.yaml", "unexpected argument 'b.yaml'");
    any.min_operands = 2;
    any.max_operands = -1;
    refuse(&any, "a", "an argument is missing");
    parse(&any, "a --json b c", line, &cli);
    assert_int_equal(cli.n_operands, 3);
    assert_string_equal(cli.operand[2], "c");
    sy_cli_free(&cli);
}

static void whole_numbers_outside_the_range_are_refused_and_leave_the_output(void **state)
{
    static const struct {
        const char *line;
        bool good;
        int64_t value;
    } cases[] = {
        {"c --seed -3", true, -3},   {"c --seed=10", true, 10},
        {"c --seed 0", true, 0},     {"c", true, 55},
        {"c --seed -4", false, 55},  {"c --seed 11", false, 55},
        {"c --seed 5x", false, 55},  {"c --seed 1.5", false, 55},
        {"c --seed=", false, 55},    {"c --seed x", false, 55},
        {"c --seed 1e1", false, 55}, {"c --seed 99999999999999999999", false, 55},
    };
    char line[256];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t value = 55;
        sy_cli cli = {0};
        parse(&plain, cases[i].line, line, &cli);
        assert_int_equal(sy_cli_i64(&cli, "seed", -3, 10, &value),
                         cases[i].good ? SY_OK : SY_ERR_USAGE);
        assert_int_equal(value, cases[i].value);
        if (!cases[i].good) {
            assert_non_null(strstr(sy_error_message(), "--seed: '"));
            assert_non_null(strstr(sy_error_message(), "is not a whole number from -3 to 10"));
        }
        sy_error_clear();
        sy_cli_free(&cli);
    }
}

static void whole_number_that_overflows_is_refused_at_the_widest_range(void **state)
{
    int64_t value = 55;
    sy_cli cli = {0};
    char line[256];
    (void)state;
    parse(&plain, "c --seed 9223372036854775807", line, &cli);
    assert_int_equal(sy_cli_i64(&cli, "seed", INT64_MIN, INT64_MAX, &value), SY_OK);
    assert_true(value == INT64_MAX);
    sy_cli_free(&cli);
    parse(&plain, "c --seed 9223372036854775808", line, &cli);
    assert_int_equal(sy_cli_i64(&cli, "seed", INT64_MIN, INT64_MAX, &value), SY_ERR_USAGE);
    sy_error_clear();
    sy_cli_free(&cli);
}

static void numbers_outside_the_range_are_refused_and_leave_the_output(void **state)
{
    static const struct {
        const char *line;
        bool good;
        double value;
    } cases[] = {
        {"c --temperature 0", true, 0},
        {"c --temperature=1.5", true, 1.5},
        {"c --temperature 2", true, 2},
        {"c --temperature 25e-2", true, 0.25},
        {"c", true, 55},
        {"c --temperature -0.1", false, 55},
        {"c --temperature 2.1", false, 55},
        {"c --temperature nan", false, 55},
        {"c --temperature inf", false, 55},
        {"c --temperature 1,5", false, 55},
        {"c --temperature=", false, 55},
        {"c --temperature warm", false, 55},
    };
    char line[256];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double value = 55;
        sy_cli cli = {0};
        parse(&plain, cases[i].line, line, &cli);
        assert_int_equal(sy_cli_f64(&cli, "temperature", 0, 2, &value),
                         cases[i].good ? SY_OK : SY_ERR_USAGE);
        assert_true(value == cases[i].value);
        if (!cases[i].good) {
            assert_non_null(strstr(sy_error_message(), "is not a number from 0 to 2"));
        }
        sy_error_clear();
        sy_cli_free(&cli);
    }
}

static void help_names_every_option_and_the_usage(void **state)
{
    char *text = NULL;
    (void)state;
    assert_int_equal(sy_cli_help(&plain, &text), SY_OK);
    assert_non_null(strstr(text, "Usage: switchyard train CONFIG.yaml"));
    for (const sy_option *o = options; o->name != NULL; o++) {
        assert_non_null(strstr(text, o->name));
        assert_non_null(strstr(text, o->help)); /* short: on one line */
    }
    assert_non_null(strstr(text, "-o, --output FILE"));
    sy_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_stand_before_or_after_the_operand_with_space_or_equals),
        cmocka_unit_test(list_takes_one_value_each_unless_the_command_is_greedy),
        cmocka_unit_test(optional_value_is_taken_only_after_the_operand_or_equals),
        cmocka_unit_test(unknown_option_is_refused_with_the_nearest_name),
        cmocka_unit_test(option_given_twice_is_refused_but_for_lists),
        cmocka_unit_test(value_that_is_missing_or_not_wanted_is_refused),
        cmocka_unit_test(operands_are_counted),
        cmocka_unit_test(whole_numbers_outside_the_range_are_refused_and_leave_the_output),
        cmocka_unit_test(whole_number_that_overflows_is_refused_at_the_widest_range),
        cmocka_unit_test(numbers_outside_the_range_are_refused_and_leave_the_output),
        cmocka_unit_test(help_names_every_option_and_the_usage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

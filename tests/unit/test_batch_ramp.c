/* The ramp of the batch: the sizes of steps against a walk through a run that counts what it has
   seen, what was published of DeepSeek's, and what is refused. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "train/batch_ramp.h"

enum { S = 8 };

/* model.seq_len is S. */
static sy_status parse(int64_t from, int64_t by, int64_t tokens, int64_t to, sy_run_settings *out)
{
    char text[512];
    const int n = snprintf(
        text, sizeof text,
        "model: {vocab_size: 256, hidden: 16, layers: 1, heads: 2, ffn_hidden: 24, seq_len: %d}\n"
        "train: {steps: 100, global_batch: %ld, batch_ramp_from: %ld, batch_ramp_by: %ld, "
        "batch_ramp_tokens: %ld}\n",
        S, (long)to, (long)from, (long)by, (long)tokens);
    return sy_run_settings_parse(text, (size_t)n, "c.yaml", NULL, 0, out);
}

static void check_refused(int64_t from, int64_t by, int64_t tokens, const char *key,
                          const char *mend)
{
    sy_run_settings s = {0};
    const sy_status st = parse(from, by, tokens, 20, &s);
    if (st != SY_ERR_USAGE || strstr(sy_error_message(), key) == NULL ||
        strstr(sy_error_message(), mend) == NULL) {
        fail_msg("from %ld by %ld over %ld: %s", (long)from, (long)by, (long)tokens,
                 st == SY_OK ? "accepted" : sy_error_message());
    }
    sy_error_clear();
    sy_run_settings_free(&s);
}

/* Megatron's rule, step by step: what has been seen says how large the next one is. */
static void check_walk(int64_t from, int64_t by, int64_t tokens, int64_t to)
{
    sy_run_settings s = {0};
    assert_int_equal(parse(from, by, tokens, to, &s), SY_OK);
    const int64_t n = (to - from) / by, R = (tokens + S - 1) / S;
    int64_t seen = 0, ramp_steps = 0;
    for (int64_t step = 1; step <= 400; step++) {
        const int64_t size = seen >= R ? to : from + by * (seen * n / R);
        assert_int_equal(sy_batch_ramp_sequences(&s, step - 1), seen);
        assert_int_equal(sy_batch_ramp_size(&s, step), size);
        ramp_steps += size < to;
        seen += size;
    }
    if (seen - to >= R) { /* the end of the ramp has been seen */
        assert_int_equal(sy_batch_ramp_steps(&s), ramp_steps);
    }
    sy_run_settings_free(&s);
}

static void ramp_sizes_are_those_of_what_was_seen(void **state)
{
    (void)state;
    check_walk(1, 1, 4 * S, 2);
    check_walk(1, 1, 1 * S, 50); /* steps pass levels by */
    check_walk(3, 7, 100 * S - 3, 10);
    check_walk(4, 4, 1000 * S, 20);
    for (uint64_t i = 0; i < 300; i++) {
        const int64_t from = 1 + (int64_t)(12 * sy_rng_uniform(1, 1, 4 * i));
        const int64_t by = 1 + (int64_t)(6 * sy_rng_uniform(1, 1, 4 * i + 1));
        const int64_t n = 1 + (int64_t)(9 * sy_rng_uniform(1, 1, 4 * i + 2));
        const int64_t more = (int64_t)(900 * S * sy_rng_uniform(1, 1, 4 * i + 3));
        check_walk(from, by, from * S + more, from + n * by);
    }
}

static void ramp_of_none_is_the_same_batch_always(void **state)
{
    (void)state;
    sy_run_settings s = {0};
    char text[64];
    assert_int_equal(parse(0, 3, 5, 20, &s), SY_OK); /* from 0: the others mean nothing */
    assert_int_equal(sy_batch_ramp_size(&s, 1), 20);
    assert_int_equal(sy_batch_ramp_size(&s, 1000000), 20);
    assert_int_equal(sy_batch_ramp_sequences(&s, 7), 140);
    assert_int_equal(sy_batch_ramp_steps(&s), 0);
    assert_string_equal(sy_batch_ramp_format(&s, 5, text, sizeof text), "20");
    sy_run_settings_free(&s);
    assert_int_equal(parse(4, 4, 8 * S, 20, &s), SY_OK);
    assert_string_equal(sy_batch_ramp_format(&s, 1, text, sizeof text), "4");
    assert_string_equal(sy_batch_ramp_format(&s, 9, text, sizeof text), "4 to 20");
    sy_run_settings_free(&s);
}

/* The most that the ranges of the keys allow: nothing overflows, and the end is reached. */
static void ramp_of_the_largest_numbers_ends_at_the_whole_batch(void **state)
{
    (void)state;
    sy_run_settings s = {0};
    const int64_t to = 1 << 24, tokens = INT64_C(1000000000000000000);
    assert_int_equal(parse(1, 1, tokens, to, &s), SY_OK);
    const int64_t steps = sy_batch_ramp_steps(&s);
    assert_int_equal(sy_batch_ramp_size(&s, 1), 1);
    assert_int_equal(sy_batch_ramp_size(&s, steps), to - 1);
    assert_int_equal(sy_batch_ramp_size(&s, steps + 1), to);
    const int64_t seen = sy_batch_ramp_sequences(&s, steps);
    assert_true(seen >= tokens / S && seen < tokens / S + to);
    assert_true(sy_batch_ramp_sequences(&s, INT64_MAX) == INT64_MAX);
    sy_run_settings_free(&s);
}

static void ramp_that_cannot_be_is_refused_with_the_nearest(void **state)
{
    (void)state;
    check_refused(20, 1, 1000, "train.batch_ramp_from 20", "below train.global_batch 20");
    check_refused(21, 1, 1000, "train.batch_ramp_from 21", "0 trains without a ramp");
    check_refused(4, 0, 1000, "train.batch_ramp_by 0", "the nearest that does is 1");
    check_refused(4, 3, 1000, "train.batch_ramp_by 3", "the nearest that does is 2");
    check_refused(4, 7, 1000, "train.batch_ramp_by 7", "the nearest that does is 8");
    check_refused(4, 17, 1000, "train.batch_ramp_by 17", "the nearest that does is 16");
    check_refused(4, 4, 4 * S - 1, "train.batch_ramp_tokens 31", "is 32");
    check_refused(4, 4, 0, "train.batch_ramp_tokens 0", "is 32");
    check_refused(-1, 4, 1000, "batch_ramp_from", "0");
}

/* A forgotten key trains at another batch than was meant; a written 0 turns a ramp off. */
static void ramp_that_begins_with_nothing_is_refused_unless_it_says_so(void **state)
{
    static const char text[] =
        "model: {vocab_size: 256, hidden: 16, layers: 1, heads: 2, ffn_hidden: 24, seq_len: 8}\n"
        "train: {steps: 100, batch_ramp_by: 4, batch_ramp_tokens: 100000}\n";
    const char *off = "train.batch_ramp_from=0";
    sy_run_settings s = {0};
    (void)state;
    assert_int_equal(sy_run_settings_parse(text, sizeof text - 1, "c.yaml", NULL, 0, &s),
                     SY_ERR_USAGE);
    assert_non_null(
        strstr(sy_error_message(), "train.batch_ramp_tokens without train.batch_ramp_"));
    sy_error_clear();
    assert_int_equal(sy_run_settings_parse(text, sizeof text - 1, "c.yaml", &off, 1, &s), SY_OK);
    assert_int_equal(sy_batch_ramp_steps(&s), 0);
    sy_run_settings_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ramp_sizes_are_those_of_what_was_seen),
        cmocka_unit_test(ramp_of_none_is_the_same_batch_always),
        cmocka_unit_test(ramp_of_the_largest_numbers_ends_at_the_whole_batch),
        cmocka_unit_test(ramp_that_cannot_be_is_refused_with_the_nearest),
        cmocka_unit_test(ramp_that_begins_with_nothing_is_refused_unless_it_says_so),
    };
    return cmocka_run_group_tests_name("batch_ramp", tests, NULL, NULL);
}

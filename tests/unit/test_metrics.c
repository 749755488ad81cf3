/* metrics.jsonl: numbers that come back as they were, a resume without gaps or repeats, series in
 * bounded memory. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <signal.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "report/metrics.h"
#include "report/metrics_log.h"
#include "tests/support/scratch.h"

typedef char path_buf[2 * SCRATCH_PATH];

/* Append steps first .. last, each with its loss = step / 3 and its time. */
static void append_steps(sy_metrics_file *file, int64_t first, int64_t last)
{
    sy_metrics *m = NULL;
    assert_int_equal(sy_metrics_create(&m), SY_OK);
    for (int64_t step = first; step <= last; step++) {
        sy_metrics_clear(m);
        assert_int_equal(sy_metrics_set_f64(m, "train/loss", (double)step / 3), SY_OK);
        assert_int_equal(sy_metrics_set_f64(m, "time_s", (double)step * 0.5), SY_OK);
        assert_int_equal(sy_metrics_file_append(file, step, m), SY_OK);
    }
    sy_metrics_destroy(&m);
}

static char *uninterrupted(void **state, int64_t last)
{
    path_buf path;
    sy_metrics_file *file = NULL;
    scratch_path(state, "whole.jsonl", path);
    assert_int_equal(sy_metrics_file_open(path, -1, NULL, &file), SY_OK);
    append_steps(file, 1, last);
    sy_metrics_file_close(&file);
    return scratch_read(path);
}

static void line_keeps_order_kinds_and_the_step_first(void **state)
{
    path_buf path;
    sy_metrics_file *file = NULL;
    sy_metrics *m = NULL;
    const double load[] = {3, 0, 0.5};
    assert_int_equal(sy_metrics_create(&m), SY_OK);
    assert_int_equal(sy_metrics_set_i64(m, "tokens", 9007199254740993), SY_OK);
    assert_int_equal(sy_metrics_set_f64(m, "train/loss", 2), SY_OK);
    assert_int_equal(sy_metrics_set_f64(m, "train/loss", 0.1), SY_OK);
    assert_int_equal(sy_metrics_set_array(m, "moe/layer_0/load", load, 3), SY_OK);
    assert_int_equal(sy_metrics_set_array(m, "none", NULL, 0), SY_OK);
    assert_int_equal(sy_metrics_set_f64(m, "a \"b\"\\\n", NAN), SY_OK);
    assert_int_equal(sy_metrics_set_f64(m, "inf", -INFINITY), SY_OK);
    assert_int_equal(sy_metrics_file_open(scratch_path(state, "m.jsonl", path), -1, NULL, &file),
                     SY_OK);
    assert_int_equal(sy_metrics_file_append(file, 7, m), SY_OK);
    char *text = scratch_read(path); /* before the close: the line is out at once */
    assert_string_equal(text, "{\"step\":7,\"tokens\":9007199254740993,\"train/loss\":0.1,"
                              "\"moe/layer_0/load\":[3.0,0.0,0.5],\"none\":[],"
                              "\"a \\\"b\\\"\\\\\\u000a\":null,\"inf\":null}\n");
    free(text);
    sy_metrics_file_close(&file);
    sy_metrics_destroy(&m);
}

static void cleared_record_forgets_values_and_allocates_nothing_more(void **state)
{
    path_buf path;
    sy_metrics_file *file = NULL;
    sy_metrics *m = NULL;
    double load[64] = {0};
    int64_t n_before = 0;
    assert_int_equal(sy_metrics_create(&m), SY_OK);
    assert_int_equal(sy_metrics_file_open(scratch_path(state, "m.jsonl", path), -1, NULL, &file),
                     SY_OK);
    for (int64_t step = 1; step <= 20; step++) {
        sy_metrics_clear(m);
        assert_int_equal(sy_metrics_set_f64(m, "train/loss", -1.0 / 3), SY_OK);
        assert_int_equal(sy_metrics_set_array(m, "moe/layer_3/load", load, 64), SY_OK);
        if (step == 2) {
            assert_int_equal(sy_metrics_set_f64(m, "valid/x/loss", 1), SY_OK);
        }
        assert_int_equal(sy_metrics_file_append(file, step, m), SY_OK);
        n_before = step == 3 ? sy_alloc_total() : n_before;
    }
    assert_int_equal(sy_alloc_total(), n_before);
    char *text = scratch_read(path);
    const char *valid = strstr(text, "valid/x/loss");
    assert_non_null(valid);
    assert_null(strstr(valid + 1, "valid/x/loss"));
    free(text);
    sy_metrics_file_close(&file);
    sy_metrics_destroy(&m);
}

/* Random bit patterns, and the hard ones, read back by strtod. */
static void doubles_round_trip(void **state)
{
    path_buf path;
    sy_metrics_file *file = NULL;
    sy_metrics *m = NULL;
    enum { N = 4000 };
    static double value[N];
    static const double hard[] = {0.0,  -0.0,    DBL_MIN, DBL_MAX, 4.9e-324,
                                  0.1,  1.0 / 3, 1e23,    1e22,    123456789012345678.,
                                  1e-5, -DBL_MAX};
    int32_t n = 0;
    for (; n < (int32_t)(sizeof hard / sizeof hard[0]); n++) {
        value[n] = hard[n];
    }
    for (uint64_t i = 0; n < N; i++) {
        uint64_t bits = sy_rng_u64(5, SY_RNG_TEST, i);
        memcpy(&value[n], &bits, sizeof bits);
        n += isfinite(value[n]) ? 1 : 0;
    }
    assert_int_equal(sy_metrics_create(&m), SY_OK);
    assert_int_equal(sy_metrics_set_array(m, "x", value, N), SY_OK);
    assert_int_equal(sy_metrics_file_open(scratch_path(state, "m.jsonl", path), -1, NULL, &file),
                     SY_OK);
    assert_int_equal(sy_metrics_file_append(file, 1, m), SY_OK);
    char *text = scratch_read(path);
    char *at = strchr(text, '[');
    for (int32_t i = 0; i < N; i++) {
        double back = strtod(at + 1, &at);
        assert_memory_equal(&back, &value[i], sizeof back);
    }
    assert_int_equal(*at, ']');
    free(text);
    sy_metrics_file_close(&file);
    sy_metrics_destroy(&m);
}

static void resume_drops_later_lines_and_continues_as_if_nothing_happened(void **state)
{
    path_buf path;
    sy_metrics_file *file = NULL;
    sy_metrics_tail tail;
    char *whole = uninterrupted(state, 30);
    scratch_path(state, "m.jsonl", path);
    assert_int_equal(sy_metrics_file_open(path, -1, NULL, &file), SY_OK);
    append_steps(file, 1, 25);
    sy_metrics_file_close(&file);
    assert_int_equal(sy_metrics_file_open(path, 20, &tail, &file), SY_OK);
    assert_int_equal(tail.step, 20);
    assert_true(tail.time_s == 10.0);
    assert_true(tail.n_dropped > 0 && !tail.torn);
    append_steps(file, 21, 30);
    sy_metrics_file_close(&file);
    char *text = scratch_read(path);
    assert_string_equal(text, whole);
    free(text);
    free(whole);
}

/* The process was killed in the middle of a line: every place in the last line. */
static void resume_drops_a_last_line_without_an_end(void **state)
{
    path_buf path;
    char *whole = uninterrupted(state, 3);
    char *third = strstr(whole, "{\"step\":3");
    scratch_path(state, "m.jsonl", path);
    for (size_t n = 0; n < strlen(third); n++) {
        sy_metrics_file *file = NULL;
        sy_metrics_tail tail;
        char saved = third[n];
        third[n] = '\0';
        scratch_write(path, whole);
        third[n] = saved;
        assert_int_equal(sy_metrics_file_open(path, 3, &tail, &file), SY_OK);
        assert_int_equal(tail.step, 2);
        assert_int_equal(tail.n_dropped, n);
        assert_int_equal(tail.torn, n > 0);
        append_steps(file, 3, 3);
        sy_metrics_file_close(&file);
        char *text = scratch_read(path);
        assert_string_equal(text, whole);
        free(text);
    }
    free(whole);
}

static void resume_reads_lines_that_another_tool_rewrote(void **state)
{
    path_buf path;
    sy_metrics_file *file = NULL;
    sy_metrics_tail tail;
    scratch_write(scratch_path(state, "m.jsonl", path),
                  "{ \"train/loss\": 1.5, \"step\": 4, \"time_s\": 8 }\n"
                  "{ \"train/loss\": 1.5, \"step\": 5 }\n"
                  "no record\n"
                  "{ \"train/loss\": 1.5, \"step\": 6 }\n");
    assert_int_equal(sy_metrics_file_open(path, 4, &tail, &file), SY_OK);
    assert_int_equal(tail.step, 4);
    assert_true(tail.time_s == 8);
    sy_metrics_file_close(&file);
    char *text = scratch_read(path);
    assert_string_equal(text, "{ \"train/loss\": 1.5, \"step\": 4, \"time_s\": 8 }\n");
    free(text);
}

static void start_over_empties_the_file(void **state)
{
    path_buf path;
    sy_metrics_file *file = NULL;
    sy_metrics_tail tail;
    scratch_write(scratch_path(state, "m.jsonl", path), "{\"step\":1}\n{\"step\":2");
    assert_int_equal(sy_metrics_file_open(path, -1, &tail, &file), SY_OK);
    assert_int_equal(tail.step, -1);
    assert_int_equal(tail.n_bytes, 0);
    sy_metrics_file_close(&file);
    char *text = scratch_read(path);
    assert_string_equal(text, "");
    free(text);
}

static void step_that_does_not_advance_is_refused(void **state)
{
    path_buf path;
    sy_metrics_file *file = NULL;
    sy_metrics *m = NULL;
    scratch_write(scratch_path(state, "m.jsonl", path), "{\"step\":5}\n");
    assert_int_equal(sy_metrics_create(&m), SY_OK);
    assert_int_equal(sy_metrics_file_open(path, 9, NULL, &file), SY_OK);
    assert_int_equal(sy_metrics_file_append(file, 5, m), SY_ERR_INTERNAL);
    sy_error_clear();
    assert_int_equal(sy_metrics_file_append(file, 6, m), SY_OK);
    sy_metrics_file_close(&file);
    sy_metrics_destroy(&m);
}

/* The file may not grow beyond a limit, as on a full disk: the line is taken back whole, and the
 * next one fits again. */
static void write_that_fails_leaves_the_file_as_it_was(void **state)
{
    path_buf path;
    sy_metrics_file *file = NULL;
    sy_metrics *m = NULL;
    double load[200] = {0};
    struct rlimit before, small;
    scratch_path(state, "m.jsonl", path);
    assert_int_equal(sy_metrics_create(&m), SY_OK);
    assert_int_equal(sy_metrics_file_open(path, -1, NULL, &file), SY_OK);
    append_steps(file, 1, 2);
    char *two = scratch_read(path);
    assert_int_equal(sy_metrics_set_array(m, "x", load, 200), SY_OK);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = strlen(two) + 100;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    sy_status failed = sy_metrics_file_append(file, 3, m);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(failed, SY_ERR_IO);
    assert_non_null(strstr(sy_error_message(), path));
    sy_error_clear();
    char *text = scratch_read(path);
    assert_string_equal(text, two);
    free(text);
    free(two);
    assert_int_equal(sy_metrics_file_append(file, 3, m), SY_OK);
    sy_metrics_file_close(&file);
    sy_metrics_destroy(&m);
}

static void log_reads_back_what_was_written(void **state)
{
    path_buf path;
    sy_metrics_log log = {0};
    scratch_write(
        scratch_path(state, "m.jsonl", path),
        "{\"step\":10,\"train/loss\":3.5,\"moe/layer_1/load\":[1,2,3],\"note\":\"x\"}\n"
        "garbage\n"
        "{\"step\":20,\"train/loss\":null,\"moe/layer_1/load\":[4,5]}\n"
        "{\"no step\":1}\n"
        "\n"
        "{\"step\":30,\"train/loss\":2.5,\"valid/x/loss\":4,\"moe/layer_1/load\":[4,5,6]}\n"
        "{\"step\":40,\"train/loss\":1.0");
    assert_int_equal(sy_metrics_log_read(path, &log), SY_OK);
    assert_int_equal(log.n_lines, 3);
    assert_int_equal(log.n_bad, 3);
    assert_int_equal(log.first_step, 10);
    assert_int_equal(log.last_step, 30);
    const sy_series *loss = sy_metrics_log_find(&log, "train/loss");
    assert_int_equal(loss->n, 2);
    assert_true(loss->point[1].mean == 2.5 && loss->last == 2.5 && loss->min_step == 30);
    assert_int_equal(loss->n_null, 1);
    assert_int_equal(loss->null_first, 20);
    const sy_series *load = sy_metrics_log_find(&log, "moe/layer_1/load");
    assert_int_equal(load->width, 3);
    assert_int_equal(load->n, 2);
    assert_true(load->row[3] == 4 && load->row[5] == 6);
    assert_null(sy_metrics_log_find(&log, "note"));
    sy_metrics_log_free(&log);
}

/* What a damaged step would do to every figure: the line is left out, those around it stay. */
static void log_leaves_out_steps_that_do_not_rise(void **state)
{
    path_buf path;
    sy_metrics_log log = {0};
    scratch_write(scratch_path(state, "m.jsonl", path),
                  "{\"step\":0,\"x\":1}\n"
                  "{\"step\":-5,\"x\":2}\n"
                  "{\"step\":10,\"x\":3}\n"
                  "{\"step\":110,\"x\":4}\n" /* one digit too many */
                  "{\"step\":12,\"x\":5}\n"
                  "{\"step\":3,\"x\":6}\n"
                  "{\"step\":13,\"x\":7}\n"
                  "{\"step\":13,\"x\":8}\n"
                  "{\"step\":9000000000000000000,\"x\":9}\n");
    assert_int_equal(sy_metrics_log_read(path, &log), SY_OK);
    const sy_series *x = sy_metrics_log_find(&log, "x");
    assert_int_equal(log.n_lines, 3);
    assert_int_equal(log.n_bad, 6);
    assert_int_equal(log.bad_first, 1);
    assert_int_equal(log.first_step, 10);
    assert_int_equal(log.last_step, 13);
    assert_int_equal(x->n, 3);
    assert_true(x->point[0].mean == 3 && x->point[1].mean == 5 && x->point[2].mean == 8);
    sy_metrics_log_free(&log);
}

/* Far more lines than points: means, extremes and steps must be those of the whole. */
static void log_of_a_long_run_keeps_means_and_spikes(void **state)
{
    path_buf path;
    enum {
        N = 10000,
        SPIKE = 5462,
        DIP = 7777
    }; /* in a later and in an earlier half of what is merged */
    sy_metrics_log log = {0};
    FILE *file = fopen(scratch_path(state, "m.jsonl", path), "w");
    for (int step = 1; step <= N; step++) {
        int x = step == SPIKE ? 1000000 : step == DIP ? -1000000 : step;
        fprintf(file, "{\"step\":%d,\"x\":%d,\"v\":[%d,1]}\n", step, x, step);
    }
    fclose(file);
    assert_int_equal(sy_metrics_log_read(path, &log), SY_OK);
    const sy_series *x = sy_metrics_log_find(&log, "x"), *v = sy_metrics_log_find(&log, "v");
    assert_in_range(x->n, SY_SERIES_POINTS / 2, SY_SERIES_POINTS);
    assert_in_range(v->n, SY_SERIES_ROWS / 2, SY_SERIES_ROWS);
    double sum = 0, max = 0, min = 0, sum_v = 0;
    int64_t next = 1, next_v = 1;
    for (int32_t i = 0; i < x->n; i++) {
        assert_int_equal(x->point[i].first, next);
        assert_int_equal(x->point[i].n, x->point[i].last - x->point[i].first + 1);
        next = x->point[i].last + 1;
        sum += x->point[i].mean * (double)x->point[i].n;
        max = fmax(max, x->point[i].max);
        min = fmin(min, x->point[i].min);
    }
    for (int32_t i = 0; i < v->n; i++) {
        assert_int_equal(v->point[i].first, next_v);
        next_v = v->point[i].last + 1;
        sum_v += v->row[2 * i] * (double)v->point[i].n;
        assert_true(v->row[2 * i + 1] == 1);
    }
    assert_int_equal(next, N + 1);
    assert_int_equal(next_v, N + 1);
    assert_true(max == 1000000 && min == -1000000);
    double all = 0.5 * N * (N + 1.0);
    assert_true(fabs(sum - (all - SPIKE - DIP)) < 1e-6 * all);
    assert_true(fabs(sum_v - all) < 1e-6 * all);
    sy_metrics_log_free(&log);
}

static void memory_is_all_given_back(void **state)
{
    (void)state;
    assert_int_equal(sy_alloc_live(), 0);
}

#define IN_SCRATCH(test) cmocka_unit_test_setup_teardown(test, scratch_setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_SCRATCH(line_keeps_order_kinds_and_the_step_first),
        IN_SCRATCH(cleared_record_forgets_values_and_allocates_nothing_more),
        IN_SCRATCH(doubles_round_trip),
        IN_SCRATCH(resume_drops_later_lines_and_continues_as_if_nothing_happened),
        IN_SCRATCH(resume_drops_a_last_line_without_an_end),
        IN_SCRATCH(resume_reads_lines_that_another_tool_rewrote),
        IN_SCRATCH(start_over_empties_the_file),
        IN_SCRATCH(step_that_does_not_advance_is_refused),
        IN_SCRATCH(write_that_fails_leaves_the_file_as_it_was),
        IN_SCRATCH(log_reads_back_what_was_written),
        IN_SCRATCH(log_leaves_out_steps_that_do_not_rise),
        IN_SCRATCH(log_of_a_long_run_keeps_means_and_spikes),
        cmocka_unit_test(memory_is_all_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

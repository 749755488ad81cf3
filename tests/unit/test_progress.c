/* The progress line: its grammar, plain in a log, one redrawn line on a terminal that makes room
 * for log lines. */
#include <fcntl.h>
#include <poll.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/log.h"
#include "report/progress.h"

enum { TEXT_BYTES = 8192 };

/* What has come through so far; a terminal hands it on a little later than it was written. */
static void drain(int fd, char text[TEXT_BYTES])
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    size_t used = 0;
    while (poll(&ready, 1, 200) > 0 && (ready.revents & POLLIN) && used < TEXT_BYTES - 1) {
        ssize_t n = read(fd, text + used, TEXT_BYTES - 1 - used);
        if (n <= 0) {
            break;
        }
        used += (size_t)n;
    }
    text[used] = '\0';
}

static void step_facts_follow_the_grammar(void **state)
{
    (void)state;
    char line[256];
    sy_step_facts facts = {.loss = 3.41209,
                           .grad_norm = 0.9401,
                           .lr = 3e-4,
                           .drop_fraction = 0.004,
                           .load_max_over_mean = 1.309,
                           .step_ms = 412.3,
                           .tokens_per_s = 79123};
    assert_string_equal(sy_step_facts_format(&facts, line, sizeof line),
                        "loss 3.4121 | norm 0.94 | lr 3.0e-04 | drop 0.4 % | load max/mean 1.31 | "
                        "412 ms | 79 k tok/s");
    facts.sequences = 3072;
    facts.drop_fraction = facts.load_max_over_mean = NAN;
    facts.step_ms = 8.25;
    assert_string_equal(sy_step_facts_format(&facts, line, sizeof line),
                        "loss 3.4121 | norm 0.94 | lr 3.0e-04 | batch 3072 | 8.2 ms | 79 k tok/s");
}

static void counts_and_durations_read_well(void **state)
{
    (void)state;
    static const struct {
        double value;
        const char *text;
    } counts[] = {{0, "0"},         {812, "812"},    {999.6, "1.0 k"},
                  {1250, "1.2 k"},  {79123, "79 k"}, {999499, "999 k"},
                  {1.3e6, "1.3 M"}, {0.25, "0.2"},   {2.5e9, "2.5 G"}},
      times[] = {{0, "0:00"},         {7, "0:07"},        {730, "12:10"},     {3599.4, "59:59"},
                 {3599.6, "1:00:00"}, {11159, "3:05:59"}, {90000, "1 d 1 h"}, {-5, "0:00"}};
    char text[32];
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        assert_string_equal(sy_format_count(counts[i].value, text, sizeof text), counts[i].text);
    }
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        assert_string_equal(sy_format_duration(times[i].value, text, sizeof text), times[i].text);
    }
}

static void log_gets_plain_lines_at_the_interval_and_the_last(void **state)
{
    (void)state;
    int pipes[2];
    char text[TEXT_BYTES];
    sy_progress *p = NULL;
    assert_int_equal(pipe(pipes), 0);
    sy_progress_spec spec = {.what = "step", .total = 50, .plain_s = 60, .fd = pipes[1]};
    assert_int_equal(sy_progress_create(&spec, &p), SY_OK);
    for (int64_t i = 1; i <= 50; i++) {
        sy_progress_update(p, i, "loss 1.0000");
    }
    sy_progress_destroy(&p);
    drain(pipes[0], text);
    assert_null(strchr(text, '\r'));
    assert_null(strchr(text, '\x1b'));
    assert_memory_equal(text, "step 1/50 | loss 1.0000 | ", 26);
    char *second = strchr(text, '\n') + 1;
    assert_string_equal(second, "step 50/50 | loss 1.0000\n");
    close(pipes[0]);
    close(pipes[1]);
}

/* 20 units took about 0.2 s, from 1000 on; 200 are left: about 2 s. */
static void time_left_comes_from_what_this_process_did(void **state)
{
    (void)state;
    int pipes[2];
    char text[TEXT_BYTES];
    sy_progress *p = NULL;
    assert_int_equal(pipe(pipes), 0);
    sy_progress_spec spec = {.what = "step", .start = 1000, .total = 1220, .fd = pipes[1]};
    assert_int_equal(sy_progress_create(&spec, &p), SY_OK);
    sy_clock_sleep_s(0.2);
    sy_progress_update(p, 1020, NULL);
    sy_progress_destroy(&p);
    drain(pipes[0], text);
    int minutes = -1, seconds = -1;
    const char *last = strrchr(text, '|');
    assert_int_equal(sscanf(last, "| %d:%d left", &minutes, &seconds), 2);
    assert_int_equal(minutes, 0);
    assert_in_range(seconds, 2, 59);
    assert_non_null(strstr(text, "/s |"));
    close(pipes[0]);
    close(pipes[1]);
}

/* Of 100 units the last 50 are a hundred times the work of the others. */
static double uneven_work(const void *self, int64_t done)
{
    (void)self;
    return done <= 50 ? (double)done : 50 + 100.0 * (double)(done - 50);
}

/* 50 units took 0.2 s or more, so 5000 more take 20 s or more. */
static void time_left_is_that_of_units_that_are_not_alike(void **state)
{
    (void)state;
    int pipes[2];
    char text[TEXT_BYTES];
    sy_progress *p = NULL;
    assert_int_equal(pipe(pipes), 0);
    sy_progress_spec spec = {.what = "step", .total = 100, .fd = pipes[1], .work = uneven_work};
    assert_int_equal(sy_progress_create(&spec, &p), SY_OK);
    sy_clock_sleep_s(0.2);
    sy_progress_update(p, 50, "loss 1.0000");
    sy_progress_destroy(&p);
    drain(pipes[0], text);
    int minutes = -1, seconds = -1;
    assert_int_equal(sscanf(strrchr(text, '|'), "| %d:%d left", &minutes, &seconds), 2);
    assert_true(60 * minutes + seconds >= 20);
    close(pipes[0]);
    close(pipes[1]);
}

static int open_terminal(int *other_end)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    int terminal = open(ptsname(master), O_RDWR | O_NOCTTY);
    assert_true(terminal >= 0);
    *other_end = master;
    return terminal;
}

static void terminal_redraws_one_line_ten_times_a_second_at_most(void **state)
{
    (void)state;
    static const char fact[] = "a fact so long that it would not fit into the eighty columns of a "
                               "terminal and would wrap into the next line";
    int master, terminal = open_terminal(&master), n_drawn = 0;
    char text[TEXT_BYTES];
    sy_progress *p = NULL;
    sy_progress_spec spec = {.what = "step", .total = 1000000, .fd = terminal};
    assert_int_equal(sy_progress_create(&spec, &p), SY_OK);
    double begin = sy_clock_s(), end = begin + 0.3;
    for (int64_t i = 1; sy_clock_s() < end; i++) {
        sy_progress_update(p, i, fact);
        sy_clock_sleep_s(0.001);
    }
    sy_clock_sleep_s(0.11);
    sy_progress_update(p, 1000, fact);
    double n_due = (sy_clock_s() - begin) / 0.1 + 1;
    drain(master, text);
    assert_null(strchr(text, '\n'));
    for (const char *c = text; (c = strchr(c, '\r')) != NULL; c++) {
        assert_true(strcspn(c + 1, "\r\x1b") <= 79);
        n_drawn++;
    }
    assert_true(n_drawn >= 2 && n_drawn <= n_due);
    sy_progress_destroy(&p);
    close(terminal);
    close(master);
}

static void log_line_clears_the_progress_line_first(void **state)
{
    (void)state;
    int master, terminal = open_terminal(&master), saved = dup(STDERR_FILENO);
    char text[TEXT_BYTES];
    sy_progress *p = NULL;
    sy_progress_spec spec = {.what = "step", .total = 10, .fd = terminal};
    assert_int_equal(sy_progress_create(&spec, &p), SY_OK);
    sy_progress_update(p, 1, "x");
    dup2(terminal, STDERR_FILENO);
    sy_log(SY_LOG_WARN, "disk is nearly full");
    sy_log(SY_LOG_WARN, "and fuller");
    sy_progress_destroy(&p);
    sy_log(SY_LOG_WARN, "after");
    dup2(saved, STDERR_FILENO);
    drain(master, text);
    char *cleared = strstr(text, "\r\x1b[Kwarning: disk is nearly full\r\n");
    assert_non_null(cleared);
    assert_non_null(strstr(text, "step 1/10 | x"));
    assert_true(strstr(text, "step 1/10 | x") < cleared);
    assert_string_equal(strstr(cleared, "\r\n"), "\r\nwarning: and fuller\r\nwarning: after\r\n");
    close(saved);
    close(terminal);
    close(master);
    assert_int_equal(sy_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(step_facts_follow_the_grammar),
        cmocka_unit_test(counts_and_durations_read_well),
        cmocka_unit_test(log_gets_plain_lines_at_the_interval_and_the_last),
        cmocka_unit_test(time_left_comes_from_what_this_process_did),
        cmocka_unit_test(time_left_is_that_of_units_that_are_not_alike),
        cmocka_unit_test(terminal_redraws_one_line_ten_times_a_second_at_most),
        cmocka_unit_test(log_line_clears_the_progress_line_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

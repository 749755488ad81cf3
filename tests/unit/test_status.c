/* core/status: the first message stays, frames are added on the way up, a trace travels between
 * threads. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/status.h"

static sy_status fail_below(void)
{
    return sy_error(SY_ERR_IO, "cannot read '%s'", "a.bin");
}

static sy_status fail_above(void)
{
    sy_status st = SY_OK;
    SY_TRY(fail_below());
cleanup:
    return st;
}

static void trace_two_errors_first_message_wins(void **state)
{
    (void)state;
    sy_trace trace;
    sy_error_clear();
    assert_string_equal(sy_error_message(), "");
    assert_int_equal(fail_above(), SY_ERR_IO);
    assert_int_equal(sy_error(SY_ERR_COMM, "later"), SY_ERR_COMM);
    assert_string_equal(sy_error_message(), "cannot read 'a.bin'");
    sy_error_take(&trace);
    assert_int_equal(trace.status, SY_ERR_IO);
    assert_int_equal(trace.rank, -1);
    assert_int_equal(trace.n_frames, 3);
    assert_string_equal(trace.frames[0].func, "fail_below");
    assert_string_equal(trace.frames[1].func, "fail_above");
    sy_error_clear();
    assert_string_equal(sy_error_message(), "");
    assert_int_equal(sy_error(SY_ERR_COMM, "fresh"), SY_ERR_COMM);
    assert_string_equal(sy_error_message(), "fresh");
    sy_error_clear();
}

static void trace_deep_chain_keeps_first_frames(void **state)
{
    (void)state;
    sy_trace trace;
    sy_error_clear();
    sy_error(SY_ERR_IO, "x");
    for (int i = 0; i < 100; i++) {
        sy_error_frame("f.c", i, "f");
    }
    sy_error_take(&trace);
    assert_int_equal(trace.n_frames, SY_TRACE_FRAMES);
    assert_int_equal(trace.frames[SY_TRACE_FRAMES - 1].line, SY_TRACE_FRAMES - 2);
    sy_error_clear();
}

static void *fail_in_thread(void *arg)
{
    fail_above();
    sy_error_take(arg);
    return NULL;
}

static void trace_of_another_thread_is_raised_here(void **state)
{
    (void)state;
    pthread_t thread;
    sy_trace trace;
    sy_error_clear();
    assert_int_equal(pthread_create(&thread, NULL, fail_in_thread, &trace), 0);
    pthread_join(thread, NULL);
    assert_string_equal(sy_error_message(), "");
    trace.rank = 3;
    assert_int_equal(sy_error_raise(&trace), SY_ERR_IO);
    assert_string_equal(sy_error_message(), "cannot read 'a.bin'");
    sy_error_clear();
}

static void format_verbose_lists_frames(void **state)
{
    (void)state;
    char buf[512];
    sy_trace trace = {.status = SY_ERR_IO, .rank = 3, .n_frames = 2, .message = "it broke"};
    trace.frames[0] = (sy_trace_frame){.file = "../moe/plan.c", .func = "sy_plan", .line = 7};
    trace.frames[1] = (sy_trace_frame){.file = "moe/moe.c", .func = "sy_moe", .line = 8};
    sy_error_format(&trace, false, buf, sizeof buf);
    assert_string_equal(buf, "error: it broke");
    sy_error_format(&trace, true, buf, sizeof buf);
    assert_string_equal(buf, "error: it broke\n  at moe/plan.c:7 sy_plan() [rank 3]\n"
                             "  from moe/moe.c:8 sy_moe() [rank 3]");
}

static void format_small_buffer_is_cut_and_terminated(void **state)
{
    (void)state;
    sy_trace trace = {.status = SY_ERR_IO, .rank = -1, .n_frames = 1, .message = "it broke"};
    trace.frames[0] = (sy_trace_frame){.file = "a.c", .func = "f", .line = 1};
    for (size_t n = 0; n < 48; n++) {
        char buf[64];
        memset(buf, '#', sizeof buf);
        sy_error_format(&trace, true, buf, n);
        assert_int_equal(buf[n], '#');
        if (n > 0) {
            assert_non_null(memchr(buf, '\0', n));
        }
    }
}

static void message_longer_than_the_trace_is_cut(void **state)
{
    (void)state;
    char text[2 * SY_TRACE_MESSAGE];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    sy_error_clear();
    sy_error(SY_ERR_IO, "%s", text);
    assert_int_equal(strlen(sy_error_message()), SY_TRACE_MESSAGE - 1);
    sy_error_clear();
}

static void exit_code_follows_the_contract(void **state)
{
    (void)state;
    static const int codes[SY_N_STATUS] = {
        [SY_OK] = 0,       [SY_ERR_USAGE] = 2,    [SY_ERR_DAMAGED] = 3,
        [SY_ERR_IO] = 1,   [SY_ERR_MEMORY] = 1,   [SY_ERR_UNSUPPORTED] = 2,
        [SY_ERR_COMM] = 1, [SY_ERR_INTERNAL] = 1, [SY_ERR_NUMERIC] = 1};
    for (int i = 0; i < SY_N_STATUS; i++) {
        assert_int_equal(sy_status_exit_code((sy_status)i), codes[i]);
        assert_true(strlen(sy_status_name((sy_status)i)) > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trace_two_errors_first_message_wins),
        cmocka_unit_test(trace_deep_chain_keeps_first_frames),
        cmocka_unit_test(trace_of_another_thread_is_raised_here),
        cmocka_unit_test(format_verbose_lists_frames),
        cmocka_unit_test(format_small_buffer_is_cut_and_terminated),
        cmocka_unit_test(message_longer_than_the_trace_is_cut),
        cmocka_unit_test(exit_code_follows_the_contract),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Spans: nested by thread, in the order in which they end; nothing is recorded outside start and
   stop, and what does not fit is counted. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/span.h"
#include "core/thread.h"

static void one(const char *name, int64_t number)
{
    sy_span_begin(SY_SPAN_PART, name, number, -1);
    sy_span_end();
}

static void *other_thread(void *arg)
{
    char name[16] = "";
    (void)arg;
    while (strcmp(name, "elsewhere") != 0) { /* its maker gives it */
        pthread_getname_np(pthread_self(), name, sizeof name);
    }
    one("far", 7);
    return NULL;
}

static void spans_nest_and_stay_with_their_thread(void **state)
{
    (void)state;
    pthread_t thread;
    one("before", -1);
    assert_int_equal(sy_span_start(100), SY_OK);
    sy_span_begin(SY_SPAN_STEP, "outer", 1, -1);
    one("inner", 2);
    assert_int_equal(sy_thread_start("elsewhere", other_thread, NULL, &thread), SY_OK);
    pthread_join(thread, NULL);
    sy_span_end();
    sy_span_end(); /* of one that was open before the start */
    sy_span_stop();
    one("after", -1);

    sy_spans got = sy_span_recorded();
    assert_int_equal(got.n, 3);
    assert_int_equal(got.n_lost, 0);
    assert_string_equal(got.item[0].name, "inner");
    assert_string_equal(got.item[1].name, "far");
    assert_string_equal(got.item[2].name, "outer");
    assert_int_equal(got.item[0].depth, 1);
    assert_int_equal(got.item[2].depth, 0);
    assert_true(got.item[2].begun_s <= got.item[0].begun_s);
    assert_true(got.item[0].ended_s <= got.item[2].ended_s);
    assert_int_equal(got.item[0].thread, got.item[2].thread);
    assert_int_not_equal(got.item[1].thread, got.item[0].thread);
    assert_string_equal(got.thread[got.item[1].thread], "elsewhere");
    sy_span_discard();
}

static void full_recording_counts_what_it_loses(void **state)
{
    (void)state;
    assert_int_equal(sy_span_start(2), SY_OK);
    for (int64_t i = 0; i < 5; i++) {
        one("x", i);
    }
    sy_span_stop();
    assert_int_equal(sy_span_recorded().n, 2);
    assert_int_equal(sy_span_recorded().n_lost, 3);
    assert_int_equal(sy_span_start(2), SY_OK); /* begins anew */
    assert_int_equal(sy_span_recorded().n, 0);
    for (int64_t i = 0; i < 100; i++) { /* deeper than the stack of a thread */
        sy_span_begin(SY_SPAN_PART, "deep", i, -1);
    }
    for (int64_t i = 0; i < 100; i++) {
        sy_span_end();
    }
    sy_span_stop();
    sy_spans got = sy_span_recorded();
    assert_int_equal(got.n + got.n_lost, 100);
    assert_int_equal(got.n, 2);
    sy_span_discard();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spans_nest_and_stay_with_their_thread),
        cmocka_unit_test(full_recording_counts_what_it_loses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

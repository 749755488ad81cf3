/* parallel/watch_judge: what observers conclude from what they have seen, and how it reads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "parallel/watch_judge.h"

enum { MOST = 1024 };

static sy_watch_seen seen[MOST];
static int32_t order[MOST * SY_WATCH_CALLS];
static double figure[MOST];
static bool blamed[MOST];
static char message[8192];

/* n ranks that all came to call 7 of a communicator and have waited there for `wait_s`. */
static sy_watch_table waiting(int32_t n, double wait_s)
{
    memset(seen, 0, sizeof seen);
    for (int32_t r = 0; r < n; r++) {
        sy_watch_seen *s = &seen[r];
        s->heard = true;
        s->beat = (sy_watch_beat){.host_id = (uint64_t)(r / 8), .step = 17, .waits = 1};
        s->beat.wait_s = wait_s;
        s->beat.call[0] = (sy_comm_call){.place = 70,
                                         .digest = 99,
                                         .number = 7,
                                         .bytes = -1,
                                         .collective = "all_to_all",
                                         .layer = 3,
                                         .comm_name = "ep",
                                         .what = "moe dispatch"};
        strcpy(s->beat.phase, "forward");
        snprintf(s->beat.host, sizeof s->beat.host, "node%d", r / 8);
    }
    return (sy_watch_table){
        .n = n, .timeout_s = 10, .seen = seen, .order = order, .figure = figure, .blamed = blamed};
}

/* Rank r has not come there: it works at what follows call 6. */
static void works(int32_t r, double quiet_s)
{
    seen[r].beat.waits = 0;
    seen[r].beat.quiet_s = quiet_s;
    seen[r].beat.call[0].place = 69;
    seen[r].beat.call[0].number = 6;
    seen[r].beat.call[0].digest = 98;
    strcpy(seen[r].beat.call[0].what, "moe combine");
}

static int32_t n_blamed(const sy_watch_table *t)
{
    int32_t n = 0;
    for (int32_t r = 0; r < t->n; r++) {
        n += t->blamed[r];
    }
    return n;
}

static void says(const sy_watch_table *t, sy_watch_verdict verdict, const char *words)
{
    sy_watch_describe(t, verdict, message, sizeof message);
    if (strstr(message, words) == NULL) {
        fail_msg("'%s' is not in:\n%s", words, message);
    }
}

static void silent_rank_is_named_with_what_the_others_wait_for(void **state)
{
    (void)state;
    sy_watch_table t = waiting(5, 9.8);
    works(3, 0.1);
    seen[3].silent_s = 9.9;
    assert_int_equal(sy_watch_judge(&t), SY_WATCH_FINE);
    seen[3].silent_s = 10.1;
    assert_int_equal(sy_watch_judge(&t), SY_WATCH_SILENT);
    assert_true(blamed[3] && n_blamed(&t) == 1);
    says(&t, SY_WATCH_SILENT, "rank 3 (host node0) has stopped answering for 10 s");
    says(&t, SY_WATCH_SILENT,
         "\n  ranks 0-2, 4: 9.8 s waiting in 'moe dispatch' (all_to_all over ep, call 7) of layer "
         "3, step 17");
    says(&t, SY_WATCH_SILENT,
         "\n  rank 3: 10.1 s no answer; last seen in forward, step 17, behind 'moe combine'");
}

static void work_that_shows_progress_is_no_hang_however_long_others_wait(void **state)
{
    (void)state;
    sy_watch_table t = waiting(4, 1e6);
    works(2, 9.9);
    assert_int_equal(sy_watch_judge(&t), SY_WATCH_FINE);
    works(2, 10);
    assert_int_equal(sy_watch_judge(&t), SY_WATCH_STUCK);
    assert_true(blamed[2] && n_blamed(&t) == 1);
    says(&t, SY_WATCH_STUCK, "rank 2 (host node0) has not come to where the others wait");
}

static void quiet_ranks_for_whom_nobody_waits_are_no_hang(void **state)
{
    (void)state;
    sy_watch_table t = waiting(4, 0);
    for (int32_t r = 0; r < 4; r++) {
        works(r, 1e6);
    }
    assert_int_equal(sy_watch_judge(&t), SY_WATCH_FINE);
}

/* One has just come to another call: something went on. */
static void wait_that_began_lately_is_no_hang(void **state)
{
    (void)state;
    sy_watch_table t = waiting(4, 100);
    seen[1].beat.wait_s = 9;
    assert_int_equal(sy_watch_judge(&t), SY_WATCH_FINE);
}

static void rank_that_waits_far_behind_is_named(void **state)
{
    (void)state;
    sy_watch_table t = waiting(4, 100);
    seen[2].beat.call[0].place = 68;
    seen[2].beat.call[0].digest = 1;
    strcpy(seen[2].beat.call[0].comm_name, "dp");
    assert_int_equal(sy_watch_judge(&t), SY_WATCH_STUCK);
    assert_true(blamed[2] && n_blamed(&t) == 1);
}

static void collective_in_which_all_are_blames_nobody(void **state)
{
    (void)state;
    sy_watch_table t = waiting(4, 100);
    assert_int_equal(sy_watch_judge(&t), SY_WATCH_STUCK);
    assert_int_equal(n_blamed(&t), 0);
    says(&t, SY_WATCH_STUCK, "all ranks wait in a collective that does not end");
}

static void rank_that_left_or_was_never_heard_is_not_missed(void **state)
{
    (void)state;
    sy_watch_table t = waiting(3, 1);
    seen[1].gone = true;
    seen[1].silent_s = 1e6;
    seen[2] = (sy_watch_seen){.silent_s = 1e6};
    assert_int_equal(sy_watch_judge(&t), SY_WATCH_FINE);
    t = waiting(3, 100);
    seen[2] = (sy_watch_seen){.silent_s = 1e6};
    assert_int_equal(sy_watch_judge(&t), SY_WATCH_FINE); /* who knows what it does? */
}

static void other_call_at_the_same_place_is_found_at_once_with_both_calls(void **state)
{
    (void)state;
    sy_watch_table t = waiting(5, 0);
    seen[4].beat.call[0].digest = 100;
    strcpy(seen[4].beat.call[0].what, "moe combine");
    assert_int_equal(sy_watch_judge(&t), SY_WATCH_DESYNC);
    assert_true(blamed[4] && n_blamed(&t) == 1);
    says(&t, SY_WATCH_DESYNC, "rank 4 (host node0) has made other collective calls than the rest");
    says(&t, SY_WATCH_DESYNC,
         "than the rest: 'moe combine' (all_to_all over ep, call 7) of layer 3 "
         "where rank 0 called 'moe dispatch'");
    says(&t, SY_WATCH_DESYNC, "ranks 0-3: 0.0 s waiting in 'moe dispatch'");
    says(&t, SY_WATCH_DESYNC, "rank 4: 0.0 s waiting in 'moe combine'");
}

/* One rank's call ended, and it waits in the next; the others are still in the one before. */
static void other_call_that_is_over_is_found_behind_the_current_one(void **state)
{
    (void)state;
    sy_watch_table t = waiting(3, 0);
    sy_comm_call *c = seen[1].beat.call;
    c[1] = c[0];
    c[1].digest = 100;
    c[1].bytes = 64;
    c[0].place = 71;
    c[0].digest = 101;
    assert_int_equal(sy_watch_judge(&t), SY_WATCH_DESYNC);
    assert_true(blamed[1] && n_blamed(&t) == 1);
    says(&t, SY_WATCH_DESYNC,
         "'moe dispatch' (all_to_all over ep, call 7, 64 bytes) of layer 3 "
         "where rank 0 called 'moe dispatch' (all_to_all over ep, call 7)");
}

static void calls_at_other_places_are_not_compared(void **state)
{
    (void)state;
    sy_watch_table t = waiting(4, 0);
    seen[1].beat.call[0].place = 69;
    seen[1].beat.call[0].digest = 1;
    seen[2].beat.call[0].place = 71;
    seen[2].beat.call[0].digest = 2;
    seen[3].beat.call[0] = (sy_comm_call){0};
    assert_int_equal(sy_watch_judge(&t), SY_WATCH_FINE);
}

/* Groups of experts make calls of their own number; the last is who made fewest calls with all. */
static void calls_of_other_groups_are_not_compared(void **state)
{
    (void)state;
    sy_watch_table t = waiting(4, 0);
    for (int32_t r = 0; r < 4; r++) {
        sy_comm_call *c = seen[r].beat.call;
        c[0].lane = 1 + (uint64_t)r / 2;
        c[0].common = 40;
        c[0].place = 7;
        c[0].digest = 10 + (uint64_t)r / 2;
    }
    assert_int_equal(sy_watch_judge(&t), SY_WATCH_FINE);
    seen[3].beat.call[0].digest = 12;
    assert_int_equal(sy_watch_judge(&t), SY_WATCH_DESYNC);
    assert_true(n_blamed(&t) == 1 && (blamed[2] || blamed[3]));
}

static void thousand_ranks_and_a_dead_host_read_in_a_few_lines(void **state)
{
    (void)state;
    sy_watch_table t = waiting(1000, 9);
    for (int32_t r = 496; r < 504; r++) {
        seen[r].silent_s = 11;
    }
    assert_int_equal(sy_watch_judge(&t), SY_WATCH_SILENT);
    says(&t, SY_WATCH_SILENT, "ranks 496-503 (host node62) have stopped answering");
    says(&t, SY_WATCH_SILENT, "\n  ranks 0-495, 504-999: 9.0 s waiting");
    assert_true(strlen(message) < 1000);
}

static void message_of_ranks_that_all_differ_stays_in_its_buffer(void **state)
{
    (void)state;
    sy_watch_table t = waiting(1000, 9);
    for (int32_t r = 0; r < 1000; r++) {
        seen[r].beat.step = r;
        seen[r].silent_s = r % 2 ? 11 : 0;
        memset(seen[r].beat.call[0].what, 'w', sizeof seen[r].beat.call[0].what);
    }
    assert_int_equal(sy_watch_judge(&t), SY_WATCH_SILENT);
    memset(message, 'x', sizeof message);
    sy_watch_describe(&t, SY_WATCH_SILENT, message, 500);
    assert_int_equal(strlen(message), 499);
    assert_int_equal(message[500], 'x');
}

/* ---- stragglers ---- */

static void computes(int32_t r, double fast_s, double median_s, double slow_s)
{
    seen[r].beat.fast_s = fast_s;
    seen[r].beat.median_s = median_s;
    seen[r].beat.slow_s = slow_s;
    seen[r].beat.n_steps = SY_PULSE_STEPS;
}

static void rank_that_computes_longer_beyond_the_spread_is_a_straggler(void **state)
{
    (void)state;
    sy_watch_table t = waiting(4, 0);
    int32_t slowest = -1;
    double ratio = 0;
    for (int32_t r = 0; r < 4; r++) {
        computes(r, 0.9, 1 + 0.01 * r, 1.2);
    }
    assert_int_equal(sy_watch_straggler(&t, &slowest, &ratio), -1);
    assert_true(slowest == 3 && ratio > 1 && ratio < 1.1);
    computes(2, 1.6, 1.9, 2.5);
    assert_int_equal(sy_watch_straggler(&t, &slowest, &ratio), 2);
    assert_true(slowest == 2 && ratio > 1.85 && ratio < 1.95);
}

static void slow_median_within_the_spread_of_the_others_is_no_straggler(void **state)
{
    (void)state;
    sy_watch_table t = waiting(4, 0);
    int32_t slowest = -1;
    double ratio = 0;
    for (int32_t r = 0; r < 4; r++) {
        computes(r, 0.5, 1, 3);
    }
    computes(1, 0.9, 1.9, 4);
    assert_int_equal(sy_watch_straggler(&t, &slowest, &ratio), -1);
    computes(1, 0.002, 0.004, 0.005); /* of short steps, the noise of a scheduler */
    for (int32_t r = 2; r < 4; r++) {
        computes(r, 0.001, 0.001, 0.001);
    }
    computes(0, 0.001, 0.001, 0.001);
    assert_int_equal(sy_watch_straggler(&t, &slowest, &ratio), -1);
    assert_int_equal(slowest, 1);
}

static void straggler_among_too_few_steps_is_not_told(void **state)
{
    (void)state;
    sy_watch_table t = waiting(2, 0);
    int32_t slowest = 7;
    double ratio = 0;
    computes(0, 1, 1, 1);
    computes(1, 9, 9, 9);
    assert_int_equal(sy_watch_straggler(&t, &slowest, &ratio), 1); /* of two: nine to one */
    seen[0].beat.n_steps = SY_PULSE_STEPS - 1;
    assert_int_equal(sy_watch_straggler(&t, &slowest, &ratio), -1);
    assert_true(slowest == -1 && ratio == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(silent_rank_is_named_with_what_the_others_wait_for),
        cmocka_unit_test(work_that_shows_progress_is_no_hang_however_long_others_wait),
        cmocka_unit_test(quiet_ranks_for_whom_nobody_waits_are_no_hang),
        cmocka_unit_test(wait_that_began_lately_is_no_hang),
        cmocka_unit_test(rank_that_waits_far_behind_is_named),
        cmocka_unit_test(collective_in_which_all_are_blames_nobody),
        cmocka_unit_test(rank_that_left_or_was_never_heard_is_not_missed),
        cmocka_unit_test(other_call_at_the_same_place_is_found_at_once_with_both_calls),
        cmocka_unit_test(other_call_that_is_over_is_found_behind_the_current_one),
        cmocka_unit_test(calls_at_other_places_are_not_compared),
        cmocka_unit_test(calls_of_other_groups_are_not_compared),
        cmocka_unit_test(thousand_ranks_and_a_dead_host_read_in_a_few_lines),
        cmocka_unit_test(message_of_ranks_that_all_differ_stays_in_its_buffer),
        cmocka_unit_test(rank_that_computes_longer_beyond_the_spread_is_a_straggler),
        cmocka_unit_test(slow_median_within_the_spread_of_the_others_is_no_straggler),
        cmocka_unit_test(straggler_among_too_few_steps_is_not_told),
    };
    return cmocka_run_group_tests_name("watch_judge", tests, NULL, NULL);
}

/* What is a spike: against a window worked out by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "train/spikes.h"

/* Losses 1, 3, 1, 3, ..: mean 2, sum of squares n, so a deviation of sqrt(n / (n - 1)). Norms alike,
   ten times as large. */
static sy_spikes remembered(int64_t n)
{
    sy_spikes s = {0};
    for (int64_t i = 0; i < n; i++) {
        const double x = i % 2 == 0 ? 1 : 3;
        sy_spikes_accept(&s, x, 10 * x);
    }
    return s;
}

static void values_beyond_sigma_are_spikes_and_others_are_not(void **state)
{
    (void)state;
    const double deviation = sqrt(8.0 / 7), edge = 2 + 3 * deviation;
    sy_spikes s = remembered(8);
    assert_int_equal(sy_spikes_judge(&s, 8, 3, edge - 1e-9, 20).kind, SY_TROUBLE_NONE);
    assert_int_equal(sy_spikes_judge(&s, 8, 3, -100, 0).kind, SY_TROUBLE_NONE);
    sy_trouble t = sy_spikes_judge(&s, 8, 3, edge + 1e-9, 20);
    assert_int_equal(t.kind, SY_TROUBLE_LOSS);
    assert_true(fabs(t.mean - 2) < 1e-12 && fabs(t.deviation - deviation) < 1e-12);
    t = sy_spikes_judge(&s, 8, 3, 2, 10 * edge + 1e-8);
    assert_int_equal(t.kind, SY_TROUBLE_GRAD_NORM);
    assert_true(t.value == 10 * edge + 1e-8 && fabs(t.mean - 20) < 1e-12);
}

static void window_that_is_half_empty_makes_no_spikes(void **state)
{
    (void)state;
    sy_spikes s = remembered(3);
    assert_int_equal(sy_spikes_judge(&s, 8, 3, 1e9, 1e9).kind, SY_TROUBLE_NONE);
    s = remembered(4);
    assert_int_equal(sy_spikes_judge(&s, 8, 3, 1e9, 1e9).kind, SY_TROUBLE_LOSS);
    s = remembered(1);
    assert_int_equal(sy_spikes_judge(&s, 2, 3, 1e9, 1e9).kind, SY_TROUBLE_NONE);
}

static void not_finite_is_trouble_from_the_first_step(void **state)
{
    (void)state;
    const sy_spikes s = {0};
    const double bad[] = {NAN, INFINITY, -INFINITY};
    for (int32_t i = 0; i < 3; i++) {
        assert_int_equal(sy_spikes_judge(&s, 8, 3, bad[i], 1).kind, SY_TROUBLE_NONFINITE);
        assert_int_equal(sy_spikes_judge(&s, 8, 3, 1, bad[i]).kind, SY_TROUBLE_NONFINITE);
    }
}

/* The window is the newest updates, round the end of the memory too. */
static void old_updates_leave_the_window(void **state)
{
    (void)state;
    sy_spikes s = {0};
    for (int64_t i = 0; i < SY_SPIKE_MEMORY + 5; i++) {
        sy_spikes_accept(&s, 1000, 1000);
    }
    for (int32_t i = 0; i < 8; i++) {
        const double x = i % 2 == 0 ? 1 : 3;
        sy_spikes_accept(&s, x, 10 * x);
    }
    assert_int_equal(sy_spikes_judge(&s, 8, 3, 100, 20).kind, SY_TROUBLE_LOSS);
    assert_int_equal(sy_spikes_judge(&s, SY_SPIKE_MEMORY, 3, 100, 20).kind, SY_TROUBLE_NONE);
    /* A long memory, looked at through a window of any length, is what a shorter run has. */
    sy_trouble t = sy_spikes_judge(&s, 8, 3, 100, 20);
    assert_true(t.mean == 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_beyond_sigma_are_spikes_and_others_are_not),
        cmocka_unit_test(window_that_is_half_empty_makes_no_spikes),
        cmocka_unit_test(not_finite_is_trouble_from_the_first_step),
        cmocka_unit_test(old_updates_leave_the_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Rates from samples that were made by known rates, and from some that no rate explains. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "train/fit.h"

enum { N = 8 };

static void check_near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-6 * fabs(want))) {
        fail_msg("%.12g, not %.12g", got, want);
    }
}

/* Products of many shapes at a rate. */
static void make_samples(const sy_rate *rate, sy_sample out[N])
{
    for (int32_t i = 0; i < N; i++) {
        const double rows = 16 << i, side = 64 * (1 + i % 3);
        sy_work w = {.flops = 2 * rows * side * side,
                     .bytes = 8 * rows * side,
                     .weights = 4 * side * side,
                     .groups = 1};
        out[i] = (sy_sample){.work = w,
                             .seconds = rate->call + rate->flop * w.flops + rate->byte * w.bytes +
                                        rate->far * w.weights,
                             .calls = 3};
    }
}

static void fit_finds_the_rates_that_made_the_samples(void **state)
{
    const sy_rate want = {5e-6, 1e-11, 1e-10, 4e-10};
    sy_sample samples[N];
    sy_rate got;
    double error = 1;
    (void)state;
    make_samples(&want, samples);
    sy_fit_rate(samples, N, 0, &got, &error);
    check_near(got.call, want.call);
    check_near(got.flop, want.flop);
    check_near(got.byte, want.byte);
    check_near(got.far, want.far);
    assert_true(error < 1e-6);
}

static void fit_has_no_negative_terms(void **state)
{
    const sy_rate made = {-2e-6, 1e-11, 1e-10, 0}; /* small ones are faster than in proportion */
    sy_sample samples[N];
    sy_rate got;
    double error = 0;
    (void)state;
    make_samples(&made, samples);
    sy_fit_rate(samples, N, 0, &got, &error);
    assert_true(got.call >= 0 && got.flop >= 0 && got.byte >= 0 && got.far >= 0);
    assert_true(got.flop > 0);
    assert_true(error > 0 && error < 0.3);
}

static void fit_of_one_sample_is_exact_and_of_none_is_free(void **state)
{
    const sy_sample one = {.work = {.bytes = 1000}, .seconds = 1e-6, .calls = 1};
    sy_rate got;
    double error = 1;
    (void)state;
    sy_fit_rate(&one, 1, 1e6, &got, &error);
    check_near(got.call + 1000 * got.byte, 1e-6);
    assert_true(error < 1e-6);
    sy_fit_rate(&one, 0, 1e6, &got, &error);
    assert_true(got.call == 0 && got.flop == 0 && got.byte == 0 && got.far == 0 && error == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fit_finds_the_rates_that_made_the_samples),
        cmocka_unit_test(fit_has_no_negative_terms),
        cmocka_unit_test(fit_of_one_sample_is_exact_and_of_none_is_free),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Drawing the next token: ties, the tokens that top_p keeps, frequencies against a softmax worked
   out here, and draws that depend on (seed, i) alone. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "train/generate.h"

enum { DRAWS = 20000, MAX_V = 8 };

/* sy_sample changes its logits: each draw has a copy. */
static int32_t draw(const double *logits, int64_t V, double temperature, double top_p,
                    uint64_t seed, int64_t i)
{
    double copy[MAX_V];
    memcpy(copy, logits, (size_t)V * sizeof *copy);
    return sy_sample(copy, V, temperature, top_p, seed, i);
}

/* Count of each id within 4 sigma of DRAWS * p (p 0: never). */
static void check_frequencies(const double *logits, int64_t V, double temperature, double top_p,
                              const double *p)
{
    int64_t count[MAX_V] = {0};
    for (int64_t i = 0; i < DRAWS; i++) {
        int32_t id = draw(logits, V, temperature, top_p, 1234, i);
        assert_in_range(id, 0, V - 1);
        count[id]++;
    }
    for (int64_t v = 0; v < V; v++) {
        double mean = DRAWS * p[v], sigma = sqrt(mean * (1 - p[v]));
        if (fabs((double)count[v] - mean) > 4 * sigma + 1e-6) {
            fail_msg("id %ld drawn %ld times, not %.0f +- %.0f", (long)v, (long)count[v], mean,
                     4 * sigma);
        }
    }
}

static void temperature_zero_takes_the_likeliest_and_of_equals_the_lower_id(void **state)
{
    static const double one[] = {-1, 0.5, 3, 2.9}, two[] = {-7, 2, 1, 2}, same[] = {4, 4, 4, 4};
    (void)state;
    for (int64_t i = 0; i < 50; i++) {
        assert_int_equal(draw(one, 4, 0, 1, 5, i), 2);
        assert_int_equal(draw(two, 4, 0, 1, 5, i), 1);
        assert_int_equal(draw(same, 4, 0, 1, 5, i), 0);
    }
}

static void frequencies_are_the_softmax_of_the_logits_over_temperature(void **state)
{
    static const double logits[] = {0.3, -1.2, 2.0, 0.3, 1.1}, temperatures[] = {0.5, 1, 3};
    (void)state;
    for (size_t t = 0; t < 3; t++) {
        double p[5], sum = 0;
        for (int v = 0; v < 5; v++) {
            sum += p[v] = exp(logits[v] / temperatures[t]);
        }
        for (int v = 0; v < 5; v++) {
            p[v] /= sum;
        }
        check_frequencies(logits, 5, temperatures[t], 1, p);
    }
}

static void large_logits_do_not_overflow(void **state)
{
    static const double logits[] = {5000, 5000, -5000}, p[] = {0.5, 0.5, 0};
    (void)state;
    check_frequencies(logits, 3, 1, 1, p);
}

/* Probabilities 0.1 0.4 0.2 0.3: in descending order they sum to 0.4 0.7 0.9 1. */
static void top_p_keeps_the_shortest_prefix_and_the_token_that_crosses(void **state)
{
    const double logits[] = {log(0.1), log(0.4), log(0.2), log(0.3)};
    static const struct {
        double top_p, p[4];
    } cases[] = {
        {0.0, {0, 1, 0, 0}},
        {0.39, {0, 1, 0, 0}},
        {0.41, {0, 4 / 7.0, 0, 3 / 7.0}},
        {0.69, {0, 4 / 7.0, 0, 3 / 7.0}},
        {0.71, {0, 4 / 9.0, 2 / 9.0, 3 / 9.0}},
        {0.91, {0.1, 0.4, 0.2, 0.3}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_frequencies(logits, 4, 1, cases[i].top_p, cases[i].p);
    }
}

/* Four quarters are exact in binary: two of them reach 0.5, and a third is not taken. */
static void top_p_reached_exactly_stops_there_and_of_equals_keeps_the_lower_ids(void **state)
{
    static const double logits[] = {1, 1, 1, 1}, p[] = {0.5, 0.5, 0, 0};
    (void)state;
    check_frequencies(logits, 4, 1, 0.5, p);
}

/* Temperature goes first: at 0.5 the odds 0.4 : 0.3 : 0.2 : 0.1 become 16 : 9 : 4 : 1. */
static void top_p_counts_the_probabilities_after_temperature(void **state)
{
    const double logits[] = {log(0.1), log(0.4), log(0.2), log(0.3)};
    static const double p[] = {0, 16 / 25.0, 0, 9 / 25.0};
    (void)state;
    check_frequencies(logits, 4, 0.5, 0.8, p);
}

static void draw_depends_on_seed_and_index_alone(void **state)
{
    static const double logits[] = {0, 0, 0, 0, 0, 0, 0, 0};
    enum { N = 256 };
    int32_t ids[N];
    int n_same_seed = 0, n_same_index = 0;
    (void)state;
    for (int64_t i = 0; i < N; i++) {
        ids[i] = draw(logits, 8, 1, 1, 7, i);
    }
    for (int64_t i = N - 1; i >= 0; i--) {
        assert_int_equal(draw(logits, 8, 1, 1, 7, i), ids[i]);
        n_same_seed += draw(logits, 8, 1, 1, 8, i) == ids[i];
        n_same_index += ids[i] == ids[0];
    }
    /* one in eight agrees by chance: 32 of 256, sigma 5.3 */
    assert_in_range(n_same_seed, 10, 54);
    assert_in_range(n_same_index, 10, 54);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(temperature_zero_takes_the_likeliest_and_of_equals_the_lower_id),
        cmocka_unit_test(frequencies_are_the_softmax_of_the_logits_over_temperature),
        cmocka_unit_test(large_logits_do_not_overflow),
        cmocka_unit_test(top_p_keeps_the_shortest_prefix_and_the_token_that_crosses),
        cmocka_unit_test(top_p_reached_exactly_stops_there_and_of_equals_keeps_the_lower_ids),
        cmocka_unit_test(top_p_counts_the_probabilities_after_temperature),
        cmocka_unit_test(draw_depends_on_seed_and_index_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

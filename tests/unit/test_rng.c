/* core/rng: Philox against the published known answers of Random123; what is built on it against
   numbers computed from those answers elsewhere; the permutation by counting. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/alloc.h"
#include "core/rng.h"

static void block_known_answers_match(void **state)
{
    (void)state;
    static const struct {
        uint64_t seed, stream, index;
        uint32_t out[4];
    } cases[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {~0ULL, ~0ULL, ~0ULL, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822,
         0x0370734413198a2e,
         0x85a308d3243f6a88,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t out[4];
        sy_rng_block(cases[i].seed, cases[i].stream, cases[i].index, out);
        assert_memory_equal(out, cases[i].out, sizeof out);
    }
}

static void draws_follow_from_the_known_answers(void **state)
{
    (void)state;
    const uint64_t seed = 0x299f31d0a4093822, stream = 0x0370734413198a2e,
                   index = 0x85a308d3243f6a88;
    assert_true(sy_rng_u64(0, 0, 0) == 0xe169c58d6627e8d5ULL);
    assert_true(sy_rng_uniform(0, 0, 0) == 0x1.c2d38b1acc4fdp-1);
    assert_true(sy_rng_uniform(seed, stream, index) == 0x1.29fb99d7a2d9fp-1);
    assert_true(fabs(sy_rng_normal(0, 0, 0) + 0.39766753844418223) < 1e-15);
    assert_true(fabs(sy_rng_normal(seed, stream, index) - 0.6586447690473304) < 1e-15);
}

static void normal_moments_are_those_of_the_normal(void **state)
{
    (void)state;
    enum { N = 200000 };
    double sum[5] = {0}, n_beyond_two = 0;
    for (int i = 0; i < N; i++) {
        double x = sy_rng_normal(7, SY_RNG_TEST, (uint64_t)i), power = 1;
        for (int m = 1; m <= 4; m++) {
            power *= x;
            sum[m] += power / N;
        }
        n_beyond_two += fabs(x) > 2;
    }
    /* Five standard deviations of each estimate. */
    assert_true(fabs(sum[1]) < 5 * sqrt(1.0 / N));
    assert_true(fabs(sum[2] - 1) < 5 * sqrt(2.0 / N));
    assert_true(fabs(sum[3]) < 5 * sqrt(15.0 / N));
    assert_true(fabs(sum[4] - 3) < 5 * sqrt(96.0 / N));
    assert_true(fabs(n_beyond_two / N - 0.0455) < 5 * sqrt(0.0455 / N));
}

static void uniform_fills_its_bins_evenly(void **state)
{
    (void)state;
    enum { N = 64000, BINS = 64 };
    int count[BINS] = {0};
    double chi2 = 0;
    for (int i = 0; i < N; i++) {
        double u = sy_rng_uniform(1, SY_RNG_TEST, (uint64_t)i);
        assert_true(u >= 0 && u < 1);
        count[(int)(u * BINS)]++;
    }
    for (int b = 0; b < BINS; b++) {
        chi2 += (count[b] - N / BINS) * (double)(count[b] - N / BINS) / (N / BINS);
    }
    assert_true(chi2 < 63 + 5 * sqrt(2 * 63.0));
}

static bool permutes(uint64_t seed, int64_t n, uint8_t *seen)
{
    memset(seen, 0, (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        int64_t to = sy_rng_permute(seed, SY_RNG_DATA, n, i);
        if (to < 0 || to >= n || seen[to]++) {
            return false;
        }
    }
    return true;
}

static void permute_any_length_is_a_bijection(void **state)
{
    (void)state;
    static const int64_t large[] = {4095, 4096, 4097, 16384, 16385, 65537, 100003};
    uint8_t *seen = NULL;
    assert_int_equal(sy_alloc(100003, 1, (void **)&seen), 0);
    for (int64_t n = 1; n <= 1000; n++) {
        assert_true(permutes((uint64_t)n, n, seen));
    }
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        assert_true(permutes(3, large[i], seen));
    }
    sy_free(&seen);
}

static void permute_of_the_largest_lengths_stays_inside(void **state)
{
    (void)state;
    static const int64_t lengths[] = {((int64_t)1 << 32) + 1, (int64_t)1 << 62, INT64_MAX};
    for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; k++) {
        int64_t n = lengths[k], previous = -1;
        int n_upper = 0; /* of the first places, so a domain too small for n shows */
        for (int64_t i = 0; i < 1000; i++) {
            int64_t to = sy_rng_permute(3, SY_RNG_DATA, n, i % 2 ? n - 1 - i : i);
            assert_true(to >= 0 && to < n && to != previous);
            previous = to;
            n_upper += i % 2 == 0 && to >= n / 2;
        }
        assert_in_range(n_upper, 190, 310);
    }
}

/* Over many seeds every item must reach every place about equally often. */
static void permute_over_seeds_is_even(void **state)
{
    (void)state;
    static const int lengths[] = {2, 3, 5, 8, 17};
    enum { SEEDS = 8000 };
    for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; k++) {
        int n = lengths[k];
        for (int i = 0; i < n; i++) {
            int count[17] = {0};
            for (int seed = 0; seed < SEEDS; seed++) {
                count[sy_rng_permute((uint64_t)seed, SY_RNG_DATA, n, i)]++;
            }
            for (int to = 0; to < n; to++) {
                double mean = (double)SEEDS / n;
                assert_true(fabs(count[to] - mean) < 5 * sqrt(mean));
            }
        }
    }
}

static void permute_depends_on_seed_and_stream(void **state)
{
    (void)state;
    int same_seed = 0, same_stream = 0;
    for (int64_t i = 0; i < 1000; i++) {
        int64_t to = sy_rng_permute(1, SY_RNG_DATA, 1000, i);
        same_seed += to == sy_rng_permute(2, SY_RNG_DATA, 1000, i);
        same_stream += to == sy_rng_permute(1, SY_RNG_TEST, 1000, i);
    }
    assert_true(same_seed < 10 && same_stream < 10);
}

static void stream_of_a_name_is_its_xxh3(void **state)
{
    (void)state;
    assert_true(sy_rng_stream_of("") == 0x2d06800538d394c2ULL);
    assert_true(sy_rng_stream_of("a") == 0xe6c632b61e964e1fULL);
    assert_true(sy_rng_stream_of("abc") == 0x78af5f94892f3950ULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(block_known_answers_match),
        cmocka_unit_test(draws_follow_from_the_known_answers),
        cmocka_unit_test(normal_moments_are_those_of_the_normal),
        cmocka_unit_test(uniform_fills_its_bins_evenly),
        cmocka_unit_test(permute_any_length_is_a_bijection),
        cmocka_unit_test(permute_of_the_largest_lengths_stays_inside),
        cmocka_unit_test(permute_over_seeds_is_even),
        cmocka_unit_test(permute_depends_on_seed_and_stream),
        cmocka_unit_test(stream_of_a_name_is_its_xxh3),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

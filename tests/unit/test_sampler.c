/* The order of the data, judged by walking it from the start and counting. */
#include "tests/support/data_files.h"

#include <math.h>

#include "core/alloc.h"
#include "data/sampler.h"

static void sampler_one_dataset_visits_each_sequence_once_per_epoch(void **state)
{
    (void)state;
    const int64_t sizes[6] = {1, 2, 3, 63, 100, 1000};
    const double weight = 0.3;
    for (int c = 0; c < 6; c++) {
        sy_sampler *sampler = NULL;
        const int64_t n = sizes[c];
        int64_t in_place = 0;
        assert_int_equal(sy_sampler_create(7, &n, &weight, 1, &sampler), SY_OK);
        for (int64_t epoch = 0; epoch < 3; epoch++) {
            uint8_t seen[1000] = {0};
            for (int64_t i = 0; i < n; i++) {
                sy_sample s = sy_sampler_at(sampler, epoch * n + i);
                assert_int_equal(s.dataset, 0);
                assert_int_equal(s.epoch, epoch);
                assert_true(s.sequence >= 0 && s.sequence < n);
                assert_int_equal(seen[s.sequence]++, 0);
                in_place += s.sequence == sy_sampler_at(sampler, (epoch + 1) * n + i).sequence;
            }
        }
        if (n == 1000) {
            assert_true(in_place < 30); /* 3 expected where epochs are shuffled apart */
        }
        sy_sampler_destroy(&sampler);
    }
}

/* Shares from large to one in a thousand, and data sets that are worn out at different speeds. */
static void sampler_blend_keeps_shares_and_whole_epochs(void **state)
{
    (void)state;
    enum { N = 4, BLOCKS = 1500 };
    const int64_t n_sequences[N] = {10, 5000, 7, 333};
    const double weight[N] = {2.0, 1.0, 0.997, 0.004};
    const double total = 2.0 + 1.0 + 0.997 + 0.004;
    static uint8_t seen[N][5000];
    int64_t drawn[N] = {0};
    sy_sampler *sampler = NULL;
    memset(seen, 0, sizeof seen);
    assert_int_equal(sy_sampler_create(1, n_sequences, weight, N, &sampler), SY_OK);
    for (int64_t k = 0; k < (int64_t)BLOCKS * SY_SAMPLER_BLOCK; k++) {
        sy_sample s = sy_sampler_at(sampler, k);
        int32_t d = s.dataset;
        assert_true(d >= 0 && d < N);
        if (drawn[d] % n_sequences[d] == 0) {
            memset(seen[d], 0, sizeof seen[d]);
        }
        assert_int_equal(s.epoch, drawn[d] / n_sequences[d]);
        assert_true(s.sequence >= 0 && s.sequence < n_sequences[d]);
        assert_int_equal(seen[d][s.sequence]++, 0);
        drawn[d]++;
        if ((k + 1) % SY_SAMPLER_BLOCK == 0) {
            for (int i = 0; i < N; i++) {
                double want = weight[i] / total * (double)(k + 1);
                assert_true(fabs((double)drawn[i] - want) < N + want * 2e-3);
            }
        }
    }
    sy_sampler_destroy(&sampler);
    assert_int_equal(sy_alloc_live(), 0);
}

static void sampler_blend_order_is_mixed_and_keyed_by_seed(void **state)
{
    (void)state;
    const int64_t n_sequences[2] = {1000, 1000};
    const double weight[2] = {1, 1};
    int64_t same_dataset = 0, same_sequence = 0, alternations = 0;
    sy_sampler *a = NULL, *b = NULL;
    assert_int_equal(sy_sampler_create(1, n_sequences, weight, 2, &a), SY_OK);
    assert_int_equal(sy_sampler_create(2, n_sequences, weight, 2, &b), SY_OK);
    for (int64_t k = 0; k < 1000; k++) {
        sy_sample x = sy_sampler_at(a, k), y = sy_sampler_at(b, k);
        same_dataset += x.dataset == y.dataset;
        same_sequence += x.dataset == y.dataset && x.sequence == y.sequence;
        alternations += x.dataset != sy_sampler_at(a, k + 1).dataset;
    }
    assert_in_range(same_dataset, 400, 600);
    assert_in_range(same_sequence, 0, 10);
    assert_in_range(alternations, 400, 600);
    sy_sampler_destroy(&b);
    sy_sampler_destroy(&a);
}

static void sampler_far_position_stays_in_range(void **state)
{
    (void)state;
    const int64_t n_sequences[3] = {11, INT64_C(1) << 40, 5};
    const double weight[3] = {1, 1e5, 3};
    sy_sampler *sampler = NULL;
    assert_int_equal(sy_sampler_create(1, n_sequences, weight, 3, &sampler), SY_OK);
    for (int64_t k = (INT64_C(1) << 42) - 2000; k < INT64_C(1) << 42; k++) {
        sy_sample s = sy_sampler_at(sampler, k);
        assert_true(s.sequence >= 0 && s.sequence < n_sequences[s.dataset] && s.epoch >= 0);
    }
    sy_sampler_destroy(&sampler);
}

static void sampler_bad_weight_is_refused(void **state)
{
    (void)state;
    const int64_t n_sequences[2] = {5, 5};
    sy_sampler *sampler = NULL;
    data_expect_error(sy_sampler_create(1, n_sequences, (const double[]){1, 0}, 2, &sampler),
                      SY_ERR_USAGE, "data set 1", "weight 0");
    data_expect_error(sy_sampler_create(1, n_sequences, (const double[]){NAN, 1}, 2, &sampler),
                      SY_ERR_USAGE, "data set 0", "nan");
    data_expect_error(sy_sampler_create(1, n_sequences, (const double[]){1e-9, 1}, 2, &sampler),
                      SY_ERR_USAGE, "data set 0", "too small");
    assert_null(sampler);
    assert_int_equal(sy_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sampler_one_dataset_visits_each_sequence_once_per_epoch),
        cmocka_unit_test(sampler_blend_keeps_shares_and_whole_epochs),
        cmocka_unit_test(sampler_blend_order_is_mixed_and_keyed_by_seed),
        cmocka_unit_test(sampler_far_position_stays_in_range),
        cmocka_unit_test(sampler_bad_weight_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Rotary frequencies of 16-wide heads against those that transformers 5.23 makes of the same keys
   (ROPE_INIT_FUNCTIONS["linear"], ["llama3"] and ["yarn"], fp32, printed to nine digits), and the
   table of angles against cosines and sines of them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>

#include "model/model.h"
#include "tests/support/test_device.h"

enum { D = 16, POSITIONS = 40 };

typedef struct rope_case {
    sy_model_config config;
    double freq[D / 2];
    double grown; /* factor of cosines and sines; 0: 1 */
} rope_case;

static const rope_case cases[] = {
    {{.head_dim = D, .rope_theta = 10000, .rope_factor = 8}, /* none: the factor is not read */
     {1, 0.316227766, 0.1, 0.0316227766, 0.01, 0.00316227766, 0.001, 0.000316227766},
     0},
    {{.head_dim = D, .rope_theta = 500, .rope_scaling = SY_ROPE_SCALING_LINEAR, .rope_factor = 2.5},
     {0.400000006, 0.183945313, 0.0845896974, 0.0388996974, 0.0178885441, 0.00822628476,
      0.00378296641, 0.00173964747},
     0},
    {{.head_dim = D, /* the first is kept, two go over, five are stretched */
      .rope_theta = 10000,
      .rope_scaling = SY_ROPE_SCALING_LLAMA3,
      .rope_factor = 8,
      .rope_low_freq_factor = 1,
      .rope_high_freq_factor = 4,
      .rope_original_seq_len = 64},
     {1, 0.244384587, 0.0130422562, 0.00395284733, 0.00124999997, 0.000395284733, 0.000125000006,
      3.95284733e-05},
     0},
    {{.head_dim = D, /* four are kept, one goes over, three are stretched */
      .rope_theta = 500000,
      .rope_scaling = SY_ROPE_SCALING_LLAMA3,
      .rope_factor = 32,
      .rope_low_freq_factor = 1.5,
      .rope_high_freq_factor = 6,
      .rope_original_seq_len = 8192},
     {1, 0.193922758, 0.0376060307, 0.00729266508, 0.000148878142, 8.57025589e-06, 1.66196742e-06,
      3.22293289e-07},
     0},
    {{.head_dim = 40, /* DeepSeek-V3's numbers, on 16 of 40 elements */
      .kv_lora_rank = 1,
      .qk_rope_head_dim = D,
      .rope_theta = 10000,
      .rope_scaling = SY_ROPE_SCALING_YARN,
      .rope_factor = 40,
      .rope_beta_fast = 32,
      .rope_beta_slow = 1,
      .rope_mscale = 1,
      .rope_mscale_all_dim = 1,
      .rope_original_seq_len = 4096},
     {1, 0.316227764, 0.100000001, 0.0239147246, 0.00512499968, 0.000849862176, 2.49999994e-05,
      7.90569447e-06},
     0},
    {{.head_dim = D,
      .rope_theta = 50,
      .rope_scaling = SY_ROPE_SCALING_YARN,
      .rope_factor = 4,
      .rope_beta_fast = 4,
      .rope_beta_slow = 0.5,
      .rope_mscale = 0.6,
      .rope_mscale_all_dim = 0.9,
      .rope_original_seq_len = 64},
     {1, 0.61323756, 0.329052746, 0.172960728, 0.0883883536, 0.0433624461, 0.0199436098,
      0.00815344695},
     0.9630244756481601},
};

enum { N_CASES = sizeof cases / sizeof cases[0] };

static void near(int32_t k, const char *what, int64_t i, double got, double want, double bound)
{
    if (!(fabs(got - want) <= bound)) {
        fail_msg("case %d, %s %ld: %.10g, not %.10g", k, what, (long)i, got, want);
    }
}

static void frequencies_are_those_of_transformers(void **state)
{
    (void)state;
    for (int32_t k = 0; k < N_CASES; k++) {
        double freq[D / 2];
        sy_rope_frequencies(&cases[k].config, freq);
        for (int64_t d = 0; d < D / 2; d++) {
            near(k, "frequency", d, freq[d], cases[k].freq[d], 1e-6 * cases[k].freq[d]);
        }
    }
}

/* By hand: 1/sqrt(40), and DeepSeek's square of 0.1 ln 40 + 1 = 1.36888794541. */
static void scores_are_scaled_by_the_head_and_grow_with_yarn(void **state)
{
    sy_model_config c = cases[4].config;
    (void)state;
    near(4, "scale", 0, sy_score_scale(&c), 0.15811388301 * 1.36888794541 * 1.36888794541, 1e-9);
    c.rope_mscale_all_dim = 0;
    near(4, "scale", 1, sy_score_scale(&c), 0.15811388301, 1e-9);
    c.attention_multiplier = (sy_opt_f64){true, 0.3};
    assert_true(sy_score_scale(&c) == 0.3);
}

static void table_holds_cosines_then_sines_of_position_times_frequency(void **state)
{
    sy_device *dev = NULL;
    sy_stream *stream = NULL;
    (void)state;
    assert_int_equal(test_device_open(&dev), SY_OK);
    assert_int_equal(sy_stream_create(dev, "test", &stream), SY_OK);
    for (int32_t k = 0; k < N_CASES; k++) {
        const double grown = cases[k].grown > 0 ? cases[k].grown : 1;
        float row[POSITIONS][D];
        sy_arena arena = {0};
        sy_tensor table;
        assert_int_equal(sy_arena_init(&arena, dev, sizeof row + 4096, SY_MEM_OTHER), SY_OK);
        assert_int_equal(sy_rope_table(&cases[k].config, POSITIONS, &arena, stream, SY_F32, &table),
                         SY_OK);
        assert_int_equal(test_download(stream, row, table.data, sizeof row), SY_OK);
        for (int64_t i = 0; i < POSITIONS * D / 2; i++) {
            int64_t pos = i / (D / 2), d = i % (D / 2);
            double angle = (double)pos * cases[k].freq[d];
            near(k, "cosine", i, row[pos][d], grown * cos(angle), 2e-7 + 1e-6 * angle);
            near(k, "sine", i, row[pos][D / 2 + d], grown * sin(angle), 2e-7 + 1e-6 * angle);
        }
        sy_arena_free(&arena);
    }
    sy_stream_destroy(&stream);
    sy_device_close(&dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frequencies_are_those_of_transformers),
        cmocka_unit_test(scores_are_scaled_by_the_head_and_grow_with_yarn),
        cmocka_unit_test(table_holds_cosines_then_sines_of_position_times_frequency),
    };
    return cmocka_run_group_tests_name("rope", tests, NULL, NULL);
}

/* Logits as a run that goes wrong makes them: of 1e4 either way, all alike, zero. Choices stay in
   range and different, ties go to the lower experts, nothing is infinite but what must be. */
#include <math.h>
#include <string.h>

#include "tests/support/moe_one.h"

static rig_weights weights, grads;
static rig_tokens tokens;
static rig_result got;

static void all_finite(const double *x, int64_t n, const char *what)
{
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) {
            fail_msg("%s %ld is %g", what, (long)i, x[i]);
        }
    }
}

/* Each token chose K experts, none of them twice: no expert has more rows than tokens. */
static void choices_are_whole(int32_t K)
{
    int64_t sum = 0;
    for (int32_t e = 0; e < E; e++) {
        assert_in_range(got.load[e], 0, T);
        sum += got.load[e];
    }
    assert_int_equal(sum, T * K);
}

static double largest_logit(void)
{
    double largest = 0;
    for (int32_t t = 0; t < T; t++) {
        for (int32_t e = 0; e < E; e++) {
            double z = 0;
            for (int32_t h = 0; h < H; h++) {
                z += weights.router[e * H + h] * tokens.x[t * H + h];
            }
            largest = fmax(largest, fabs(z));
        }
    }
    return largest;
}

static void run_form(const char *backend, const form *f)
{
    sy_moe_config c = of_form(f);
    c.aux_loss_coeff = 0.3;
    c.z_loss_coeff = 0.001;
    run_on(backend, &c, &weights, &tokens, &got, &grads);
    all_finite(got.y, N_Y, "output");
    all_finite(got.dx, N_Y, "gradient of the input");
    all_finite(got.sums, SY_N_SUMS, "sum");
    all_finite(grads.router, E * H, "router gradient");
    choices_are_whole(f->top_k);
}

static void logits_of_ten_thousand_stay_finite(void **state)
{
    (void)state;
    for (int32_t i = 0; i < 2 * N_FORMS; i++) {
        rig_draw_weights(5 + (uint64_t)i, &weights);
        rig_draw_tokens(5 + (uint64_t)i, B, S, &tokens);
        const double scale = 1e4 / largest_logit();
        for (int32_t j = 0; j < E * H; j++) {
            weights.router[j] *= scale;
        }
        run_form(i % 2 == 0 ? "ref" : device_under_test(), &forms[i / 2]);
        assert_true(got.sums[SY_SUM_Z] > 1); /* and the z-loss says so */
    }
}

static void equal_logits_choose_the_lower_experts(void **state)
{
    (void)state;
    for (int32_t i = 0; i < 4 * N_FORMS; i++) {
        const form *f = &forms[i / 4];
        rig_draw_weights(50 + (uint64_t)i, &weights);
        rig_draw_tokens(50 + (uint64_t)i, B, S, &tokens);
        for (int32_t e = 1; e < E; e++) { /* equal rows, or none */
            memcpy(weights.router + e * H, weights.router, sizeof(double) * H);
        }
        if (i % 4 >= 2) {
            memset(weights.router, 0, sizeof(double) * E * H);
        }
        run_form(i % 2 == 0 ? "ref" : device_under_test(), f);
        for (int32_t e = 0; e < E; e++) {
            assert_int_equal(got.load[e], e < f->top_k ? T : 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_of_ten_thousand_stay_finite),
        cmocka_unit_test(equal_logits_choose_the_lower_experts),
    };
    return cmocka_run_group_tests_name("router_extremes", tests, NULL, NULL);
}

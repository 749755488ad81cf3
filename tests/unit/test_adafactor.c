/* Adafactor against transformers' (adafactor_golden.h), on a vector, a matrix and matrices of
   experts. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "optim/optimizer.h"
#include "tests/unit/adafactor_golden.h"
#include "train/engine.h"

static const char config_text[] =
    "device: {backend: ref, threads: 1}\n"
    "model: {vocab_size: 256, hidden: 8, layers: 1, heads: 2, ffn_hidden: 10, seq_len: 6}\n"
    "moe: {experts: 4, expert_hidden: 6}\n"
    "optim: {name: adafactor, adafactor: {min_factored: 1}}\n";

static const char *const run_set[GOLDEN_RUNS][3] = {
    {"optim.adafactor.clip_threshold=0.5", "optim.weight_decay=0.01", "optim.lr=0.05"},
    {"optim.adafactor.momentum=0.9", "optim.adafactor.scale_parameter=false",
     "optim.weight_decay=0"},
    {"optim.adafactor.min_factored=128", "optim.weight_decay=0", "optim.lr=0.05"},
};

/* The matrices of the golden file: elements first .. first+n-1 of a parameter in memory. */
static const struct {
    const char *param;
    int64_t first, n;
} matrix[GOLDEN_MATRICES] = {
    {"norm", 0, 8},
    {"layers/000/moe/router", 0, 32},
    {"layers/000/moe/experts/gate_up", (int64_t)2 * 12 * 8, 48},
    {"layers/000/moe/experts/down", (int64_t)1 * 8 * 6, 48},
};

static void must(sy_status st)
{
    if (st != SY_OK) {
        print_error("%s\n", sy_error_message());
        fail();
    }
}

static double *element(const sy_engine *e, int32_t k, bool gradient)
{
    const sy_param *p = sy_params_find(e->params, matrix[k].param);
    assert_non_null(p);
    return (double *)(gradient ? p->grad.data : p->value.data) + matrix[k].first;
}

/* On ref memory is the host's. step 0: the values. */
static void fill(const sy_engine *e, int32_t step)
{
    for (int32_t k = 0; k < GOLDEN_MATRICES; k++) {
        double *x = element(e, k, step > 0);
        for (int64_t i = 0; i < matrix[k].n; i++) {
            const double t = (double)i;
            x[i] = step == 0 ? 0.3 * cos(1.1 * t + k)
                             : 0.01 * (double)(1 + i % 5) * sin(0.7 * t + 1.3 * step + k);
        }
    }
}

static void compare(const sy_engine *e, int32_t run)
{
    for (int32_t k = 0; k < GOLDEN_MATRICES; k++) {
        const double *x = element(e, k, false);
        for (int64_t i = 0; i < matrix[k].n; i++) {
            if (!(fabs(x[i] - golden[run][k][i]) < 1e-12)) {
                fail_msg("run %d: element %d of %s is %.17g, transformers' %.17g", run, (int)i,
                         matrix[k].param, x[i], golden[run][k][i]);
            }
        }
    }
}

static void updates_are_those_of_transformers(void **state)
{
    (void)state;
    for (int32_t run = 0; run < GOLDEN_RUNS; run++) {
        sy_run_settings settings = {0};
        sy_comm *world = NULL;
        sy_engine *e = NULL;
        sy_optimizer *opt = NULL;
        must(sy_comm_world(false, &world));
        must(sy_run_settings_parse(config_text, sizeof config_text - 1, "test", run_set[run], 3,
                                   &settings));
        sy_engine_spec spec = {.settings = &settings,
                               .world = world,
                               .use = SY_USE_TRAIN,
                               .B = 1,
                               .S = 6,
                               .threads = 1};
        must(sy_engine_create(&spec, &e));
        must(sy_optimizer_create(settings.optim, e->params, &opt));
        fill(e, 0);
        for (int32_t step = 1; step <= GOLDEN_STEPS; step++) {
            fill(e, step);
            must(sy_optimizer_step(opt, &(sy_update){.lr = 1e9, .grad_scale = 0.5, .skip = true},
                                   e->compute_stream));
            fill(e, step);
            must(sy_optimizer_step(opt, &(sy_update){.lr = golden_rate[step - 1], .grad_scale = 1},
                                   e->compute_stream));
        }
        compare(e, run);
        sy_optimizer_destroy(&opt);
        sy_engine_destroy(&e);
        sy_run_settings_free(&settings);
        sy_comm_destroy(&world);
    }
}

static void refused(const char *set, const char *says)
{
    sy_run_settings settings = {0};
    assert_int_equal(
        sy_run_settings_parse(config_text, sizeof config_text - 1, "test", &set, 1, &settings),
        SY_ERR_USAGE);
    if (strstr(sy_error_message(), says) == NULL) {
        fail_msg("'%s' does not say '%s'", sy_error_message(), says);
    }
    sy_error_clear();
}

static void settings_of_the_other_optimizer_are_refused(void **state)
{
    (void)state;
    refused("optim.betas=[0.9, 0.98]", "optim.betas is AdamW's");
    refused("optim.eps=1e-6", "optim.eps is AdamW's");
    refused("optim.name=adamw", "optim.adafactor.min_factored belongs to the optimizer");
    refused("optim.hold_steps=10", "is of optim.schedule inverse_sqrt");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(updates_are_those_of_transformers),
        cmocka_unit_test(settings_of_the_other_optimizer_are_refused),
    };
    return cmocka_run_group_tests_name("adafactor", tests, NULL, NULL);
}

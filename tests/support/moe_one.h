/* One MoE layer on one rank, for unit tests: 3 sequences of 7 tokens, 6 experts, every way to weigh
   the choices. */
#ifndef SY_TESTS_MOE_ONE_H
#define SY_TESTS_MOE_ONE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "tests/support/moe_rig.h"

enum { B = 3, S = 7, T = B * S, E = 6, H = RIG_H, N_Y = T * RIG_H };

static inline void must(sy_status st)
{
    if (st != SY_OK) {
        print_error("%s\n", sy_error_message());
        fail();
    }
}

static inline void assert_near(const double *a, const double *b, int64_t n, double bound,
                               const char *what)
{
    double gap = rig_gap(a, b, n);
    if (!(gap <= bound)) {
        fail_msg("%s: off by %.3g where %.3g is allowed", what, gap, bound);
    }
}

/* Forward and backward of one micro-batch on one rank; grads may be NULL. */
static inline void run_on(const char *backend, const sy_moe_config *c, const rig_weights *w,
                          const rig_tokens *in, rig_result *out, rig_weights *grads)
{
    sy_comm *world = NULL;
    moe_rig rig;
    must(sy_comm_world(false, &world));
    must(rig_open(&rig, &(rig_spec){.moe = *c, .backend = backend, .world = world, .ep = 1}));
    must(rig_put(&rig, w));
    must(rig_train(&rig, in, 1.0 / T, out));
    if (grads != NULL) {
        must(rig_get_gradients(&rig, grads));
    }
    rig_close(&rig);
    sy_comm_destroy(&world);
}

static inline void run(const sy_moe_config *c, const rig_weights *w, const rig_tokens *in,
                       rig_result *out)
{
    run_on("ref", c, w, in, out, NULL);
}

static inline const char *device_under_test(void)
{
    const char *backend = getenv("SY_TEST_BACKEND");
    return backend != NULL && *backend != '\0' ? backend : "cpu";
}

typedef struct form {
    const char *name;
    sy_score score;
    int32_t top_k;
    bool normalize;
    double scale;
} form;

/* Those of docs/NUMERICS.md 2, with the scale of DeepSeek-V3 for C. */
static const form forms[] = {{"A", SY_SCORE_SOFTMAX, 2, true, 1},
                             {"B", SY_SCORE_SOFTMAX, 2, false, 1},
                             {"B of one choice", SY_SCORE_SOFTMAX, 1, false, 1},
                             {"C", SY_SCORE_SIGMOID, 3, true, 2.5},
                             {"E", SY_SCORE_SIGMOID, 1, false, 1}};
enum { N_FORMS = sizeof forms / sizeof forms[0] };

static inline sy_moe_config of_form(const form *f)
{
    sy_moe_config c = rig_config(E, f->top_k);
    c.score = (int32_t)f->score;
    c.normalize_weights = f->normalize;
    c.routed_scale = f->scale;
    return c;
}

static inline bool is_softmax(const form *f)
{
    return f->score == SY_SCORE_SOFTMAX;
}

#endif

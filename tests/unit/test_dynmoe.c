/* DynMoE's router: its choices; its gradient, which is that of a stand-in whose step is
   differentiable; experts that come and go. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "moe/host_route.h"
#include "tests/support/test_device.h"
#include "tests/support/moe_rig.h"
#include "tests/support/router_config.h"

enum { E = 4, H = RIG_H, T = 6, N_CASES = 3 };

/* What the layer is asked for: x [T, H], and the router's own. */
typedef struct numbers {
    double x[T * H], c[E * H], G[E];
} numbers;

static void draw(double *x, int64_t n, double scale, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++) {
        x[i] = scale * sy_rng_normal(seed, SY_RNG_TEST, (uint64_t)i);
    }
}

static double cosine(const double *a, const double *b)
{
    double ab = 0, aa = 0, bb = 0;
    for (int32_t h = 0; h < H; h++) {
        ab += a[h] * b[h];
        aa += a[h] * a[h];
        bb += b[h] * b[h];
    }
    return ab / sqrt(aa * bb);
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static double said(const rig_weights *w, int32_t e, const double *x, const double *dy)
{
    double y[H], sum = 0;
    plain_ffn(w->gate_up + e * RIG_GATED, w->down + e * RIG_H * RIG_F, x, y);
    for (int32_t h = 0; h < H; h++) {
        sum += y[h] * dy[h];
    }
    return sum;
}

/* <dy, y> with the choices of `at`, the step of each g replaced by what its gradient is that of;
   and the two losses with coefficients 0.3 and 0.2. */
static double stand_in(const rig_weights *w, const rig_tokens *in, const numbers *at,
                       const numbers *now)
{
    double sum = 0, squares = 0, lengths = 0;
    for (int32_t t = 0; t < T; t++) {
        double of_t = 0;
        int32_t k = 0;
        for (int32_t e = 0; e < E; e++) {
            const double *x = now->x + t * H;
            if (cosine(at->x + t * H, at->c + e * H) <= at->G[e]) {
                continue;
            }
            k++;
            of_t += said(w, e, x, in->dy + t * H);
            of_t += said(w, e, at->x + t * H, in->dy + t * H) *
                    (sigmoid(cosine(x, now->c + e * H)) - sigmoid(now->G[e]));
        }
        sum += k > 0 ? of_t / k : 0;
    }
    for (int32_t i = 0; i < E * E; i++) {
        const double R = cosine(now->c + i / E * H, now->c + i % E * H) - (i / E == i % E);
        squares += R * R;
    }
    for (int32_t e = 0; e < E; e++) {
        double square = 0;
        for (int32_t h = 0; h < H; h++) {
            square += now->c[e * H + h] * now->c[e * H + h];
        }
        lengths += sqrt(square) / E;
    }
    return sum + 0.3 * sqrt(squares) + 0.2 * lengths;
}

static void assert_slope(const rig_weights *w, const rig_tokens *in, numbers *n, double *x,
                         double found)
{
    const numbers at = *n;
    const double h = 1e-5, was = *x;
    *x = was + h;
    double up = stand_in(w, in, &at, n);
    *x = was - h;
    up -= stand_in(w, in, &at, n);
    *x = was;
    if (!(fabs(up / (2 * h) - found) <= 1e-7 * (1 + fabs(found)))) {
        fail_msg("gradient %.12g, of the stand-in %.12g", found, up / (2 * h));
    }
}

static void move(moe_rig *rig, const char *name, bool grad, double *x, bool put)
{
    const sy_param *p = sy_params_find(rig->params, name);
    assert_non_null(p);
    const sy_tensor *t = grad ? &p->grad : &p->value;
    assert_int_equal(put ? test_upload(rig->stream, t->data, x, sy_tensor_bytes(t))
                         : test_download(rig->stream, x, t->data, sy_tensor_bytes(t)),
                     SY_OK);
}

static void gradient_is_that_of_the_stand_in(void **state)
{
    (void)state;
    static rig_weights w;
    static rig_tokens in;
    sy_config *config = NULL;
    sy_comm *world = NULL;
    moe_rig rig;
    rig_result got;
    numbers n;
    double dc[E * H], dG[E];
    assert_int_equal(
        configure(SET("moe.router=dynmoe", "moe.expert_hidden=6", "moe.dynmoe.diversity_coeff=0.3",
                      "moe.dynmoe.simplicity_coeff=0.2"),
                  &config),
        SY_OK);
    assert_int_equal(sy_comm_world(false, &world), SY_OK);
    rig_draw_weights(3, &w);
    rig_draw_tokens(4, 1, T, &in);
    draw(n.c, E * H, 0.7, 5);
    draw(n.G, E, 0.2, 6);
    memcpy(n.x, in.x, sizeof n.x);
    assert_int_equal(
        rig_open(&rig, &(rig_spec){.moe = *(const sy_moe_config *)sy_config_get(config, "moe"),
                                   .backend = "ref",
                                   .world = world,
                                   .ep = 1}),
        SY_OK);
    assert_int_equal(rig_put(&rig, &w), SY_OK);
    move(&rig, "layer/moe/centroids", false, n.c, true);
    move(&rig, "layer/moe/thresholds", false, n.G, true);
    assert_int_equal(rig_train(&rig, &in, 1.0 / T, &got), SY_OK);
    move(&rig, "layer/moe/centroids", true, dc, false);
    move(&rig, "layer/moe/thresholds", true, dG, false);
    for (int32_t i = 0; i < T * H; i++) {
        assert_slope(&w, &in, &n, &n.x[i], got.dx[i]);
    }
    for (int32_t i = 0; i < E * H; i++) {
        assert_slope(&w, &in, &n, &n.c[i], dc[i]);
    }
    for (int32_t i = 0; i < E; i++) {
        assert_slope(&w, &in, &n, &n.G[i], dG[i]);
    }
    rig_close(&rig);
    sy_comm_destroy(&world);
    sy_config_destroy(&config);
}

/* ---- by itself ---- */

static void tokens_near_nobody_go_nowhere_in_training_and_to_the_nearest_else(void **state)
{
    (void)state;
    /* experts along the axes, the last one asleep; thresholds as cosines 0.5, 0.9, -0.5 */
    double x[3 * H] = {[0] = 2, [1] = 2, [H] = -1, [H + 1] = -0.9, [2 * H + 3] = 5};
    double c[E * H] = {[0] = 1, [H + 1] = 2, [2 * H + 2] = 3, [3 * H + 3] = 4};
    double G[E] = {0.5, 0.9, 0.5, 0.1}, memory[1 + 2 * E + H] = {[4] = 1}, note[3 * E], z[3 * E];
    double weight[3 * E] = {0}, scratch[64], sum[H] = {0};
    int32_t expert[3 * E];
    sy_config *config = NULL;
    assert_int_equal(configure(SET("moe.router=dynmoe", "moe.routed_scale=3"), &config), SY_OK);
    const sy_moe_config *moe = sy_config_get(config, "moe");
    const sy_host_router_ops *ops = sy_router_find("dynmoe")->host;
    sy_host_route r = {.config = moe,
                       .T = 3,
                       .B = 1,
                       .S = 3,
                       .E = E,
                       .K = E,
                       .M = H,
                       .H = H,
                       .in = x,
                       .z = z,
                       .param = {c, G},
                       .state = memory,
                       .note = note,
                       .expert = expert,
                       .weight = weight,
                       .scratch = scratch};
    for (int32_t training = 1; training >= 0; training--) {
        const int32_t wanted[3] = {0, training ? -1 : 2, training ? -1 : 0};
        memset(expert, 0xff, sizeof expert);
        r.training = training;
        r.sum = training ? sum : NULL;
        ops->score(&r);
        ops->choose(&r);
        for (int32_t t = 0; t < 3; t++) {
            assert_int_equal(expert[t * E], wanted[t]);
            assert_int_equal(expert[t * E + 1], -1);
            assert_true(wanted[t] < 0 || weight[t * E] == 3);
        }
    }
    for (int32_t h = 0; h < H; h++) { /* the second and the third token */
        assert_true(sum[h] == x[H + h] + x[2 * H + h]);
    }
    sy_config_destroy(&config);
}

/* One step of pause, two of noting: what the first step says does not count. */
static void idle_experts_go_and_one_comes_for_those_that_chose_none(void **state)
{
    (void)state;
    static const int64_t loads[3][E] = {{1, 1, 1, 0}, {0, 4, 0, 0}, {2, 4, 0, 0}};
    static const double unclaimed[3][H] = {{9}, {0, 3}, {0, 0, 4}};
    double c[E * H], G[E] = {1, 1, 1, 1}, memory[1 + 2 * E + H] = {0}, was[E * H];
    double *const param[2] = {c, G};
    sy_config *config = NULL;
    assert_int_equal(configure(SET("moe.router=dynmoe", "moe.dynmoe.start_experts=3",
                                   "moe.dynmoe.window=2", "moe.dynmoe.pause=1"),
                               &config),
                     SY_OK);
    const sy_moe_config *moe = sy_config_get(config, "moe");
    draw(c, E * H, 1, 9);
    memcpy(was, c, sizeof was);
    for (int32_t i = 0; i < 3; i++) {
        sy_step_end end = {
            .h_load = loads[i], .h_router = unclaimed[i], .n_router = H, .L = 1, .E = E};
        assert_true(sy_router_find("dynmoe")->host->adapt(moe, &end, 0, memory, param) == (i == 2));
    }
    /* expert 2 was idle and slept; as the first of the sleeping ones it is the one that wakes up */
    assert_true(memory[0] == 0 && memory[1] == 0 && memory[2] == 0 && memory[3] == 0);
    assert_true(memory[4] == 0 && G[2] == 0 && G[3] == 1);
    for (int32_t h = 0; h < H; h++) {
        assert_true(fabs(c[2 * H + h] - (h == 1 ? 0.6 : h == 2 ? 0.8 : 0)) < 1e-15);
    }
    memcpy(c + 2 * H, was + 2 * H, H * sizeof *c);
    assert_memory_equal(c, was, sizeof was);
    /* nobody is left over: 0 goes, and nobody comes; then nobody is chosen, and nobody goes */
    for (int32_t i = 0; i < 6; i++) {
        static const int64_t load[2][E] = {{0, 5, 5, 0}, {0}};
        static const double none[H] = {0};
        sy_step_end end = {.h_load = load[i / 3], .h_router = none, .n_router = H, .L = 1, .E = E};
        assert_false(sy_router_find("dynmoe")->host->adapt(moe, &end, 0, memory, param));
    }
    assert_true(memory[1] == 1 && memory[2] == 0 && memory[3] == 0 && memory[4] == 0);
    sy_config_destroy(&config);
}

int main(void)
{
    const struct CMUnitTest tests[N_CASES] = {
        cmocka_unit_test(gradient_is_that_of_the_stand_in),
        cmocka_unit_test(tokens_near_nobody_go_nowhere_in_training_and_to_the_nearest_else),
        cmocka_unit_test(idle_experts_go_and_one_comes_for_those_that_chose_none),
    };
    return cmocka_run_group_tests_name("dynmoe", tests, NULL, NULL);
}

/* Layers whose experts are adapters of one MLP against their formulas, token by token and matrix by
   matrix, on ref in double. (Gradients: test_moe_gradient; layouts: tests/mpi/test_routers.) */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/rng.h"
#include "tests/support/moe_rig.h"
#include "tests/support/router_config.h"
#include "tests/support/test_device.h"

enum { E = 4, H = RIG_H, F = RIG_F, R = 3, T = 6, MAX = 1024 };

static const double scale = 0.25;

/* Matrices as they lie in memory; of deltas gate, up and down. */
typedef struct weights {
    double router[E * H], base_in[2 * F * H], base_out[H * F];
    double in_a[MAX], a[3][MAX], b[3][MAX], d[MAX], u[MAX], l[MAX];
} weights;

static weights w;

/* w's part of that name is drawn, and so becomes the layer's. */
static void put(moe_rig *rig, const char *name, double *x)
{
    const sy_param *p = sy_params_find(rig->params, name);
    assert_non_null(p);
    assert_true(sy_tensor_numel(&p->value) <= MAX);
    for (int64_t i = 0; i < sy_tensor_numel(&p->value); i++) {
        x[i] = 0.5 * sy_rng_normal(9, sy_rng_stream_of(name), (uint64_t)i);
    }
    assert_int_equal(test_upload(rig->stream, p->value.data, x, sy_tensor_bytes(&p->value)), SY_OK);
}

/* y [rows] += factor W [rows, columns] x. */
static void product(const double *W, const double *x, int32_t rows, int32_t columns, double factor,
                    double *y)
{
    for (int32_t i = 0; i < rows; i++) {
        for (int32_t j = 0; j < columns; j++) {
            y[i] += factor * W[i * columns + j] * x[j];
        }
    }
}

static void activate(const double *h, double *a)
{
    for (int32_t f = 0; f < F; f++) {
        a[f] = h[f] / (1 + exp(-h[f])) * h[F + f];
    }
}

/* Softmax of the logits; only = 2: of the two largest, 0 else. */
static void weigh(const double *x, int32_t only, double *p)
{
    double z[E] = {0}, sum = 0, least = -INFINITY;
    product(w.router, x, E, H, 1, z);
    for (int32_t e = 0; e < E && only > 0; e++) {
        int32_t above = 0;
        for (int32_t i = 0; i < E; i++) {
            above += z[i] > z[e];
        }
        least = above == only - 1 ? z[e] : least;
    }
    for (int32_t e = 0; e < E; e++) {
        p[e] = z[e] >= least ? exp(z[e]) : 0;
        sum += p[e];
    }
    for (int32_t e = 0; e < E; e++) {
        p[e] *= scale / sum;
    }
}

/* y = sum of w_e of MLPs whose three matrices are W + B_e A_e. */
static void plain_lora(const double *x, double *y)
{
    double p[E];
    weigh(x, 2, p);
    for (int32_t e = 0; e < E; e++) {
        double h[2 * F] = {0}, v[2 * R] = {0}, a[F], n[R] = {0};
        product(w.base_in, x, 2 * F, H, 1, h);
        product(w.in_a + e * 2 * R * H, x, 2 * R, H, 1, v);
        product(w.b[0] + e * F * R, v, F, R, 1, h);
        product(w.b[1] + e * F * R, v + R, F, R, 1, h + F);
        activate(h, a);
        product(w.base_out, a, H, F, p[e], y);
        product(w.a[2] + e * R * F, a, R, F, 1, n);
        product(w.b[2] + e * H * R, n, H, R, p[e], y);
    }
}

/* y = m + sum of w_e U_e gelu(D_e m), m what the one MLP gives. */
static void plain_bottleneck(const double *x, double *y)
{
    double p[E], h[2 * F] = {0}, a[F], m[H] = {0};
    weigh(x, 2, p);
    product(w.base_in, x, 2 * F, H, 1, h);
    activate(h, a);
    product(w.base_out, a, H, F, 1, m);
    memcpy(y, m, sizeof m);
    for (int32_t e = 0; e < E; e++) {
        double n[R] = {0};
        product(w.d + e * R * H, m, R, H, 1, n);
        for (int32_t r = 0; r < R; r++) {
            n[r] *= 0.5 * (1 + erf(n[r] / sqrt(2)));
        }
        product(w.u + e * H * R, n, H, R, p[e], y);
    }
}

/* y += sum of w_e B_e A_e x; a [E, R, in], b [out, E, R]. */
static void mixed(const double *p, const double *a, const double *b, const double *x, int32_t in,
                  int32_t out, double *y)
{
    for (int32_t e = 0; e < E; e++) {
        double n[R] = {0};
        product(a + e * R * in, x, R, in, p[e], n);
        for (int32_t i = 0; i < out; i++) {
            product(b + (i * E + e) * R, n, 1, R, 1, y + i);
        }
    }
}

static void plain_molora(const double *x, double *y)
{
    double p[E], h[2 * F] = {0}, a[F];
    weigh(x, 0, p);
    product(w.base_in, x, 2 * F, H, 1, h);
    mixed(p, w.a[0], w.b[0], x, H, F, h);
    mixed(p, w.a[1], w.b[1], x, H, F, h + F);
    activate(h, a);
    product(w.base_out, a, H, F, 1, y);
    mixed(p, w.a[2], w.b[2], a, F, H, y);
}

static void plain_mov(const double *x, double *y)
{
    double p[E], h[2 * F] = {0}, a[F];
    weigh(x, 0, p);
    product(w.base_in, x, 2 * F, H, 1, h);
    activate(h, a);
    for (int32_t f = 0; f < F; f++) {
        double factor = 0;
        for (int32_t e = 0; e < E; e++) {
            factor += p[e] * w.l[e * F + f];
        }
        a[f] *= factor;
    }
    product(w.base_out, a, H, F, 1, y);
}

typedef struct part {
    const char *name;
    double *x;
} part;

static const struct {
    const char *set[6];
    part parts[8];
    void (*plain)(const double *x, double *y);
} cases[] = {
    {{"moe.adapter_rank=3"},
     {{"layer/moe/experts/in_a", w.in_a},
      {"layer/moe/experts/gate_b", w.b[0]},
      {"layer/moe/experts/up_b", w.b[1]},
      {"layer/moe/experts/down_a", w.a[2]},
      {"layer/moe/experts/down_b", w.b[2]}},
     plain_lora},
    {{"moe.adapter_kind=bottleneck", "moe.adapter_rank=3"},
     {{"layer/moe/experts/adapter_in", w.d}, {"layer/moe/experts/adapter_out", w.u}},
     plain_bottleneck},
    {{"moe.router=soft", "moe.adapter_kind=molora", "moe.adapter_rank=3"},
     {{"layer/moe/adapters/gate_a", w.a[0]},
      {"layer/moe/adapters/gate_b", w.b[0]},
      {"layer/moe/adapters/up_a", w.a[1]},
      {"layer/moe/adapters/up_b", w.b[1]},
      {"layer/moe/adapters/down_a", w.a[2]},
      {"layer/moe/adapters/down_b", w.b[2]}},
     plain_molora},
    {{"moe.router=soft", "moe.adapter_kind=mov"}, {{"layer/moe/adapters/scale", w.l}}, plain_mov},
};

static void layer_of_every_kind_of_adapters_is_its_formula(void **state)
{
    (void)state;
    static rig_tokens in;
    static rig_result got;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *set[10] = {"moe.experts=4", "moe.expert_hidden=6", "moe.routed_scale=0.25"};
        sy_config *config = NULL;
        sy_comm *world = NULL;
        moe_rig rig;
        memcpy(set + 3, cases[i].set, sizeof cases[i].set);
        assert_int_equal(configure(set, &config), SY_OK);
        assert_int_equal(sy_comm_world(false, &world), SY_OK);
        const sy_moe_config *moe = sy_config_get(config, "moe");
        assert_int_equal(
            rig_open(&rig, &(rig_spec){.moe = *moe, .backend = "ref", .world = world, .ep = 1}),
            SY_OK);
        put(&rig, "layer/moe/router", w.router);
        put(&rig, "layer/moe/base/gate_up", w.base_in);
        put(&rig, "layer/moe/base/down", w.base_out);
        for (const part *p = cases[i].parts; p->name != NULL; p++) {
            put(&rig, p->name, p->x);
        }
        rig_draw_tokens(4, 1, T, &in);
        assert_int_equal(rig_train(&rig, &in, 1.0 / T, &got), SY_OK);
        for (int32_t t = 0; t < T; t++) {
            double y[H] = {0};
            cases[i].plain(in.x + t * H, y);
            if (!(rig_gap(got.y + t * H, y, H) <= 1e-12)) {
                fail_msg("%s: token %d is not the formula's", cases[i].set[0], t);
            }
        }
        rig_close(&rig);
        sy_comm_destroy(&world);
        sy_config_destroy(&config);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layer_of_every_kind_of_adapters_is_its_formula),
    };
    return cmocka_run_group_tests_name("adapters", tests, NULL, NULL);
}

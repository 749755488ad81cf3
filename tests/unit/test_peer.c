/* PEER's output is the plain formula with all n^2 experts scored one by one: the choice by halves
   finds the best of all. Gradients are in test_moe_gradient, layouts in tests/mpi. Settings that do
   not go together are refused with those that do. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/rng.h"
#include "train/engine.h"

enum { H = 8, T = 12, N = 5, N_EXPERTS = N * N, HEADS = 2, K = 3, D = 6, HALF = D / 2 };

static const char config_text[] =
    "run: {seed: 3}\n"
    "device: {backend: ref, threads: 1}\n"
    "model: {vocab_size: 256, hidden: 8, layers: 1, heads: 2, ffn_hidden: 10, seq_len: 6,"
    " peer_keys: 5, peer_heads: 2, peer_top_k: 3, peer_query: 6}\n"
    "train: {steps: 1, global_batch: 2, micro_batch: 2}\n";

/* The parameters, in the order in which they are drawn. */
typedef struct weights {
    double query[HEADS * D * H], norm[D], keys[2][N * HALF], u[N_EXPERTS * H], v[N_EXPERTS * H];
} weights;

static void must(sy_status st)
{
    if (st != SY_OK) {
        print_error("%s\n", sy_error_message());
        fail();
    }
}

static void draw(sy_engine *e, const char *name, double *to, int64_t n)
{
    char full[64];
    snprintf(full, sizeof full, "layers/000/peer/%s", name);
    for (int32_t i = 0; i < e->params->n; i++) {
        const sy_param *p = e->params->param[i];
        if (strcmp(p->spec.name, full) == 0) {
            assert_int_equal(sy_tensor_numel(&p->value), n);
            for (int64_t k = 0; k < n; k++) {
                to[k] = sy_rng_normal(41, sy_rng_stream_of(full), (uint64_t)k);
            }
            must(sy_copy_h2d(e->compute_stream, p->value.data, to, n * (int64_t)sizeof *to));
            must(sy_stream_sync(e->compute_stream));
            return;
        }
    }
    fail_msg("no parameter %s", full);
}

/* q [D] of a head: projected and normed. */
static void query_of(const weights *w, const double *x, int32_t head, double *q)
{
    double squares = 0;
    for (int32_t d = 0; d < D; d++) {
        q[d] = 0;
        for (int32_t h = 0; h < H; h++) {
            q[d] += w->query[(head * D + d) * H + h] * x[h];
        }
        squares += q[d] * q[d];
    }
    for (int32_t d = 0; d < D; d++) {
        q[d] *= w->norm[d] / sqrt(squares / D + 1e-5);
    }
}

static void add_head(const weights *w, const double *x, int32_t head, double *y)
{
    double q[D], score[N_EXPERTS] = {0}, sum = 0;
    bool chosen[N_EXPERTS] = {false};
    query_of(w, x, head, q);
    for (int32_t i = 0; i < N_EXPERTS; i++) {
        for (int32_t d = 0; d < HALF; d++) {
            score[i] += q[d] * w->keys[0][i / N * HALF + d];
            score[i] += q[HALF + d] * w->keys[1][i % N * HALF + d];
        }
    }
    for (int32_t k = 0; k < K; k++) {
        int32_t best = -1;
        for (int32_t i = 0; i < N_EXPERTS; i++) {
            best = !chosen[i] && (best < 0 || score[i] > score[best]) ? i : best;
        }
        chosen[best] = true;
        sum += exp(score[best]);
    }
    for (int32_t i = 0; i < N_EXPERTS; i++) {
        double z = 0;
        for (int32_t h = 0; h < H; h++) {
            z += w->u[i * H + h] * x[h];
        }
        const double a = chosen[i] ? exp(score[i]) / sum * z * 0.5 * erfc(-z / sqrt(2.0)) : 0;
        for (int32_t h = 0; h < H; h++) {
            y[h] += a * w->v[i * H + h];
        }
    }
}

static void forward(sy_engine *e, const double *x, double *y)
{
    int32_t ids[T] = {0}, pos[T] = {0};
    int64_t token_glb[T] = {0};
    const sy_batch batch = {
        .B = 2, .S = T / 2, .ids = ids, .targets = ids, .pos = pos, .token_glb = token_glb};
    const sy_sublayer *ffn = &e->model->block[0].ffn;
    sy_tensor in, out;
    sy_pass p;
    must(sy_engine_begin(e, SY_PASS_EVAL, &batch, 1, 0, &p));
    must(sy_arena_2d(p.scratch, SY_F64, T, H, &in));
    must(sy_arena_2d(p.scratch, SY_F64, T, H, &out));
    must(sy_copy_h2d(p.stream, in.data, x, sy_tensor_bytes(&in)));
    must(ffn->ops->forward(ffn->self, &p, &in, &out, NULL));
    must(sy_copy_d2h(p.stream, y, out.data, sy_tensor_bytes(&out)));
    must(sy_stream_sync(p.stream));
    must(sy_engine_end(e, &p));
}

static void output_is_the_plain_formula_over_all_experts(void **state)
{
    (void)state;
    static weights w;
    double x[T * H], y[T * H], wanted[T * H] = {0}, largest = 0;
    sy_run_settings settings;
    sy_comm *world = NULL;
    sy_engine *e = NULL;
    must(sy_comm_world(false, &world));
    must(sy_run_settings_parse(config_text, sizeof config_text - 1, "test", NULL, 0, &settings));
    sy_engine_spec spec = {.settings = &settings,
                           .world = world,
                           .use = SY_USE_TRAIN,
                           .B = 2,
                           .S = T / 2,
                           .threads = 1};
    must(sy_engine_create(&spec, &e));
    draw(e, "query", w.query, HEADS * D * H);
    draw(e, "query_norm", w.norm, D);
    draw(e, "keys_0", w.keys[0], N * HALF);
    draw(e, "keys_1", w.keys[1], N * HALF);
    draw(e, "u", w.u, N_EXPERTS * H);
    draw(e, "v", w.v, N_EXPERTS * H);
    for (int32_t i = 0; i < T * H; i++) {
        x[i] = sy_rng_normal(43, SY_RNG_TEST, (uint64_t)i);
    }
    forward(e, x, y);
    for (int32_t t = 0; t < T; t++) {
        for (int32_t head = 0; head < HEADS; head++) {
            add_head(&w, x + t * H, head, wanted + t * H);
        }
    }
    for (int32_t i = 0; i < T * H; i++) {
        largest = fmax(largest, fabs(wanted[i]));
        assert_true(fabs(y[i] - wanted[i]) <= 1e-12 * (1 + fabs(wanted[i])));
    }
    assert_true(largest > 1);
    /* query, all sub-keys for each head, chosen neurons; attention and head beside */
    int64_t active = 0;
    sy_engine_flops_per_token(e, &active);
    assert_int_equal(active, HEADS * (D * H + D * N + 2 * H * K) + 4 * H * H + 256 * H);
    sy_engine_destroy(&e);
    sy_run_settings_free(&settings);
    sy_comm_destroy(&world);
}

static void settings_that_do_not_go_together_are_refused_with_those_that_do(void **state)
{
    (void)state;
    static const struct {
        const char *set, *says;
    } cases[] = {
        {"model.peer_top_k=6", "set it to 5 or less"},
        {"model.peer_query=7", "set it to 8"},
        {"model.peer_layers=[1]", "model.peer_layers"},
        {"model.peer_layers=every:2", "model.peer_layers names none of the 1 layers"},
        {"moe.experts=4", "layer 0 is in moe.layers and in model.peer_layers"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sy_run_settings settings;
        sy_error_clear();
        assert_int_equal(sy_run_settings_parse(config_text, sizeof config_text - 1, "test",
                                               &cases[i].set, 1, &settings),
                         SY_ERR_USAGE);
        assert_non_null(strstr(sy_error_message(), cases[i].says));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(output_is_the_plain_formula_over_all_experts),
        cmocka_unit_test(settings_that_do_not_go_together_are_refused_with_those_that_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

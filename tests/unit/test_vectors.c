/* MoV's vectors on keys and values against the plain formula, for each head and token; then on the
   attention that holds them: with one vector they are a change of its projections. Gradients are in
   test_moe_gradient, layouts in tests/mpi. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/rng.h"
#include "moe/vectors.h"
#include "train/engine.h"

enum { B = 2, S = 6, T = B * S, H = 8, G = 2, D = 4, E = 3, N_KV = G * D, MAX_SET = 4 };

static const char config_text[] =
    "run: {seed: 3}\n"
    "device: {backend: ref, threads: 1}\n"
    "model: {vocab_size: 256, hidden: 8, layers: 1, heads: 2, ffn_hidden: 10, seq_len: 6,"
    " attention_bias: true, qk_norm: head}\n"
    "moe: {router: soft, adapter_kind: mov, adapter_attention: true}\n"
    "train: {steps: 1, global_batch: 2, micro_batch: 2}\n";

typedef struct rig {
    sy_run_settings settings;
    sy_comm *world;
    sy_engine *e;
} rig;

static void must(sy_status st)
{
    if (st != SY_OK) {
        print_error("%s\n", sy_error_message());
        fail();
    }
}

static void open_rig(rig *r, const char *const *set, int32_t n)
{
    *r = (rig){0};
    must(sy_comm_world(false, &r->world));
    must(sy_run_settings_parse(config_text, sizeof config_text - 1, "test", set, n, &r->settings));
    must(sy_engine_create(&(sy_engine_spec){.settings = &r->settings,
                                            .world = r->world,
                                            .use = SY_USE_TRAIN,
                                            .B = B,
                                            .S = S,
                                            .threads = 1},
                          &r->e));
}

static void close_rig(rig *r)
{
    sy_engine_destroy(&r->e);
    sy_run_settings_free(&r->settings);
    sy_comm_destroy(&r->world);
}

static void draw(const char *what, double scale, double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        x[i] = scale * sy_rng_normal(41, sy_rng_stream_of(what), (uint64_t)i);
    }
}

static void put(const rig *r, const sy_tensor *to, const double *x)
{
    must(sy_copy_h2d(r->e->compute_stream, to->data, x, sy_tensor_bytes(to)));
    must(sy_stream_sync(r->e->compute_stream));
}

/* y [n, width] of a sublayer in an evaluation of n tokens. */
static void forward(const rig *r, const sy_sublayer *sub, const double *x, int64_t n, int64_t width,
                    double *y)
{
    int32_t ids[T] = {0}, pos[T];
    int64_t token_glb[T] = {0};
    for (int32_t t = 0; t < T; t++) {
        pos[t] = t % S;
    }
    const sy_batch batch = {.B = (int32_t)(n / S),
                            .S = S,
                            .ids = ids,
                            .targets = ids,
                            .pos = pos,
                            .token_glb = token_glb};
    sy_tensor in, out;
    sy_pass p;
    must(sy_engine_begin(r->e, SY_PASS_EVAL, &batch, 1, 0, &p));
    must(sy_arena_2d(p.scratch, SY_F64, n, width, &in));
    must(sy_arena_2d(p.scratch, SY_F64, n, width, &out));
    must(sy_copy_h2d(p.stream, in.data, x, sy_tensor_bytes(&in)));
    must(sub->ops->forward(sub->self, &p, &in, &out, NULL));
    must(sy_copy_d2h(p.stream, y, out.data, sy_tensor_bytes(&out)));
    must(sy_stream_sync(p.stream));
    must(sy_engine_end(r->e, &p));
}

/* One head of one token. */
static void plain(const double *router, const double *scale, const double *x, double *y)
{
    double p[E], sum = 0;
    for (int32_t e = 0; e < E; e++) {
        double z = 0;
        for (int32_t d = 0; d < D; d++) {
            z += router[e * D + d] * x[d];
        }
        sum += p[e] = exp(z);
    }
    for (int32_t d = 0; d < D; d++) {
        double l = 0;
        for (int32_t e = 0; e < E; e++) {
            l += p[e] / sum * scale[e * D + d];
        }
        y[d] = l * x[d];
    }
}

static void vectors_are_the_plain_formula_of_each_head(void **state)
{
    (void)state;
    rig r;
    sy_sublayer sub = {0};
    sy_params *params = NULL;
    double x[T * N_KV], y[T * N_KV], wanted[T * N_KV], router[E * D], scale[G * E * D];
    const char *const set[2] = {"moe.experts=3", "moe.top_k=3"};
    open_rig(&r, set, 2);
    must(sy_vectors_create(r.settings.model, r.settings.moe, "k", &sub));
    must(sy_params_create(&params));
    must(sub.ops->declare(sub.self, "here", params));
    must(sy_params_bind(
        params, &(sy_bind_spec){.mesh = r.e->mesh, .dev = r.e->dev, .compute = r.e->compute}));
    assert_int_equal(params->n, 2);
    assert_string_equal(params->param[0]->spec.name, "here/moe/adapters/k_router");
    assert_string_equal(params->param[1]->spec.name, "here/moe/adapters/k_scale");
    draw("router", 1, router, E * D);
    draw("scale", 1, scale, G * E * D);
    draw("x", 1, x, T * N_KV);
    put(&r, &params->param[0]->value, router);
    put(&r, &params->param[1]->value, scale);
    forward(&r, &sub, x, T, N_KV, y);
    for (int32_t i = 0; i < T * G; i++) {
        plain(router, scale + i % G * E * D, x + i * D, wanted + i * D);
    }
    for (int32_t i = 0; i < T * N_KV; i++) {
        assert_true(fabs(y[i] - wanted[i]) < 1e-12);
    }
    forward(&r, &sub, x, 0, N_KV, y); /* no tokens */
    sy_params_destroy(&params);
    sub.ops->destroy(sub.self);
    close_rig(&r);
}

/* Keys and values of the attention, rows of its projection and biases, times a vector. */
static void fold(double *qkv, double *bias, const double *on_k, const double *on_v)
{
    for (int32_t i = 0; i < 2 * N_KV; i++) {
        const double l = i < N_KV ? on_k[i] : on_v[i - N_KV];
        bias[N_KV + i] *= l;
        for (int32_t h = 0; h < H; h++) {
            qkv[(N_KV + i) * H + h] *= l;
        }
    }
}

static const sy_tensor *value_of(const rig *r, const char *name)
{
    for (int32_t i = 0; i < r->e->params->n; i++) {
        if (strcmp(r->e->params->param[i]->spec.name, name) == 0) {
            return &r->e->params->param[i]->value;
        }
    }
    fail_msg("no parameter %s", name);
    return NULL;
}

/* y of the attention, its weights drawn; with a vector of its own for keys and for values, or with
   both folded into the weights. */
static void attend(const char *const *set, int32_t n, bool folded, const double *x, double *y)
{
    rig r;
    double qkv[3 * N_KV * H], bias[3 * N_KV], norm[D], o[H * N_KV], on_k[N_KV], on_v[N_KV];
    open_rig(&r, set, n);
    draw("qkv", 0.7, qkv, 3 * N_KV * H);
    draw("bias", 0.5, bias, 3 * N_KV);
    draw("o", 0.5, o, H * N_KV);
    draw("norm", 1, norm, D);
    draw("on_k", 1, on_k, N_KV);
    draw("on_v", 1, on_v, N_KV);
    if (folded) {
        fold(qkv, bias, on_k, on_v);
    } else {
        put(&r, value_of(&r, "layers/000/moe/adapters/k_scale"), on_k);
        put(&r, value_of(&r, "layers/000/moe/adapters/v_scale"), on_v);
    }
    put(&r, value_of(&r, "layers/000/attn/qkv"), qkv);
    put(&r, value_of(&r, "layers/000/attn/qkv_bias"), bias);
    put(&r, value_of(&r, "layers/000/attn/q_norm"), norm);
    put(&r, value_of(&r, "layers/000/attn/k_norm"), norm);
    put(&r, value_of(&r, "layers/000/attn/o"), o);
    forward(&r, &r.e->model->block[0].attn, x, T, H, y);
    close_rig(&r);
}

static void attention_with_one_vector_is_one_of_other_weights(void **state)
{
    (void)state;
    const char *const one[2] = {"moe.experts=1", "moe.top_k=1"};
    const char *const none[3] = {"moe.experts=1", "moe.top_k=1", "moe.adapter_attention=false"};
    double x[T * H], with[T * H], folded[T * H], without = 0;
    draw("x", 1, x, T * H);
    attend(one, 2, false, x, with);
    attend(none, 3, true, x, folded);
    for (int32_t i = 0; i < T * H; i++) {
        assert_true(fabs(with[i] - folded[i]) < 1e-12);
        without = fmax(without, fabs(with[i]));
    }
    assert_true(without > 0.1);
}

static void vectors_on_latent_attention_are_refused(void **state)
{
    (void)state;
    sy_run_settings s = {0};
    const char *const set[] = {"moe.experts=3",
                               "moe.top_k=3",
                               "model.qk_norm=none",
                               "model.attention_bias=false",
                               "model.kv_lora_rank=8",
                               "model.qk_nope_head_dim=4",
                               "model.qk_rope_head_dim=2",
                               "model.v_head_dim=4"};
    const sy_status st =
        sy_run_settings_parse(config_text, sizeof config_text - 1, "test", set, 8, &s);
    assert_int_equal(st, SY_ERR_USAGE);
    assert_non_null(strstr(sy_error_message(), "moe.adapter_attention"));
    assert_non_null(strstr(sy_error_message(), "set it to false"));
    sy_error_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_are_the_plain_formula_of_each_head),
        cmocka_unit_test(attention_with_one_vector_is_one_of_other_weights),
        cmocka_unit_test(vectors_on_latent_attention_are_refused),
    };
    return cmocka_run_group_tests_name("vectors", tests, NULL, NULL);
}

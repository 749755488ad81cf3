/* Who decays: with gradients of 0 an update is the decoupled decay alone, so that each parameter of
   a model that has all kinds of them either shrinks by lr * weight_decay or keeps its bits. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "optim/optimizer.h"
#include "train/engine.h"

static const char config_text[] =
    "device: {backend: ref, threads: 1}\n"
    "model: {vocab_size: 256, hidden: 8, layers: 2, heads: 2, kv_heads: 1, ffn_hidden: 10,"
    " seq_len: 6, qk_norm: head, attention_bias: true}\n"
    "moe: {experts: 4, expert_hidden: 6, layers: [1], shared_experts: 1, shared_gate: true,"
    " bias_update_rate: 0.1}\n"
    "optim: {weight_decay: 0.2}\n";

/* Matrices decay; norms and biases, the one that balances the experts included, do not. */
static const struct {
    const char *name;
    bool decays;
} table[] = {
    {"embed", true},
    {"layers/000/attn_norm", false},
    {"layers/000/attn/qkv", true},
    {"layers/000/attn/qkv_bias", false},
    {"layers/000/attn/q_norm", false},
    {"layers/000/attn/k_norm", false},
    {"layers/000/attn/o", true},
    {"layers/000/ffn_norm", false},
    {"layers/000/mlp/gate_up", true},
    {"layers/000/mlp/down", true},
    {"layers/001/attn_norm", false},
    {"layers/001/attn/qkv", true},
    {"layers/001/attn/qkv_bias", false},
    {"layers/001/attn/q_norm", false},
    {"layers/001/attn/k_norm", false},
    {"layers/001/attn/o", true},
    {"layers/001/ffn_norm", false},
    {"layers/001/moe/router", true},
    {"layers/001/moe/bias", false},
    {"layers/001/moe/experts/gate_up", true},
    {"layers/001/moe/experts/down", true},
    {"layers/001/moe/shared/gate_up", true},
    {"layers/001/moe/shared/down", true},
    {"layers/001/moe/shared/router", true},
    {"norm", false},
    {"head", true},
};
enum { N_PARAMS = sizeof table / sizeof table[0] };

static void must(sy_status st)
{
    if (st != SY_OK) {
        print_error("%s\n", sy_error_message());
        fail();
    }
}

static void fill(sy_engine *e, const sy_param *p)
{
    double x[4096];
    int64_t n = sy_tensor_numel(&p->value);
    assert_true(n <= 4096);
    for (int64_t i = 0; i < n; i++) {
        x[i] = 1 + (double)i / 64;
    }
    must(sy_copy_h2d(e->compute_stream, p->value.data, x, n * (int64_t)sizeof *x));
    must(sy_stream_sync(e->compute_stream));
}

static bool has_shrunk(sy_engine *e, const sy_param *p, double factor)
{
    double x[4096];
    int64_t n = sy_tensor_numel(&p->value);
    bool ok = true;
    must(sy_copy_d2h(e->compute_stream, x, p->value.data, n * (int64_t)sizeof *x));
    must(sy_stream_sync(e->compute_stream));
    for (int64_t i = 0; i < n; i++) {
        double before = 1 + (double)i / 64;
        ok = ok && (factor == 1 ? x[i] == before : fabs(x[i] / (before * factor) - 1) < 1e-14);
    }
    return ok;
}

static void decay_shrinks_matrices_and_nothing_else(void **state)
{
    (void)state;
    sy_run_settings settings = {0};
    sy_comm *world = NULL;
    sy_engine *e = NULL;
    sy_optimizer *opt = NULL;
    must(sy_comm_world(false, &world));
    must(sy_run_settings_parse(config_text, sizeof config_text - 1, "test", NULL, 0, &settings));
    sy_engine_spec spec = {
        .settings = &settings, .world = world, .use = SY_USE_TRAIN, .B = 1, .S = 6, .threads = 1};
    must(sy_engine_create(&spec, &e));
    for (int32_t i = 0; i < e->params->n; i++) {
        fill(e, e->params->param[i]);
    }
    must(sy_optimizer_create(settings.optim, e->params, &opt));
    must(sy_optimizer_sync_masters(opt, e->compute_stream));
    must(sy_optimizer_step(opt, &(sy_update){.lr = 0.5, .grad_scale = 1}, e->compute_stream));
    assert_int_equal(e->params->n, N_PARAMS);
    for (int32_t i = 0; i < N_PARAMS; i++) {
        const sy_param *p = sy_params_find(e->params, table[i].name);
        if (p == NULL || !has_shrunk(e, p, table[i].decays ? 0.9 : 1)) {
            fail_msg("%s %s", table[i].name,
                     p == NULL         ? "is not there"
                     : table[i].decays ? "should have decayed"
                                       : "should have kept its value");
        }
    }
    sy_optimizer_destroy(&opt);
    sy_engine_destroy(&e);
    sy_run_settings_free(&settings);
    sy_comm_destroy(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decay_shrinks_matrices_and_nothing_else),
    };
    return cmocka_run_group_tests_name("optimizer", tests, NULL, NULL);
}

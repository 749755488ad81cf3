/* Upcycling by copies on any layout: the MoE says what the dense model says, whatever its routers
   are; experts are bit for bit the MLP; routers do not know of ranks. */
#include "tests/support/mpi_assert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "parallel/agree.h"
#include "tests/support/test_device.h"
#include "train/probe.h"
#include "upcycle/upcycle.h"

enum { E = 12, L = 3, MAX_SET = 8, SEED = 9 };

static const char *const none[MAX_SET] = {NULL};

static const char config_text[] =
    "run: {seed: 4}\n"
    "device: {threads: 1}\n"
    "model: {vocab_size: 256, hidden: 16, layers: 3, heads: 4, kv_heads: 2, ffn_hidden: 20,"
    " seq_len: 12, init_std: 0.3, attention_bias: true}\n"
    "train: {steps: 1, global_batch: 1, micro_batch: 1}\n";

typedef struct model {
    sy_run_settings settings;
    sy_engine *engine;
} model;

static void open_model(model *m, const char *backend, int32_t experts, int32_t ep,
                       const char *const *set)
{
    char device[48], moe[48], parallel[48];
    const char *overrides[MAX_SET + 3] = {device, moe, parallel};
    int32_t n = 3;
    snprintf(device, sizeof device, "device.backend=%s", backend);
    snprintf(moe, sizeof moe, "moe.experts=%d", experts);
    snprintf(parallel, sizeof parallel, "parallel.ep=%d", ep);
    for (int32_t i = 0; i < MAX_SET && set[i] != NULL; i++) {
        overrides[n++] = set[i];
    }
    assert_all_ok(sy_run_settings_parse(config_text, sizeof config_text - 1, "test", overrides, n,
                                        &m->settings));
    sy_engine_spec spec = {.settings = &m->settings,
                           .world = mpi_test_world(),
                           .use = SY_USE_EVAL,
                           .B = 1,
                           .S = 12,
                           .threads = 1};
    assert_all_ok(sy_engine_create(&spec, &m->engine));
}

static void close_model(model *m)
{
    sy_engine_destroy(&m->engine);
    sy_run_settings_free(&m->settings);
}

static sy_status upcycle(model *dense, model *moe, double std)
{
    sy_upcycle_spec spec = {.dense = dense->engine->params,
                            .moe = moe->engine->params,
                            .dense_stream = dense->engine->compute_stream,
                            .moe_stream = moe->engine->compute_stream,
                            .router_std = std,
                            .seed = SEED};
    return sy_upcycle_copy(&spec);
}

/* A dense model with values, and what it says. */
static void open_dense(model *dense, const char *backend, const char *const *set, sy_probe *says)
{
    static const sy_probe_spec probe = {.n_sequences = 3, .S = 12, .seed = 2};
    open_model(dense, backend, 0, 1, set);
    assert_all_ok(sy_params_init(dense->engine->params, 6, dense->engine->compute_stream));
    assert_all_ok(sy_probe_run(dense->engine, &probe, says));
}

static sy_probe_gap gap_to(model *moe, const sy_probe *dense)
{
    static const sy_probe_spec probe = {.n_sequences = 3, .S = 12, .seed = 2};
    sy_probe says = {0};
    sy_probe_gap gap = {NAN, NAN, NAN, NAN};
    assert_all_ok(sy_probe_run(moe->engine, &probe, &says));
    assert_all_ok(sy_probe_compare(dense, &says, mpi_test_world(), &gap));
    sy_probe_free(&says);
    return gap;
}

typedef struct copy_case {
    const char *set[MAX_SET];
    double std;
    bool preserves;
} copy_case;

static const copy_case copies[] = {
    {{"moe.top_k=2"}, 0.02, true},
    {{"moe.top_k=3", "moe.recv_factor=0.4"}, 5.0, true},
    {{"moe.top_k=2", "moe.layers=[0, 2]"}, 1.0, true},
    {{"moe.top_k=2", "moe.score=sigmoid", "moe.bias_update_rate=0.1"}, 1.0, true},
    {{"moe.top_k=12", "moe.layers=every:2"}, 1.0, true},
    {{"moe.top_k=2", "moe.capacity_factor=0.5"}, 1.0, true}, /* in training only */
    {{"moe.top_k=2", "moe.normalize_weights=false"}, 1.0, false},
    {{"moe.top_k=1"}, 1.0, false},
    {{"moe.top_k=2", "moe.routed_scale=2.0"}, 1.0, false},
    {{"moe.top_k=2", "moe.eval_capacity_factor=0.5", "moe.min_capacity=1"}, 1.0, false},
};

static void copy_on_any_layout_keeps_the_function(void **state)
{
    (void)state;
    const char *device = getenv("SY_TEST_BACKEND");
    const char *backends[2] = {"ref", device != NULL && *device != '\0' ? device : "cpu"};
    const double bounds[2] = {1e-12, 1e-5};
    for (int32_t b = 0; b < 2; b++) {
        model dense, moe;
        sy_probe says = {0};
        open_dense(&dense, backends[b], none, &says);
        for (int32_t ep = 1; ep <= mpi_test_world()->size; ep++) {
            for (size_t i = 0; i < sizeof copies / sizeof copies[0]; i++) {
                if (mpi_test_world()->size % ep != 0) {
                    continue;
                }
                open_model(&moe, backends[b], E, ep, copies[i].set);
                assert_all_ok(upcycle(&dense, &moe, copies[i].std));
                sy_probe_gap gap = gap_to(&moe, &says);
                bool same = gap.logits_rel <= bounds[b] && gap.nll_rel <= bounds[b];
                assert_all(sy_upcycle_preserves(moe.settings.moe) == copies[i].preserves);
                assert_all(same == copies[i].preserves);
                close_model(&moe);
            }
        }
        sy_probe_free(&says);
        close_model(&dense);
    }
}

/* Weights that sum to 1 keep the function to bf16's rounding; others miss it by far. */
static void copy_in_bf16_keeps_the_function_to_its_rounding(void **state)
{
    (void)state;
    static const char *const bf16[MAX_SET] = {"device.precision=bf16"};
    static const char *const sets[2][MAX_SET] = {
        {"device.precision=bf16", "moe.top_k=2"},
        {"device.precision=bf16", "moe.top_k=2", "moe.normalize_weights=false"}};
    const char *device = getenv("SY_TEST_BACKEND");
    const char *backend = device != NULL && *device != '\0' ? device : "cpu";
    int32_t size = mpi_test_world()->size;
    model dense, moe;
    sy_probe says = {0};
    open_dense(&dense, backend, bf16, &says);
    for (int32_t i = 0; i < 2; i++) {
        open_model(&moe, backend, E, E % size == 0 ? size : 1, sets[i]);
        assert_all_ok(upcycle(&dense, &moe, 1.0));
        sy_probe_gap gap = gap_to(&moe, &says);
        assert_all((gap.logits_rel <= 1e-2) == (i == 0));
        close_model(&moe);
    }
    sy_probe_free(&says);
    close_model(&dense);
}

/* ---- values ---- */

static double *fetch(const model *m, const char *name, int64_t *n)
{
    const sy_param *p = sy_params_find(m->engine->params, name);
    double *x = NULL;
    *n = p != NULL ? sy_tensor_numel(&p->value) : 0;
    x = calloc((size_t)*n + 1, sizeof *x);
    if (x != NULL && p != NULL) {
        test_download(m->engine->compute_stream, x, p->value.data, sy_tensor_bytes(&p->value));
    }
    return x;
}

static bool expert_is_mlp(const model *dense, const model *moe, int32_t layer, const char *part)
{
    char of_dense[64], of_moe[64];
    int64_t n = 0, n_all = 0;
    snprintf(of_dense, sizeof of_dense, "layers/%03d/mlp/%s", layer, part);
    snprintf(of_moe, sizeof of_moe, "layers/%03d/moe/experts/%s", layer, part);
    double *mlp = fetch(dense, of_dense, &n), *all = fetch(moe, of_moe, &n_all);
    bool ok = n > 0 && n_all == n * moe->engine->mesh->placement->E_loc;
    for (int64_t i = 0; ok && i < n_all; i++) {
        ok = all[i] == mlp[i % n];
    }
    free(all);
    free(mlp);
    return ok;
}

static bool equal_values(const model *a, const model *b, const char *name)
{
    int64_t n_a = 0, n_b = 0;
    double *x = fetch(a, name, &n_a), *y = fetch(b, name, &n_b);
    bool ok = n_a > 0 && n_a == n_b && memcmp(x, y, (size_t)n_a * sizeof *x) == 0;
    free(y);
    free(x);
    return ok;
}

/* Element i is a function of seed, name and i: worked out here from the definition alone. */
static bool router_is_drawn(const model *moe, const char *name, double std)
{
    int64_t n = 0;
    double *x = fetch(moe, name, &n);
    bool ok = n == E * 16;
    for (int64_t i = 0; ok && i < n; i++) {
        double wanted = std * sy_rng_normal(SEED, sy_rng_stream_of(name), (uint64_t)i);
        ok = fabs(wanted) > 3 * std ? fabs(x[i]) <= 3 * std : x[i] == wanted;
    }
    free(x);
    return ok;
}

static void copy_fills_every_value(void **state)
{
    (void)state;
    static const char *const set[MAX_SET] = {"moe.top_k=2", "moe.layers=[0, 2]",
                                             "moe.bias_update_rate=0.1"};
    static const char *const kept[] = {"embed",
                                       "norm",
                                       "head",
                                       "layers/000/attn_norm",
                                       "layers/001/mlp/gate_up",
                                       "layers/002/attn/qkv_bias",
                                       "layers/001/attn/qkv"};
    int32_t size = mpi_test_world()->size;
    model dense, moe;
    sy_probe says = {0};
    double *bias = NULL;
    int64_t n = 0;
    open_dense(&dense, "ref", none, &says);
    open_model(&moe, "ref", E, E % size == 0 ? size : 1, set);
    assert_all_ok(upcycle(&dense, &moe, 0.5));
    for (int32_t layer = 0; layer <= 2; layer += 2) {
        assert_all(expert_is_mlp(&dense, &moe, layer, "gate_up"));
        assert_all(expert_is_mlp(&dense, &moe, layer, "down"));
    }
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
        assert_all(equal_values(&dense, &moe, kept[i]));
    }
    assert_all(router_is_drawn(&moe, "layers/000/moe/router", 0.5));
    assert_all(router_is_drawn(&moe, "layers/002/moe/router", 0.5));
    bias = fetch(&moe, "layers/002/moe/bias", &n);
    for (int64_t i = 0; i < n; i++) {
        assert_all(bias[i] == 0);
    }
    assert_all(n == E);
    free(bias);
    close_model(&moe);
    sy_probe_free(&says);
    close_model(&dense);
}

static void copy_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *set[MAX_SET];
        const char *word;
    } cases[] = {{{"moe.expert_hidden=18"}, "experts/gate_up"},
                 {{"moe.shared_experts=1"}, "moe/shared"},
                 {{"model.tie_embeddings=true"}, "'head'"},
                 {{"model.vocab_size=300"}, "'embed'"},
                 {{"model.qk_norm=head"}, "q_norm"}};
    model dense, moe;
    sy_probe says = {0};
    open_dense(&dense, "ref", none, &says);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        open_model(&moe, "ref", E, 1, cases[i].set);
        sy_status st = upcycle(&dense, &moe, 0.02);
        bool named = strstr(sy_error_message(), cases[i].word) != NULL;
        assert_all_status(st, SY_ERR_USAGE);
        assert_all(named);
        close_model(&moe);
    }
    sy_probe_free(&says);
    close_model(&dense);
}

/* The receipt must not be blind: one changed weight of one expert of one rank shows. */
static void probe_of_a_changed_expert_sees_it(void **state)
{
    (void)state;
    static const char *const set[MAX_SET] = {"moe.top_k=12"};
    sy_comm *world = mpi_test_world();
    model dense, moe;
    sy_probe says = {0};
    open_dense(&dense, "ref", none, &says);
    open_model(&moe, "ref", E, E % world->size == 0 ? world->size : 1, set);
    assert_all_ok(upcycle(&dense, &moe, 0.02));
    const sy_param *down = sy_params_find(moe.engine->params, "layers/001/moe/experts/down");
    const double changed[2] = {2.0, NAN};
    for (int32_t i = 0; i < 2; i++) {
        sy_status st = SY_OK;
        if (world->rank == world->size - 1) {
            st = test_upload(moe.engine->compute_stream, down->value.data, &changed[i],
                             sizeof changed[i]);
        }
        assert_all_ok(st);
        sy_probe_gap gap = gap_to(&moe, &says);
        assert_all(!(gap.logits_rel <= 1e-6) && !(gap.nll_rel <= 1e-6));
    }
    close_model(&moe);
    sy_probe_free(&says);
    close_model(&dense);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copy_on_any_layout_keeps_the_function),
        cmocka_unit_test(copy_in_bf16_keeps_the_function_to_its_rounding),
        cmocka_unit_test(copy_fills_every_value),
        cmocka_unit_test(copy_that_does_not_fit_is_refused),
        cmocka_unit_test(probe_of_a_changed_expert_sees_it),
    };
    return mpi_test_main("upcycle", tests, sizeof tests / sizeof tests[0]);
}

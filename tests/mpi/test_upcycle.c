/* Upcycling by copies on any layout: the MoE says what the dense model says, whatever its routers
   are; experts are bit for bit the MLP; routers do not know of ranks. */
#include "tests/support/mpi_assert.h"

#include <math.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "core/rng.h"
#include "tests/support/grow_rig.h"
#include "tests/support/test_device.h"

static sy_status upcycle(grow_model *dense, grow_model *moe, double std)
{
    return grow_make(dense, 1, moe, (sy_recipe_spec){.router_std = std});
}

typedef struct copy_case {
    const char *set[GROW_SET];
    double std;
    bool preserves;
} copy_case;

static const copy_case copies[] = {
    {{"moe.top_k=2"}, 0.02, true},
    {{"moe.top_k=3", "moe.recv_factor=0.4"}, 5.0, true},
    {{"moe.top_k=2", "moe.layers=[0, 2]"}, 1.0, true},
    {{"moe.top_k=2", "moe.score=sigmoid", "moe.bias_update_rate=0.1"}, 1.0, true},
    {{"moe.top_k=12", "moe.layers=every:2"}, 1.0, true},
    {{"moe.top_k=2", "moe.capacity_factor=0.5"}, 1.0, true},      /* in training only */
    {{"moe.top_k=12", "moe.normalize_weights=false"}, 1.0, true}, /* a whole softmax */
    {{"moe.top_k=12", "moe.normalize_weights=false", "moe.score=sigmoid"}, 1.0, false},
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
        grow_model dense, moe;
        sy_probe says = {0};
        grow_open_dense(&dense, backends[b], grow_none, &says);
        for (int32_t ep = 1; ep <= mpi_test_world()->size; ep++) {
            for (size_t i = 0; i < sizeof copies / sizeof copies[0]; i++) {
                if (mpi_test_world()->size % ep != 0) {
                    continue;
                }
                grow_open(&moe, backends[b], GROW_E, ep, copies[i].set);
                assert_all_ok(upcycle(&dense, &moe, copies[i].std));
                sy_probe_gap gap = grow_gap(&moe, &says);
                bool same = gap.logits_rel <= bounds[b] && gap.nll_rel <= bounds[b];
                assert_all(moe.preserves == copies[i].preserves);
                assert_all(same == copies[i].preserves);
                grow_close(&moe);
            }
        }
        sy_probe_free(&says);
        grow_close(&dense);
    }
}

/* Routers decide who computes, never what; with logits of hundreds too. */
static void copy_of_any_number_of_experts_and_any_router_keeps_the_function(void **state)
{
    (void)state;
    static const int32_t experts[] = {1, 2, 3, 5, 8, 24};
    static const sy_recipe_spec routers[] = {{.router_std = 0, .seed = 1},
                                             {.router_std = 0.02, .seed = 2},
                                             {.router_std = 100, .seed = UINT64_MAX}};
    const int32_t size = mpi_test_world()->size;
    grow_model dense, moe;
    sy_probe says = {0};
    grow_open_dense(&dense, "ref", grow_none, &says);
    for (size_t i = 0; i < sizeof experts / sizeof experts[0]; i++) {
        const char *const set[GROW_SET] = {experts[i] > 1 ? "moe.top_k=2" : "moe.top_k=1"};
        for (int32_t ep = 1; ep <= size; ep++) {
            if (size % ep != 0 || experts[i] % ep != 0) {
                continue;
            }
            grow_open(&moe, "ref", experts[i], ep, set);
            assert_all_ok(grow_make(&dense, 1, &moe, routers[(i + (size_t)ep) % 3]));
            assert_all(moe.preserves && grow_gap(&moe, &says).logits_rel <= 1e-12);
            grow_close(&moe);
        }
    }
    sy_probe_free(&says);
    grow_close(&dense);
}

/* Weights that sum to 1 keep the function to bf16's rounding; others miss it by far. */
static void copy_in_bf16_keeps_the_function_to_its_rounding(void **state)
{
    (void)state;
    static const char *const bf16[GROW_SET] = {"device.precision=bf16"};
    static const char *const sets[2][GROW_SET] = {
        {"device.precision=bf16", "moe.top_k=2"},
        {"device.precision=bf16", "moe.top_k=2", "moe.normalize_weights=false"}};
    const char *device = getenv("SY_TEST_BACKEND");
    const char *backend = device != NULL && *device != '\0' ? device : "cpu";
    int32_t size = mpi_test_world()->size;
    grow_model dense, moe;
    sy_probe says = {0};
    grow_open_dense(&dense, backend, bf16, &says);
    for (int32_t i = 0; i < 2; i++) {
        grow_open(&moe, backend, GROW_E, GROW_E % size == 0 ? size : 1, sets[i]);
        assert_all_ok(upcycle(&dense, &moe, 1.0));
        sy_probe_gap gap = grow_gap(&moe, &says);
        assert_all((gap.logits_rel <= 1e-2) == (i == 0));
        grow_close(&moe);
    }
    sy_probe_free(&says);
    grow_close(&dense);
}

/* ---- values ---- */

static bool expert_is_mlp(const grow_model *dense, const grow_model *moe, int32_t layer,
                          const char *part)
{
    char of_dense[64], of_moe[64];
    int64_t n = 0, n_all = 0;
    snprintf(of_dense, sizeof of_dense, "layers/%03d/mlp/%s", layer, part);
    snprintf(of_moe, sizeof of_moe, "layers/%03d/moe/experts/%s", layer, part);
    double *mlp = grow_fetch(dense, of_dense, &n), *all = grow_fetch(moe, of_moe, &n_all);
    bool ok = n > 0 && n_all == n * moe->engine->mesh->placement->E_loc;
    for (int64_t i = 0; ok && i < n_all; i++) {
        ok = all[i] == mlp[i % n];
    }
    free(all);
    free(mlp);
    return ok;
}

static bool equal_values(const grow_model *a, const grow_model *b, const char *name)
{
    int64_t n_a = 0, n_b = 0;
    double *x = grow_fetch(a, name, &n_a), *y = grow_fetch(b, name, &n_b);
    bool ok = n_a > 0 && n_a == n_b && memcmp(x, y, (size_t)n_a * sizeof *x) == 0;
    free(y);
    free(x);
    return ok;
}

/* Element i is a function of seed, name and i: worked out here from the definition alone. */
static bool router_is_drawn(const grow_model *moe, const char *name, double std)
{
    int64_t n = 0;
    double *x = grow_fetch(moe, name, &n);
    bool ok = n == GROW_E * 16;
    for (int64_t i = 0; ok && i < n; i++) {
        double wanted = std * sy_rng_normal(GROW_SEED, sy_rng_stream_of(name), (uint64_t)i);
        ok = fabs(wanted) > 3 * std ? fabs(x[i]) <= 3 * std : x[i] == wanted;
    }
    free(x);
    return ok;
}

static void copy_fills_every_value(void **state)
{
    (void)state;
    static const char *const set[GROW_SET] = {"moe.top_k=2", "moe.layers=[0, 2]",
                                              "moe.bias_update_rate=0.1"};
    static const char *const kept[] = {"embed",
                                       "norm",
                                       "head",
                                       "layers/000/attn_norm",
                                       "layers/001/mlp/gate_up",
                                       "layers/002/attn/qkv_bias",
                                       "layers/001/attn/qkv"};
    int32_t size = mpi_test_world()->size;
    grow_model dense, moe;
    sy_probe says = {0};
    double *bias = NULL;
    int64_t n = 0;
    grow_open_dense(&dense, "ref", grow_none, &says);
    grow_open(&moe, "ref", GROW_E, GROW_E % size == 0 ? size : 1, set);
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
    bias = grow_fetch(&moe, "layers/002/moe/bias", &n);
    for (int64_t i = 0; i < n; i++) {
        assert_all(bias[i] == 0);
    }
    assert_all(n == GROW_E);
    free(bias);
    grow_close(&moe);
    sy_probe_free(&says);
    grow_close(&dense);
}

static void copy_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *set[GROW_SET];
        const char *word;
    } cases[] = {{{"moe.expert_hidden=18"}, "experts/down"},
                 {{"moe.shared_experts=2"}, "moe/shared"},
                 {{"model.tie_embeddings=true"}, "'head'"},
                 {{"model.vocab_size=200", "data.tokenizer=none"}, "'embed'"},
                 {{"model.qk_norm=head"}, "k_norm"}};
    grow_model dense, moe;
    sy_probe says = {0};
    grow_open_dense(&dense, "ref", grow_none, &says);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        grow_open(&moe, "ref", GROW_E, 1, cases[i].set);
        sy_status st = upcycle(&dense, &moe, 0.02);
        bool named = strstr(sy_error_message(), cases[i].word) != NULL;
        assert_all_status(st, SY_ERR_USAGE);
        assert_all(named);
        grow_close(&moe);
    }
    sy_probe_free(&says);
    grow_close(&dense);
}

/* The receipt must not be blind: one changed weight of one expert of one rank shows. */
static void probe_of_a_changed_expert_sees_it(void **state)
{
    (void)state;
    static const char *const set[GROW_SET] = {"moe.top_k=12"};
    sy_comm *world = mpi_test_world();
    grow_model dense, moe;
    sy_probe says = {0};
    grow_open_dense(&dense, "ref", grow_none, &says);
    grow_open(&moe, "ref", GROW_E, GROW_E % world->size == 0 ? world->size : 1, set);
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
        sy_probe_gap gap = grow_gap(&moe, &says);
        assert_all(!(gap.logits_rel <= 1e-6) && !(gap.nll_rel <= 1e-6));
    }
    grow_close(&moe);
    sy_probe_free(&says);
    grow_close(&dense);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        GROW_CASE(copy_on_any_layout_keeps_the_function),
        GROW_CASE(copy_of_any_number_of_experts_and_any_router_keeps_the_function),
        GROW_CASE(copy_in_bf16_keeps_the_function_to_its_rounding),
        GROW_CASE(copy_fills_every_value),
        GROW_CASE(copy_that_does_not_fit_is_refused),
        GROW_CASE(probe_of_a_changed_expert_sees_it),
    };
    return mpi_test_main("upcycle", tests, sizeof tests / sizeof tests[0]);
}

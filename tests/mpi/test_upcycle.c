/* Upcycling by copies on any layout: the MoE says what the dense model says, whatever its routers
   are; experts are bit for bit the MLP; routers do not know of ranks. */
#include "tests/support/mpi_assert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint.h"
#include "core/alloc.h"
#include "core/rng.h"
#include "parallel/agree.h"
#include "tests/support/scratch.h"
#include "tests/support/test_device.h"
#include "train/probe.h"
#include "upcycle/recipe.h"

enum { E = 12, L = 3, MAX_SET = 8, SEED = 9, MAX_SOURCES = 3 };

static bool preserves; /* what the recipe of the last model says */

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

/* ---- by way of files, as the command does it ---- */

static char folder[SCRATCH_PATH];

static int open_folder(void **state)
{
    sy_comm *world = mpi_test_world();
    bool ok = world->rank != 0 || scratch_setup(state) == 0;
    if (ok && world->rank == 0) {
        snprintf(folder, sizeof folder, "%s", ((scratch *)*state)->dir);
    }
    assert_all(ok);
    assert_all_ok(sy_host_broadcast(world, folder, sizeof folder, 0, "scratch folder"));
    return 0;
}

static int close_folder(void **state)
{
    bool ok = mpi_test_world()->rank != 0 || scratch_teardown(state) == 0;
    assert_all(ok);
    return 0;
}

static sy_status walk(void *self, sy_emit *emit, void *to)
{
    return sy_params_walk(((model *)self)->engine->params, "model", emit, to);
}

static sy_status save(model *m, const char *path)
{
    sy_status st = SY_OK;
    sy_owner owner = {.name = "model", .self = m, .walk = walk};
    sy_state state = {.owners = &owner, .n_owners = 1, .kind = "model"};
    char *yaml = NULL;
    SY_TRY(sy_config_echo(m->settings.config, &yaml));
    state.config_yaml = yaml;
    SY_TRY(sy_checkpoint_save(path, &state, mpi_test_world()));
cleanup:
    sy_free(&yaml);
    return st;
}

static sy_status load(model *m, const char *path)
{
    sy_owner owner = {.name = "model", .self = m, .walk = walk};
    sy_state state = {.owners = &owner, .n_owners = 1, .kind = "model"};
    return sy_checkpoint_load(path, &state, SY_LOAD_MODEL, mpi_test_world());
}

/* Sources as files d0, d1, ...; the recipe fills moe. */
static sy_status grow(model *dense, int32_t n, model *moe, sy_recipe_spec spec)
{
    sy_status st = SY_OK;
    sy_comm *world = mpi_test_world();
    sy_source *source[MAX_SOURCES] = {NULL};
    int32_t expert_source[E];
    sy_recipe *recipe = NULL;
    sy_transfer_receipt receipt;
    sy_tokenizer_files files = {0};
    char path[2 * SCRATCH_PATH];
    for (int32_t i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/d%d.h5", folder, i);
        SY_TRY(save(&dense[i], path));
        SY_TRY(sy_source_open(path, world, &source[i]));
        SY_TRY(sy_source_bind(source[i], dense[i].settings.model, dense[i].settings.moe, world));
    }
    for (int32_t e = 0; e < E; e++) {
        expert_source[e] = e % n;
    }
    spec.source = source;
    spec.n_sources = n;
    spec.model = moe->settings.model;
    spec.moe = moe->settings.moe;
    spec.expert_source = moe->settings.moe->experts > 0 ? expert_source : NULL;
    spec.granularity = spec.granularity > 0 ? spec.granularity : 1;
    spec.seed = SEED;
    preserves = sy_recipe_preserves(&spec);
    SY_TRY(sy_agree(world, sy_recipe_create(&spec, &recipe)));
    snprintf(path, sizeof path, "%s/moe.h5", folder);
    SY_TRY(sy_build(&(sy_build_spec){.plan = sy_recipe_plan(recipe),
                                     .make = sy_recipe_make,
                                     .self = recipe,
                                     .out = path,
                                     .config_yaml = "run: {name: moe}\n",
                                     .files = &files,
                                     .comm = world},
                    &receipt));
    SY_TRY(load(moe, path));
cleanup:
    sy_recipe_destroy(&recipe);
    for (int32_t i = 0; i < n; i++) {
        sy_source_close(&source[i]);
    }
    return st;
}

static sy_status upcycle(model *dense, model *moe, double std)
{
    return grow(dense, 1, moe, (sy_recipe_spec){.router_std = std});
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
                assert_all(preserves == copies[i].preserves);
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
    } cases[] = {{{"moe.expert_hidden=18"}, "experts/down"},
                 {{"moe.shared_experts=1"}, "moe/shared"},
                 {{"model.tie_embeddings=true"}, "'head'"},
                 {{"model.vocab_size=300"}, "'embed'"},
                 {{"model.qk_norm=head"}, "k_norm"}};
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

/* ---- the other methods ---- */

static double relative_gap(model *dense, int32_t n, const sy_probe *says, sy_recipe_spec spec,
                           const char *const *set)
{
    int32_t size = mpi_test_world()->size;
    model moe;
    open_model(&moe, "ref", E, E % size == 0 ? size : 1, set);
    assert_all_ok(grow(dense, n, &moe, spec));
    double gap = gap_to(&moe, says).logits_rel;
    close_model(&moe);
    return gap;
}

/* Whole copies of narrow experts are the dense MLP; a part of one is not. */
static void granular_experts_in_whole_copies_keep_the_function(void **state)
{
    (void)state;
    static const char *const whole[MAX_SET] = {"moe.top_k=4", "moe.expert_hidden=10"};
    static const char *const part[MAX_SET] = {"moe.top_k=3", "moe.expert_hidden=10"};
    static const char *const four[MAX_SET] = {"moe.top_k=8", "moe.expert_hidden=5"};
    sy_recipe_spec spec = {.method = SY_UPCYCLE_GRANULAR, .granularity = 2, .router_std = 1};
    model dense;
    sy_probe says = {0};
    open_dense(&dense, "ref", none, &says);
    assert_all(relative_gap(&dense, 1, &says, spec, whole) <= 1e-12 && preserves);
    assert_all(relative_gap(&dense, 1, &says, spec, part) > 1e-3 && !preserves);
    spec.granularity = 4;
    assert_all(relative_gap(&dense, 1, &says, spec, four) <= 1e-12 && preserves);
    sy_probe_free(&says);
    close_model(&dense);
}

static void methods_that_change_nothing_keep_the_function_exactly(void **state)
{
    (void)state;
    static const char *const set[MAX_SET] = {"moe.top_k=2"};
    model dense;
    sy_probe says = {0};
    open_dense(&dense, "ref", none, &says);
    sy_recipe_spec spec = {.method = SY_UPCYCLE_DROP, .drop_ratio = 0, .router_std = 1};
    assert_all(relative_gap(&dense, 1, &says, spec, set) <= 1e-12);
    spec.drop_ratio = 0.5;
    assert_all(relative_gap(&dense, 1, &says, spec, set) > 1e-2);
    spec = (sy_recipe_spec){.method = SY_UPCYCLE_NOISE, .noise_std = 0, .router_std = 1};
    assert_all(relative_gap(&dense, 1, &says, spec, set) <= 1e-12);
    spec.noise_std = 0.1;
    assert_all(relative_gap(&dense, 1, &says, spec, set) > 1e-3);
    sy_probe_free(&says);
    close_model(&dense);
}

/* Half of the hidden units of each expert are the dense model's, in gate, up and down alike; the
   others have nothing of it. */
static void dropped_units_are_the_same_in_all_three_matrices(void **state)
{
    (void)state;
    enum { F = 20, H = 16 };
    static const char *const set[MAX_SET] = {"moe.top_k=2"};
    model dense, moe;
    sy_probe says = {0};
    int64_t n = 0;
    int32_t kept_by_expert[E] = {0}, patterns = 0;
    open_dense(&dense, "ref", none, &says);
    open_model(&moe, "ref", E, 1, set);
    assert_all_ok(
        grow(&dense, 1, &moe, (sy_recipe_spec){.method = SY_UPCYCLE_DROP, .drop_ratio = 0.5}));
    double *in = fetch(&dense, "layers/001/mlp/gate_up", &n);
    double *out = fetch(&dense, "layers/001/mlp/down", &n);
    double *ins = fetch(&moe, "layers/001/moe/experts/gate_up", &n);
    double *outs = fetch(&moe, "layers/001/moe/experts/down", &n);
    bool alike = true;
    uint32_t pattern[E] = {0};
    for (int32_t e = 0; e < E; e++) {
        for (int32_t f = 0; f < F; f++) {
            const double *gate = &ins[((int64_t)e * 2 * F + f) * H], *up = gate + (int64_t)F * H;
            bool same = memcmp(gate, &in[(int64_t)f * H], H * sizeof *gate) == 0;
            bool up_same = memcmp(up, &in[(int64_t)(F + f) * H], H * sizeof *up) == 0;
            for (int32_t h = 0; h < H; h++) {
                bool down_same = outs[((int64_t)e * H + h) * F + f] == out[(int64_t)h * F + f];
                alike = alike && down_same == same && (gate[h] == in[f * H + h]) == same;
            }
            alike = alike && up_same == same;
            kept_by_expert[e] += same;
            pattern[e] |= (uint32_t)same << f;
        }
        alike = alike && kept_by_expert[e] == F / 2;
        patterns += e > 0 && pattern[e] != pattern[e - 1];
    }
    assert_all(alike);
    assert_all(patterns > E / 2);
    free(outs);
    free(ins);
    free(out);
    free(in);
    close_model(&moe);
    sy_probe_free(&says);
    close_model(&dense);
}

/* ---- several sources ---- */

static void open_three(model *dense, sy_probe *says, bool equal)
{
    for (int32_t i = 0; i < MAX_SOURCES; i++) {
        sy_probe_free(says);
        open_dense(&dense[i], "ref", none, says);
        assert_all_ok(sy_params_init(dense[i].engine->params, equal ? 6 : 6 + (uint64_t)i,
                                     dense[i].engine->compute_stream));
    }
}

static void mix_of_equal_sources_is_the_source(void **state)
{
    (void)state;
    static const char *const set[MAX_SET] = {"moe.top_k=2"};
    model dense[MAX_SOURCES];
    sy_probe says = {0};
    open_three(dense, &says, true);
    assert_all(relative_gap(dense, MAX_SOURCES, &says,
                            (sy_recipe_spec){.base = -1, .router_std = 1}, set) <= 1e-12);
    for (int32_t i = 0; i < MAX_SOURCES; i++) {
        close_model(&dense[i]);
    }
    sy_probe_free(&says);
}

/* Experts bit for bit from their sources, the rest their mean, or one source's. */
static void mix_takes_experts_from_each_and_the_mean_of_the_rest(void **state)
{
    (void)state;
    static const char *const set[MAX_SET] = {"moe.top_k=2", "moe.layers=[1]"};
    model dense[MAX_SOURCES], moe;
    sy_probe says = {0};
    open_three(dense, &says, false);
    for (int32_t base = -1; base < MAX_SOURCES; base++) {
        int64_t n = 0, n_all = 0;
        double *of[MAX_SOURCES], *mean = NULL, *all = NULL;
        bool ok = true;
        open_model(&moe, "ref", E, 1, set);
        assert_all_ok(grow(dense, MAX_SOURCES, &moe, (sy_recipe_spec){.base = base}));
        for (int32_t i = 0; i < MAX_SOURCES; i++) {
            of[i] = fetch(&dense[i], "layers/000/attn/qkv", &n);
        }
        mean = fetch(&moe, "layers/000/attn/qkv", &n);
        for (int64_t i = 0; i < n; i++) {
            double sum = ((0.0 + of[0][i]) + of[1][i]) + of[2][i];
            ok = ok && mean[i] == (base < 0 ? sum / MAX_SOURCES : of[base][i]);
        }
        free(mean);
        for (int32_t i = 0; i < MAX_SOURCES; i++) {
            free(of[i]);
            of[i] = fetch(&dense[i], "layers/001/mlp/down", &n);
        }
        all = fetch(&moe, "layers/001/moe/experts/down", &n_all);
        for (int64_t i = 0; i < n_all; i++) {
            ok = ok && all[i] == of[i / n % MAX_SOURCES][i % n];
        }
        free(all);
        for (int32_t i = 0; i < MAX_SOURCES; i++) {
            free(of[i]);
        }
        assert_all(ok && n_all == E * n);
        close_model(&moe);
    }
    for (int32_t i = 0; i < MAX_SOURCES; i++) {
        close_model(&dense[i]);
    }
    sy_probe_free(&says);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, open_folder, close_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(copy_on_any_layout_keeps_the_function),
        CASE(copy_in_bf16_keeps_the_function_to_its_rounding),
        CASE(copy_fills_every_value),
        CASE(copy_that_does_not_fit_is_refused),
        CASE(probe_of_a_changed_expert_sees_it),
        CASE(granular_experts_in_whole_copies_keep_the_function),
        CASE(methods_that_change_nothing_keep_the_function_exactly),
        CASE(dropped_units_are_the_same_in_all_three_matrices),
        CASE(mix_of_equal_sources_is_the_source),
        CASE(mix_takes_experts_from_each_and_the_mean_of_the_rest),
    };
    return mpi_test_main("upcycle", tests, sizeof tests / sizeof tests[0]);
}

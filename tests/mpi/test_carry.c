/* Optimizer's state carried over: moments go where their weights go, with the factor that the
   gradient gets; what is new has none; masters round to the model; the counters stay. */
#include "tests/support/mpi_assert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint.h"
#include "core/alloc.h"
#include "parallel/agree.h"
#include "tests/support/grow_rig.h"
#include "train/complete.h"
#include "upcycle/carry.h"

enum { N_COUNTERS = 6 };

static const char *const counter[N_COUNTERS] = {"state/step",           "state/data_step",
                                                "state/tokens_seen",    "state/skipped_steps",
                                                "state/schedule_start", "state/optim_t"};

static int64_t counted[N_COUNTERS] = {70, 71, 72, 73, 74, 75};

/* A dense checkpoint of kind training, whose moments and masters are the values of other models. */
typedef struct trained {
    const grow_model *model, *master, *m, *v; /* master NULL: none */
} trained;

static sy_status walk(void *self, sy_emit *emit, void *to)
{
    sy_status st = SY_OK;
    const trained *t = self;
    SY_TRY(sy_params_walk(t->model->engine->params, "model", emit, to));
    if (t->master != NULL) {
        SY_TRY(sy_params_walk(t->master->engine->params, "optim/master", emit, to));
    }
    SY_TRY(sy_params_walk(t->m->engine->params, "optim/exp_avg", emit, to));
    SY_TRY(sy_params_walk(t->v->engine->params, "optim/exp_avg_sq", emit, to));
    for (int64_t i = 0; i < N_COUNTERS; i++) {
        sy_part part = {.box = {.n_dim = 1, .shape = {1}},
                        .data = &counted[i],
                        .write = mpi_test_world()->rank == 0};
        SY_TRY(emit(to, &(sy_field){.name = counter[i],
                                    .dtype = SY_I64,
                                    .n_dim = 1,
                                    .n_parts = 1,
                                    .shape_glb = {1},
                                    .parts = &part}));
    }
cleanup:
    return st;
}

static void save(const trained *t, const char *path)
{
    sy_owner owner = {.name = "trained", .self = (void *)t, .walk = walk};
    sy_state state = {.owners = &owner, .n_owners = 1, .step = 70, .kind = "training"};
    char *yaml = NULL;
    assert_all_ok(sy_config_echo(t->model->settings.config, &yaml));
    state.config_yaml = yaml;
    assert_all_ok(sy_checkpoint_save(path, &state, mpi_test_world()));
    sy_free(&yaml);
}

/* What the recipe makes of it, as a file of kind training. */
static sy_status build(const trained *t, const grow_model *moe, sy_recipe_spec spec,
                       const char *out)
{
    sy_status st = SY_OK;
    sy_comm *world = mpi_test_world();
    sy_source *source = NULL;
    sy_recipe *recipe = NULL;
    sy_carry *carry = NULL;
    int32_t expert_source[GROW_E] = {0};
    sy_tokenizer_files files = {0};
    sy_transfer_receipt receipt;
    sy_build_spec how = {
        .kind = "training", .out = out, .files = &files, .comm = world, .step = 70};
    char path[1024], *yaml = NULL;
    save(t, grow_path("dense.h5", path));
    SY_TRY(sy_source_open(path, world, &source));
    SY_TRY(sy_source_bind(source, t->model->settings.model, t->model->settings.moe, world));
    spec.source = &source;
    spec.n_sources = 1;
    spec.model = moe->settings.model;
    spec.moe = moe->settings.moe;
    spec.expert_source = expert_source;
    spec.granularity = spec.granularity > 0 ? spec.granularity : 1;
    spec.seed = GROW_SEED;
    spec.freeze = (const char *const *)moe->settings.train->freeze.item;
    spec.n_freeze = moe->settings.train->freeze.n;
    SY_TRY(sy_agree(world, sy_recipe_create(&spec, &recipe)));
    SY_TRY(sy_carry_create(&spec, recipe, world, &carry));
    SY_TRY(sy_agree(world, sy_config_echo(moe->settings.config, &yaml)));
    how.config_yaml = yaml;
    how.tree = sy_carry_trees(carry, &how.n_trees);
    how.counters = sy_carry_counters(carry);
    SY_TRY(sy_build(&how, &receipt));
cleanup:
    sy_free(&yaml);
    sy_carry_destroy(&carry);
    sy_recipe_destroy(&recipe);
    sy_source_close(&source);
    return st;
}

/* ---- what came out ---- */

typedef struct result {
    sy_source *model, *tree[3]; /* master, m, v */
} result;

/* Whole by the rules of verify; counters as they were. */
static void open_result(result *r, const grow_model *moe, const char *path)
{
    static const char *const name[] = {"optim/master", "optim/exp_avg", "optim/exp_avg_sq"};
    sy_comm *world = mpi_test_world();
    sy_status st = SY_OK;
    if (world->rank == 0) {
        sy_checkpoint_info info = {0};
        st = sy_checkpoint_info_read(path, &info);
        st = st == SY_OK ? sy_checkpoint_complete(path, &info) : st;
        sy_checkpoint_info_free(&info);
    }
    assert_all_ok(sy_agree(world, st));
    assert_all_ok(sy_checkpoint_verify(path, world, NULL));
    assert_all_ok(sy_source_open(path, world, &r->model));
    assert_all_ok(sy_source_bind(r->model, moe->settings.model, moe->settings.moe, world));
    for (int32_t i = 0; i < 3; i++) {
        assert_all_ok(sy_source_open_tree(r->model, name[i], world, &r->tree[i]));
    }
    for (int64_t i = 0; i < N_COUNTERS; i++) {
        int64_t value = -1;
        assert_all_ok(sy_source_counter(r->model, counter[i], &value));
        assert_all(value == counted[i]);
    }
}

static void close_result(result *r)
{
    for (int32_t i = 0; i < 3; i++) {
        sy_source_close(&r->tree[i]);
    }
    sy_source_close(&r->model);
}

static double *read_all(sy_source *source, const char *name, int64_t *n)
{
    const int32_t i = sy_source_find(source, name);
    double *x = NULL;
    *n = i >= 0 ? source->tensor[i].numel : 0;
    x = calloc((size_t)*n + 1, sizeof *x);
    if (*n > 0) {
        assert_all_ok(sy_source_read(source, i, 0, *n, SY_F64, x));
    }
    return x;
}

/* Both moments of a tensor are the model's values times m and v, or zero; the share of zeros. */
static bool moments_are(const result *r, const char *name, double m, double v, double *zeros)
{
    int64_t n = 0, n_m = 0, n_v = 0, n_zero = 0;
    double *x = read_all(r->model, name, &n), *x_m = read_all(r->tree[1], name, &n_m),
           *x_v = read_all(r->tree[2], name, &n_v);
    bool ok = n > 0 && n_m == n && n_v == n;
    for (int64_t i = 0; ok && i < n; i++) {
        n_zero += x_m[i] == 0;
        ok = (x_m[i] == 0 && x_v[i] == 0) || (x_m[i] == m * x[i] && x_v[i] == v * x[i]);
    }
    free(x_v);
    free(x_m);
    free(x);
    *zeros = (double)n_zero / (double)n;
    return ok;
}

/* ---- the cases ---- */

/* m and v over the model's value: of experts' gate, of their down, of shared gate and down. */
typedef struct carry_case {
    const char *set[GROW_SET];
    sy_recipe_spec spec;
    double experts[2], shared[2]; /* factor of the gradient: in, down */
    double down[2];               /* factor of down itself: experts', shared */
    double zeros;                 /* share of the experts' weights that are new */
} carry_case;

static const carry_case cases[] = {
    {{"moe.top_k=2"}, {.router_std = 1}, {1, 1}, {0}, {1, 0}, 0},
    {{"moe.top_k=4", "moe.expert_hidden=10"},
     {.method = SY_UPCYCLE_GRANULAR, .granularity = 2},
     {1, 0.5},
     {0},
     {2, 0},
     0},
    {{"moe.top_k=4", "moe.expert_hidden=5", "moe.shared_experts=1", "moe.shared_hidden=20"},
     {.method = SY_UPCYCLE_GRANULAR, .granularity = 4, .shuffle = true, .drop_ratio = 0.5},
     {0.5, 0.25},
     {0.5, 1},
     {2, 0.5},
     0.5},
    {{"moe.top_k=2", "moe.shared_experts=1", "moe.shared_hidden=20", "moe.shared_gate=true"},
     {.method = SY_UPCYCLE_DROP, .drop_ratio = 0.5},
     {0.5, 1},
     {0.5, 0.5},
     {0.5, 1},
     0.5},
};

static bool layer_is(const result *r, const carry_case *c)
{
    static const char *const in[] = {"gate", "up"};
    char name[64];
    double zeros = 0, g = c->experts[0];
    bool ok = true;
    for (int32_t i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "layers/001/moe/experts/%s", in[i]);
        ok = ok && moments_are(r, name, g, g * g, &zeros) && fabs(zeros - c->zeros) < 0.05;
    }
    g = c->experts[1];
    ok = ok &&
         moments_are(r, "layers/001/moe/experts/down", g / c->down[0], g * g / c->down[0], &zeros);
    ok = ok && fabs(zeros - c->zeros) < 0.05;
    if (c->shared[0] > 0) {
        g = c->shared[0];
        ok = ok && moments_are(r, "layers/001/moe/shared/up", g, g * g, &zeros) && zeros == 0;
        g = c->shared[1];
        ok = ok &&
             moments_are(r, "layers/001/moe/shared/down", g / c->down[1], g * g / c->down[1],
                         &zeros) &&
             zeros == 0;
    }
    return ok && moments_are(r, "layers/001/moe/router", 1, 1, &zeros) && zeros == 1 &&
           moments_are(r, "layers/001/attn/q", 1, 1, &zeros) && zeros == 0;
}

static void moments_follow_the_gradient_and_are_zero_where_weights_are_new(void **state)
{
    (void)state;
    grow_model dense, moe;
    sy_probe says = {0};
    grow_open_dense(&dense, "ref", grow_none, &says);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const trained t = {.model = &dense, .m = &dense, .v = &dense};
        char path[1024];
        result r = {0};
        grow_open(&moe, "ref", GROW_E, 1, cases[i].set);
        assert_all_ok(build(&t, &moe, cases[i].spec, grow_path("moe.h5", path)));
        open_result(&r, &moe, path);
        assert_all(layer_is(&r, &cases[i]));
        assert_all(r.tree[0]->n_tensors == 0);
        close_result(&r);
        grow_close(&moe);
    }
    sy_probe_free(&says);
    grow_close(&dense);
}

static bool same(const double *x, const double *y, int64_t n)
{
    return memcmp(x, y, (size_t)n * sizeof *x) == 0;
}

/* Each tree from its own; added rows have no past; frozen parameters keep nothing. */
static void trees_are_not_mixed_and_follow_vocabulary_and_freezing(void **state)
{
    (void)state;
    static const char *const set[GROW_SET] = {"moe.top_k=2", "model.vocab_size=300",
                                              "train.freeze=[head]"};
    grow_model dense[GROW_SOURCES], moe;
    sy_probe says = {0};
    char path[1024];
    result r = {0};
    int64_t n = 0, n_new = 0;
    grow_open_three(dense, &says, false);
    const trained t = {.model = &dense[0], .m = &dense[1], .v = &dense[2]};
    grow_open(&moe, "ref", GROW_E, 1, set);
    assert_all_ok(build(&t, &moe, (sy_recipe_spec){.router_std = 1}, grow_path("moe.h5", path)));
    open_result(&r, &moe, path);
    for (int32_t i = 0; i < 3; i++) {
        double *old = grow_fetch(&dense[i], "embed", &n);
        double *now = read_all(i == 0 ? r.model : r.tree[i], "embed", &n_new);
        bool ok = n == GROW_V * GROW_H && n_new == 300 * GROW_H && same(now, old, n);
        for (int64_t k = n; ok && k < n_new; k++) {
            ok = (now[k] == 0) == (i > 0);
        }
        free(now);
        free(old);
        old = grow_fetch(&dense[i], "layers/002/mlp/down", &n);
        now = read_all(i == 0 ? r.model : r.tree[i], "layers/002/moe/experts/down", &n_new);
        ok = ok && n_new == n * GROW_E && same(now, old, n) && same(now + 11 * n, old, n);
        free(now);
        free(old);
        assert_all(ok);
    }
    assert_all(sy_source_find(r.tree[1], "head") < 0);
    close_result(&r);
    grow_close(&moe);
    for (int32_t i = 0; i < GROW_SOURCES; i++) {
        grow_close(&dense[i]);
    }
    sy_probe_free(&says);
}

/* In bf16 the masters are the truth: times 2, they round to what stands in the model. */
static void masters_are_carried_and_round_to_the_model(void **state)
{
    (void)state;
    static const char *const narrow[GROW_SET] = {"device.precision=bf16"};
    static const char *const set[GROW_SET] = {"moe.top_k=2", "moe.expert_hidden=10"};
    static const char *const names[] = {"embed", "layers/000/moe/experts/down"};
    grow_model dense, wide, moe;
    sy_probe says = {0};
    char path[1024];
    result r = {0};
    grow_open_dense(&dense, "cpu", narrow, &says);
    sy_probe_free(&says);
    grow_open_dense(&wide, "cpu", grow_none, &says);
    const trained t = {.model = &dense, .master = &wide, .m = &wide, .v = &wide};
    const sy_recipe_spec spec = {.method = SY_UPCYCLE_GRANULAR, .granularity = 2};
    grow_open(&moe, "cpu", 10, 1, set);
    assert_all_ok(build(&t, &moe, spec, grow_path("moe.h5", path)));
    open_result(&r, &moe, path);
    for (int32_t i = 0; i < 2; i++) {
        const int32_t k = sy_source_find(r.model, names[i]);
        int64_t n = 0, n_master = 0, n_rounded = 0;
        double *now = read_all(r.model, names[i], &n);
        double *master = read_all(r.tree[0], names[i], &n_master);
        bool ok = n > 0 && n == n_master && r.model->tensor[k].dtype == SY_BF16;
        for (int64_t e = 0; ok && e < n; e++) {
            uint16_t bits = 0;
            double rounded = 0;
            sy_convert(SY_BF16, &bits, SY_F64, &master[e], 1);
            sy_convert(SY_F64, &rounded, SY_BF16, &bits, 1);
            n_rounded += rounded != master[e];
            ok = now[e] == rounded;
        }
        assert_all(ok && n_rounded > n / 2);
        free(master);
        free(now);
    }
    assert_all(sy_source_find(r.tree[0], "layers/000/moe/router") < 0);
    close_result(&r);
    grow_close(&moe);
    grow_close(&wide);
    sy_probe_free(&says);
    grow_close(&dense);
}

/* 5 times a bf16 value is none: the model keeps it wide, and the function with it. */
static void narrow_values_times_no_power_of_two_are_kept_wide(void **state)
{
    (void)state;
    static const char *const narrow[GROW_SET] = {"device.precision=bf16"};
    static const char *const set[GROW_SET] = {"moe.top_k=5", "moe.expert_hidden=4"};
    static const char *const name = "layers/000/moe/experts/down";
    grow_model dense, wide, moe;
    sy_probe says = {0};
    char path[1024];
    result r = {0};
    int64_t n_old = 0, n = 0;
    sy_source *source = NULL;
    grow_open_dense(&dense, "cpu", narrow, &says);
    sy_probe_free(&says);
    grow_open_dense(&wide, "cpu", grow_none, &says);
    const trained t = {.model = &dense, .master = &wide, .m = &wide, .v = &wide};
    const sy_recipe_spec spec = {.method = SY_UPCYCLE_GRANULAR, .granularity = 5};
    grow_open(&moe, "cpu", 10, 1, set);
    assert_all_ok(build(&t, &moe, spec, grow_path("moe.h5", path)));
    open_result(&r, &moe, path);
    assert_all_ok(sy_source_open(grow_path("dense.h5", path), mpi_test_world(), &source));
    assert_all_ok(
        sy_source_bind(source, dense.settings.model, dense.settings.moe, mpi_test_world()));
    double *old = read_all(source, "layers/000/mlp/down", &n_old);
    double *now = read_all(r.model, name, &n);
    bool ok = r.model->tensor[sy_source_find(r.model, name)].dtype == SY_F32 && n == 2 * n_old;
    for (int64_t e = 0; ok && e < n; e++) { /* [10, H, 4] of [H, 20] */
        const int64_t part = e / (4 * GROW_H) % 5, row = e / 4 % GROW_H;
        ok = now[e] == 5 * old[row * 20 + part * 4 + e % 4];
    }
    assert_all(ok && sy_source_find(r.tree[0], name) < 0);
    free(now);
    free(old);
    sy_source_close(&source);
    close_result(&r);
    grow_close(&moe);
    grow_close(&wide);
    sy_probe_free(&says);
    grow_close(&dense);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        GROW_CASE(moments_follow_the_gradient_and_are_zero_where_weights_are_new),
        GROW_CASE(trees_are_not_mixed_and_follow_vocabulary_and_freezing),
        GROW_CASE(masters_are_carried_and_round_to_the_model),
        GROW_CASE(narrow_values_times_no_power_of_two_are_kept_wide),
    };
    return mpi_test_main("carry", tests, sizeof tests / sizeof tests[0]);
}

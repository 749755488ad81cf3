#include "upcycle/carry.h"

#include "core/alloc.h"
#include "parallel/agree.h"

enum { N_TREES = 4, N_COUNTERS = 6 };

static const char *const tree_name[N_TREES] = {"model", "optim/master", "optim/exp_avg",
                                               "optim/exp_avg_sq"};
static const char *const counter_name[N_COUNTERS] = {"state/step",           "state/data_step",
                                                     "state/tokens_seen",    "state/skipped_steps",
                                                     "state/schedule_start", "state/optim_t"};

/* Indices of trees are sy_recipe_values. */
struct sy_carry {
    sy_comm *comm;
    sy_source *source[N_TREES]; /* [0] NULL: the model's is the caller's */
    sy_recipe *recipe[N_TREES]; /* [0] the caller's */
    sy_build_tree tree[N_TREES];
    int32_t *master; /* [tensors of the model] in the recipe of the masters; -1: it has none */
    void *h_masters; /* [SY_PULL_BYTES] */
    int64_t counter[N_COUNTERS];
    sy_owner counters;
};

/* ---- the model, rounded from its masters ---- */

static sy_status make_model(void *self, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                            const void **h_out)
{
    sy_status st = SY_OK;
    const sy_carry *c = self;
    const int32_t master = c->master[tensor];
    if (master < 0) {
        return sy_recipe_make(c->recipe[SY_RECIPE_MODEL], tensor, first, n, h_buf, h_out);
    }
    const sy_dtype narrow = sy_recipe_plan(c->recipe[SY_RECIPE_MODEL])->tensor[tensor].dtype;
    const sy_dtype wide = sy_recipe_plan(c->recipe[SY_RECIPE_MASTER])->tensor[master].dtype;
    const int64_t at_once = SY_PULL_BYTES / (int64_t)sy_dtype_bytes(wide);
    for (int64_t done = 0; done < n; done += at_once) {
        int64_t m = n - done < at_once ? n - done : at_once;
        const void *h_wide = NULL;
        SY_TRY(sy_recipe_make(c->recipe[SY_RECIPE_MASTER], master, first + done, m, c->h_masters,
                              &h_wide));
        sy_convert(narrow, (char *)h_buf + done * (int64_t)sy_dtype_bytes(narrow), wide, h_wide, m);
    }
    *h_out = h_buf;
cleanup:
    return st;
}

static sy_status find_masters(sy_carry *c)
{
    sy_status st = SY_OK;
    const sy_blueprint *model = sy_recipe_plan(c->recipe[SY_RECIPE_MODEL]);
    const sy_blueprint *masters = sy_recipe_plan(c->recipe[SY_RECIPE_MASTER]);
    SY_TRY(sy_alloc(SY_PULL_BYTES, 1, &c->h_masters));
    SY_TRY(sy_alloc(model->n, sizeof *c->master, (void **)&c->master));
    for (int32_t i = 0; i < model->n; i++) {
        c->master[i] = sy_blueprint_find(masters, model->tensor[i].name);
    }
cleanup:
    return st;
}

/* ---- counters ---- */

static sy_status walk_counters(void *self, sy_emit *emit, void *to)
{
    sy_status st = SY_OK;
    sy_carry *c = self;
    for (int32_t i = 0; i < N_COUNTERS; i++) {
        sy_part part = {
            .box = {.n_dim = 1, .shape = {1}}, .data = &c->counter[i], .write = c->comm->rank == 0};
        SY_TRY(emit(to, &(sy_field){.name = counter_name[i],
                                    .dtype = SY_I64,
                                    .n_dim = 1,
                                    .n_parts = 1,
                                    .shape_glb = {1},
                                    .parts = &part}));
    }
cleanup:
    return st;
}

/* Older files lack where the schedule began: at 0. */
static sy_status read_counters(sy_carry *c, const sy_source *source)
{
    sy_status st = SY_OK;
    c->counter[0] = -1;
    for (int32_t i = 0; i < N_COUNTERS; i++) {
        SY_TRY(sy_source_counter(source, counter_name[i], &c->counter[i]));
    }
    SY_REQUIRE(c->counter[0] >= 0, SY_ERR_USAGE,
               "'%s' is no checkpoint of kind training: it keeps no optimizer's state",
               source->path);
cleanup:
    return st;
}

/* ---- all together ---- */

static sy_status plan_tree(sy_carry *c, const sy_recipe_spec *spec, sy_recipe_values values)
{
    sy_status st = SY_OK;
    sy_recipe_spec mine = *spec;
    SY_TRY(sy_source_open_tree(spec->source[0], tree_name[values], c->comm, &c->source[values]));
    SY_REQUIRE(values < SY_RECIPE_EXP_AVG ||
                   (c->source[values]->n_tensors > 0 &&
                    c->source[values]->n_tensors == c->source[SY_RECIPE_EXP_AVG]->n_tensors),
               SY_ERR_USAGE,
               "'%s' keeps no moments of AdamW (optim.name), which alone are carried over; use "
               "--optimizer fresh",
               spec->source[0]->path);
    mine.source = &c->source[values];
    mine.values = values;
    SY_TRY(sy_agree(c->comm, sy_recipe_create(&mine, &c->recipe[values])));
cleanup:
    return st;
}

sy_status sy_carry_create(const sy_recipe_spec *spec, sy_recipe *model, sy_comm *comm,
                          sy_carry **out)
{
    sy_status st = SY_OK;
    sy_carry *c = NULL;
    SY_TRY(sy_agree(comm, sy_alloc(1, sizeof *c, (void **)&c)));
    c->comm = comm;
    c->recipe[SY_RECIPE_MODEL] = model;
    c->counters = (sy_owner){.name = "counters", .self = c, .walk = walk_counters};
    SY_TRY(sy_agree(comm, read_counters(c, spec->source[0])));
    for (int32_t i = SY_RECIPE_MASTER; i < N_TREES; i++) {
        SY_TRY(plan_tree(c, spec, (sy_recipe_values)i));
    }
    SY_TRY(sy_agree(comm, find_masters(c)));
    for (int32_t i = 0; i < N_TREES; i++) {
        c->tree[i] = (sy_build_tree){tree_name[i], sy_recipe_plan(c->recipe[i]),
                                     i == SY_RECIPE_MODEL ? make_model : sy_recipe_make,
                                     i == SY_RECIPE_MODEL ? (void *)c : c->recipe[i]};
    }
    *out = c;
    c = NULL;
cleanup:
    sy_carry_destroy(&c);
    return st;
}

void sy_carry_destroy(sy_carry **carry)
{
    sy_carry *c = *carry;
    if (c == NULL) {
        return;
    }
    for (int32_t i = SY_RECIPE_MASTER; i < N_TREES; i++) {
        sy_recipe_destroy(&c->recipe[i]);
        sy_source_close(&c->source[i]);
    }
    sy_free(&c->h_masters);
    sy_free(&c->master);
    sy_free(carry);
}

const sy_build_tree *sy_carry_trees(const sy_carry *carry, int32_t *n)
{
    *n = N_TREES;
    return carry->tree;
}

const sy_owner *sy_carry_counters(const sy_carry *carry)
{
    return &carry->counters;
}

#include "upcycle/recipe.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "upcycle/source_impl.h"

enum { BLOCK = 4096 };

typedef enum role { ROLE_MIX, ROLE_EXPERT, ROLE_ROUTER, ROLE_ZERO } role;

/* Mean and standard deviation of the weights that an expert loses. */
typedef struct lost {
    bool known;
    double mean, std;
} lost;

/* Of one tensor of the new model. */
typedef struct ingredient {
    role role;
    int32_t *from; /* [n_sources] tensor there */
    bool down;     /* units are columns, not rows */
    lost *lost;    /* [experts] ROLE_EXPERT of DROP */
} ingredient;

struct sy_recipe {
    sy_recipe_spec spec;
    sy_blueprint plan;
    ingredient *item; /* [plan.n] */
    double *block;    /* [2, BLOCK] */
};

static const char expert_part[] = "/moe/experts/";

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* ---- the plan ---- */

/* "layers/003/moe/experts/down" -> "layers/003/mlp/down"; other names stay. */
static role classify(const char *name, char from[SY_PARAM_NAME])
{
    const char *part = strstr(name, expert_part);
    snprintf(from, SY_PARAM_NAME, "%s", name);
    if (part != NULL) {
        snprintf(from, SY_PARAM_NAME, "%.*s/mlp/%s", (int)(part - name), name,
                 part + sizeof expert_part - 1);
        return ROLE_EXPERT;
    }
    return ends_with(name, "/moe/router") ? ROLE_ROUTER
           : ends_with(name, "/moe/bias") ? ROLE_ZERO
                                          : ROLE_MIX;
}

/* Of an expert's block: the dense matrix, or a share of its units. */
static bool fits(const sy_recipe_spec *spec, const ingredient *item, const sy_source_tensor *to,
                 const sy_source_tensor *from)
{
    const int32_t lead = item->role == ROLE_EXPERT ? 1 : 0, unit = item->down ? 1 : 0;
    bool same = to->n_dim == from->n_dim + lead;
    for (int32_t d = 0; same && d < from->n_dim; d++) {
        int64_t parts = item->role == ROLE_EXPERT && d == unit ? spec->granularity : 1;
        same = to->shape[d + lead] * parts == from->shape[d];
    }
    return same;
}

static sy_status find_sources(sy_recipe *r, int32_t tensor, const char *name)
{
    sy_status st = SY_OK;
    const sy_recipe_spec *spec = &r->spec;
    sy_source_tensor *to = &r->plan.tensor[tensor];
    ingredient *item = &r->item[tensor];
    char want[96], have[96];
    SY_TRY(sy_alloc(spec->n_sources, sizeof *item->from, (void **)&item->from));
    for (int32_t s = 0; s < spec->n_sources; s++) {
        const sy_source *source = spec->source[s];
        item->from[s] = sy_source_find(source, name);
        SY_REQUIRE(item->from[s] >= 0, SY_ERR_USAGE, "'%s' has no tensor '%s' to fill '%s' with",
                   source->path, name, to->name);
        const sy_source_tensor *from = &source->tensor[item->from[s]];
        SY_REQUIRE(fits(spec, item, to, from), SY_ERR_USAGE,
                   "'%s': tensor '%s' has shape %s, which cannot fill '%s' of %s", source->path,
                   name, sy__shape_text(from->n_dim, from->shape, have, sizeof have), to->name,
                   sy__shape_text(to->n_dim, to->shape, want, sizeof want));
        to->dtype = s == 0 || from->dtype == to->dtype             ? from->dtype
                    : from->dtype == SY_F64 || to->dtype == SY_F64 ? SY_F64
                                                                   : SY_F32;
    }
cleanup:
    return st;
}

static sy_status plan_tensor(sy_recipe *r, int32_t tensor)
{
    sy_status st = SY_OK;
    ingredient *item = &r->item[tensor];
    const char *name = r->plan.tensor[tensor].name;
    char from[SY_PARAM_NAME];
    item->role = classify(name, from);
    if (r->spec.expert_source == NULL) { /* the sources have all that the new model has */
        item->role = ROLE_MIX;
        snprintf(from, sizeof from, "%s", name);
    }
    item->down = ends_with(name, "/down");
    if (item->role == ROLE_MIX || item->role == ROLE_EXPERT) {
        SY_TRY(find_sources(r, tensor, from));
    }
    if (item->role == ROLE_EXPERT && r->spec.method == SY_UPCYCLE_DROP) {
        SY_TRY(sy_alloc(r->spec.moe->experts, sizeof *item->lost, (void **)&item->lost));
    }
cleanup:
    return st;
}

/* Nothing of a source is left behind. */
static sy_status check_all_used(const sy_recipe *r)
{
    sy_status st = SY_OK;
    bool *used = NULL;
    for (int32_t s = 0; s < r->spec.n_sources; s++) {
        const sy_source *source = r->spec.source[s];
        sy_free(&used);
        SY_TRY(sy_alloc(source->n_tensors, sizeof *used, (void **)&used));
        for (int32_t i = 0; i < r->plan.n; i++) {
            if (r->item[i].from != NULL) {
                used[r->item[i].from[s]] = true;
            }
        }
        for (int32_t i = 0; i < source->n_tensors; i++) {
            SY_REQUIRE(used[i], SY_ERR_USAGE, "the new model has no place for '%s' of '%s'",
                       source->tensor[i].name, source->path);
        }
    }
cleanup:
    sy_free(&used);
    return st;
}

/* What is made of nothing: wide, in a model of doubles double. */
static void set_types(sy_recipe *r)
{
    const int32_t embed = sy_blueprint_find(&r->plan, "embed");
    const bool twice = embed >= 0 && r->plan.tensor[embed].dtype == SY_F64;
    for (int32_t i = 0; i < r->plan.n; i++) {
        if (r->item[i].from == NULL) {
            r->plan.tensor[i].dtype = twice ? SY_F64 : SY_F32;
        }
    }
}

sy_status sy_recipe_create(const sy_recipe_spec *spec, sy_recipe **out)
{
    sy_status st = SY_OK;
    sy_recipe *r = NULL;
    SY_TRY(sy_alloc(1, sizeof *r, (void **)&r));
    r->spec = *spec;
    SY_TRY(sy_blueprint_create(spec->model, spec->moe, &r->plan));
    SY_TRY(sy_alloc(r->plan.n, sizeof *r->item, (void **)&r->item));
    SY_TRY(sy_alloc(2 * BLOCK, sizeof *r->block, (void **)&r->block));
    for (int32_t i = 0; i < r->plan.n; i++) {
        SY_TRY(plan_tensor(r, i));
    }
    SY_TRY(check_all_used(r));
    set_types(r);
    *out = r;
    r = NULL;
cleanup:
    sy_recipe_destroy(&r);
    return st;
}

void sy_recipe_destroy(sy_recipe **recipe)
{
    sy_recipe *r = *recipe;
    if (r == NULL) {
        return;
    }
    for (int32_t i = 0; i < r->plan.n && r->item != NULL; i++) {
        sy_free(&r->item[i].lost);
        sy_free(&r->item[i].from);
    }
    sy_free(&r->block);
    sy_free(&r->item);
    sy_blueprint_free(&r->plan);
    sy_free(recipe);
}

const sy_blueprint *sy_recipe_plan(const sy_recipe *recipe)
{
    return &recipe->plan;
}

bool sy_recipe_preserves(const sy_recipe_spec *spec)
{
    const sy_moe_config *moe = spec->moe;
    const bool exact = spec->method == SY_UPCYCLE_COPY ||
                       (spec->method == SY_UPCYCLE_GRANULAR && moe->top_k % spec->granularity == 0);
    return exact && spec->n_sources == 1 && moe->normalize_weights && moe->routed_scale == 1 &&
           moe->shared_experts == 0 && !moe->eval_capacity_factor.set;
}

/* ---- what is no expert ---- */

/* The mean in double, sources in their order, rounded once. */
static sy_status make_mean(sy_recipe *r, const ingredient *item, sy_dtype dtype, int64_t first,
                           int64_t n, char *h_to)
{
    sy_status st = SY_OK;
    const int32_t n_sources = r->spec.n_sources;
    double *sum = r->block, *one = r->block + BLOCK;
    for (int64_t done = 0; done < n; done += BLOCK) {
        int64_t m = n - done < BLOCK ? n - done : BLOCK;
        memset(sum, 0, (size_t)m * sizeof *sum);
        for (int32_t s = 0; s < n_sources; s++) {
            SY_TRY(sy_source_read(r->spec.source[s], item->from[s], first + done, m, SY_F64, one));
            for (int64_t i = 0; i < m; i++) {
                sum[i] += one[i];
            }
        }
        for (int64_t i = 0; i < m; i++) {
            sum[i] /= n_sources;
        }
        sy_convert(dtype, h_to + done * (int64_t)sy_dtype_bytes(dtype), SY_F64, sum, m);
    }
cleanup:
    return st;
}

static sy_status make_mix(sy_recipe *r, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                          const void **h_out)
{
    const ingredient *item = &r->item[tensor];
    const sy_dtype dtype = r->plan.tensor[tensor].dtype;
    const int32_t base = r->spec.n_sources == 1 ? 0 : r->spec.base;
    *h_out = h_buf;
    if (base < 0) {
        return make_mean(r, item, dtype, first, n, h_buf);
    }
    sy_source *source = r->spec.source[base];
    return source->tensor[item->from[base]].dtype == dtype
               ? sy_source_get(source, item->from[base], first, n, h_buf, h_out)
               : sy_source_read(source, item->from[base], first, n, dtype, h_buf);
}

/* Experts of one copy share a row. */
static void make_router(const sy_recipe *r, const sy_source_tensor *t, int64_t first, int64_t n,
                        char *h_to)
{
    const uint64_t stream = sy_rng_stream_of(t->name);
    const int64_t H = t->shape[1], bytes = (int64_t)sy_dtype_bytes(t->dtype);
    for (int64_t i = 0; i < n; i++) {
        int64_t row = (first + i) / H / r->spec.granularity, column = (first + i) % H;
        double x = r->spec.router_std *
                   sy_rng_normal_cut(r->spec.seed, stream, (uint64_t)(row * H + column));
        sy_convert(t->dtype, h_to + i * bytes, SY_F64, &x, 1);
    }
}

/* ---- experts ---- */

/* What is drawn for one expert of a tensor. */
static uint64_t stream_of(const char *name, int64_t expert, const char *purpose)
{
    char key[SY_PARAM_NAME + 48];
    snprintf(key, sizeof key, "%s/%ld/%s", name, (long)expert, purpose);
    return sy_rng_stream_of(key);
}

static sy_status add_noise(sy_recipe *r, const sy_source_tensor *t, int64_t expert, int64_t first,
                           int64_t n, char *h_to)
{
    const uint64_t which = stream_of(t->name, expert, "half"),
                   noise = stream_of(t->name, expert, "noise");
    const int64_t bytes = (int64_t)sy_dtype_bytes(t->dtype);
    double *block = r->block;
    for (int64_t done = 0; done < n; done += BLOCK) {
        int64_t m = n - done < BLOCK ? n - done : BLOCK;
        sy_convert(SY_F64, block, t->dtype, h_to + done * bytes, m);
        for (int64_t i = 0; i < m; i++) {
            uint64_t at = (uint64_t)(first + done + i);
            if (sy_rng_uniform(r->spec.seed, which, at) < 0.5) {
                block[i] += r->spec.noise_std * sy_rng_normal(r->spec.seed, noise, at);
            }
        }
        sy_convert(t->dtype, h_to + done * bytes, SY_F64, block, m);
    }
    return SY_OK;
}

/* Is a hidden unit of an expert drawn anew? The same for gate, up and down of a layer. */
typedef struct drops {
    uint64_t seed, stream;
    int64_t F, n; /* units; of them dropped */
} drops;

static drops drops_of(const sy_recipe *r, const char *name, int64_t F, int64_t expert)
{
    char layer[SY_PARAM_NAME];
    snprintf(layer, sizeof layer, "%.*s", (int)(strstr(name, expert_part) - name), name);
    return (drops){r->spec.seed, stream_of(layer, expert, "drop"), F,
                   llround(r->spec.drop_ratio * (double)F)};
}

static bool is_dropped(const drops *d, int64_t unit)
{
    return sy_rng_permute(d->seed, d->stream, d->F, unit) < d->n;
}

/* Mean and unbiased standard deviation of the weights that are replaced, by two passes. */
static sy_status measure_lost(sy_recipe *r, sy_source *source, int32_t from, const drops *d,
                              bool down, lost *out)
{
    sy_status st = SY_OK;
    const sy_source_tensor *t = &source->tensor[from];
    const int64_t columns = t->shape[1];
    double sum = 0, squares = 0, n = 0;
    for (int32_t pass = 0; pass < 2; pass++) {
        const double mean = n > 0 ? sum / n : 0;
        n = 0;
        for (int64_t at = 0; at < t->numel; at += BLOCK) {
            int64_t m = t->numel - at < BLOCK ? t->numel - at : BLOCK;
            SY_TRY(sy_source_read(source, from, at, m, SY_F64, r->block));
            for (int64_t i = 0; i < m; i++) {
                int64_t unit = down ? (at + i) % columns : (at + i) / columns;
                double x = is_dropped(d, unit) ? r->block[i] : 0;
                n += is_dropped(d, unit);
                sum += pass == 0 ? x : 0;
                squares += pass == 1 && is_dropped(d, unit) ? (x - mean) * (x - mean) : 0;
            }
        }
    }
    *out = (lost){true, n > 0 ? sum / n : 0, n > 1 ? sqrt(squares / (n - 1)) : 0};
cleanup:
    return st;
}

static sy_status drop_units(sy_recipe *r, int32_t tensor, int64_t expert, int64_t first, int64_t n,
                            char *h_to)
{
    sy_status st = SY_OK;
    const sy_source_tensor *t = &r->plan.tensor[tensor];
    ingredient *item = &r->item[tensor];
    const int64_t columns = t->shape[2], bytes = (int64_t)sy_dtype_bytes(t->dtype);
    const int32_t s = r->spec.expert_source[expert];
    const drops d = drops_of(r, t->name, item->down ? columns : t->shape[1], expert);
    const uint64_t stream = stream_of(t->name, expert, "drawn");
    if (!item->lost[expert].known) {
        SY_TRY(
            measure_lost(r, r->spec.source[s], item->from[s], &d, item->down, &item->lost[expert]));
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t at = first + i, unit = item->down ? at % columns : at / columns;
        if (is_dropped(&d, unit)) {
            double x = item->lost[expert].mean +
                       item->lost[expert].std * sy_rng_normal(r->spec.seed, stream, (uint64_t)at);
            sy_convert(t->dtype, h_to + i * bytes, SY_F64, &x, 1);
        }
    }
cleanup:
    return st;
}

/* A narrow expert: some rows of gate and up, some columns of down, those times the granularity. */
static sy_status cut_shard(sy_recipe *r, int32_t tensor, int64_t expert, int64_t first, int64_t n,
                           char *h_to)
{
    sy_status st = SY_OK;
    const sy_source_tensor *t = &r->plan.tensor[tensor];
    const ingredient *item = &r->item[tensor];
    const int32_t s = r->spec.expert_source[expert], G = r->spec.granularity;
    const int64_t rows = t->shape[1], columns = t->shape[2], shard = expert % G;
    const int64_t bytes = (int64_t)sy_dtype_bytes(t->dtype);
    if (!item->down) {
        return sy_source_read(r->spec.source[s], item->from[s], shard * rows * columns + first, n,
                              t->dtype, h_to);
    }
    for (int64_t done = 0, m = 0; done < n; done += m) {
        int64_t row = (first + done) / columns, column = (first + done) % columns;
        m = columns - column < n - done ? columns - column : n - done;
        m = m < BLOCK ? m : BLOCK;
        SY_TRY(sy_source_read(r->spec.source[s], item->from[s],
                              row * columns * G + shard * columns + column, m, SY_F64, r->block));
        for (int64_t i = 0; i < m; i++) {
            r->block[i] *= G;
        }
        sy_convert(t->dtype, h_to + done * bytes, SY_F64, r->block, m);
    }
cleanup:
    return st;
}

/* Elements [first, first + n) of one expert's matrix. */
static sy_status make_expert(sy_recipe *r, int32_t tensor, int64_t expert, int64_t first, int64_t n,
                             char *h_to)
{
    sy_status st = SY_OK;
    const sy_source_tensor *t = &r->plan.tensor[tensor];
    const int32_t s = r->spec.expert_source[expert];
    if (r->spec.method == SY_UPCYCLE_GRANULAR) {
        return cut_shard(r, tensor, expert, first, n, h_to);
    }
    SY_TRY(sy_source_read(r->spec.source[s], r->item[tensor].from[s], first, n, t->dtype, h_to));
    if (r->spec.method == SY_UPCYCLE_NOISE) {
        SY_TRY(add_noise(r, t, expert, first, n, h_to));
    } else if (r->spec.method == SY_UPCYCLE_DROP) {
        SY_TRY(drop_units(r, tensor, expert, first, n, h_to));
    }
cleanup:
    return st;
}

static sy_status make_experts(sy_recipe *r, int32_t tensor, int64_t first, int64_t n, char *h_to)
{
    sy_status st = SY_OK;
    const sy_source_tensor *t = &r->plan.tensor[tensor];
    const int64_t each = t->shape[1] * t->shape[2], bytes = (int64_t)sy_dtype_bytes(t->dtype);
    for (int64_t done = 0, m = 0; done < n; done += m) {
        int64_t expert = (first + done) / each, at = (first + done) % each;
        m = each - at < n - done ? each - at : n - done;
        SY_TRY(make_expert(r, tensor, expert, at, m, h_to + done * bytes));
    }
cleanup:
    return st;
}

sy_status sy_recipe_make(void *self, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                         const void **h_out)
{
    sy_recipe *r = self;
    const sy_source_tensor *t = &r->plan.tensor[tensor];
    *h_out = h_buf;
    switch (r->item[tensor].role) {
    case ROLE_MIX:
        return make_mix(r, tensor, first, n, h_buf, h_out);
    case ROLE_EXPERT:
        return make_experts(r, tensor, first, n, h_buf);
    case ROLE_ROUTER:
        make_router(r, t, first, n, h_buf);
        return SY_OK;
    default:
        memset(h_buf, 0, (size_t)(n * (int64_t)sy_dtype_bytes(t->dtype)));
        return SY_OK;
    }
}

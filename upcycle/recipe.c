#include "upcycle/recipe_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "moe/adapters.h"
#include "upcycle/source_impl.h"

const char sy__expert_part[] = "/moe/experts/";
static const char shared_part[] = "/moe/shared/", base_part[] = "/moe/base/";

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* ---- the plan ---- */

/* "layers/003/moe/experts/down", "layers/003/moe/shared/down", "layers/003/moe/base/down" ->
   "layers/003/mlp/down"; other names stay. A shut gate of shared experts lets half of them through.
 */
static sy__role classify(const char *name, char from[SY_PARAM_NAME])
{
    const char *expert = strstr(name, sy__expert_part), *shared = strstr(name, shared_part);
    const char *part = expert != NULL ? expert : shared != NULL ? shared : strstr(name, base_part);
    snprintf(from, SY_PARAM_NAME, "%s", name);
    if (ends_with(name, "/moe/router")) {
        return SY__ROLE_ROUTER;
    }
    if (ends_with(name, "/moe/bias") || ends_with(name, "/moe/state") ||
        ends_with(name, "/moe/shared/router")) {
        return SY__ROLE_ZERO;
    }
    if (part != NULL) {
        snprintf(from, SY_PARAM_NAME, "%.*s/mlp%s", (int)(part - name), name, strrchr(name, '/'));
    }
    return expert != NULL ? SY__ROLE_EXPERT : SY__ROLE_MIX;
}

/* Of the experts, or of the base that experts of adapters share. */
static bool is_routed(const char *name)
{
    return strstr(name, sy__expert_part) != NULL || strstr(name, base_part) != NULL;
}

/* The part of the dense MLP's output that this tensor's experts make: routed and shared experts
   half of it each. */
static double part_of(const sy_recipe_spec *spec, const char *name)
{
    const bool of_mlp = strstr(name, shared_part) != NULL || is_routed(name);
    return of_mlp && spec->moe->shared_experts > 0 ? 0.5 : 1;
}

/* Only the last matrix is linear in what comes out. Narrow experts get 1/G of the weight of a copy;
   a gate of sigmoid(0) halves shared experts by itself. */
static double weight_scale(const sy_recipe_spec *spec, const char *name)
{
    if (!ends_with(name, "/down") && !ends_with(name, "/down_b")) {
        return 1;
    }
    if (strstr(name, shared_part) != NULL) {
        return spec->moe->shared_gate ? 1 : 0.5;
    }
    return is_routed(name) ? spec->granularity * part_of(spec, name) : 1;
}

/* Moments follow the gradient. A matrix that makes a part of an output and was scaled by s gets
   that part of the gradient over s. */
static double scale_of(const sy_recipe_spec *spec, const char *name)
{
    const double weight = weight_scale(spec, name), gradient = part_of(spec, name) / weight;
    switch (spec->values) {
    case SY_RECIPE_EXP_AVG:
        return gradient;
    case SY_RECIPE_EXP_AVG_SQ:
        return gradient * gradient;
    default:
        return weight;
    }
}

/* Values times a factor need a wide type where they would be rounded, and the function with them:
   in bf16 but for powers of two, in fp16 for its small and large numbers with any. */
static bool needs_room(sy_dtype dtype, double scale)
{
    int exponent = 0;
    return scale != 1 && (dtype == SY_F16 || (dtype == SY_BF16 && frexp(scale, &exponent) != 0.5));
}

/* Rows may be added to a vocabulary. */
static bool may_grow(const sy_source_tensor *to)
{
    return strcmp(to->name, "embed") == 0 || strcmp(to->name, "head") == 0;
}

/* Of an expert's block: the dense matrix, or a share of its units. */
static bool fits(const sy_recipe_spec *spec, const sy__ingredient *item, const sy_source_tensor *to,
                 const sy_source_tensor *from)
{
    const int32_t lead = item->role == SY__ROLE_EXPERT ? 1 : 0, unit = item->down ? 1 : 0;
    bool same = to->n_dim == from->n_dim + lead;
    if (item->role == SY__ROLE_PACKED) {
        return same && to->shape[0] == from->shape[0] && to->packed_columns == from->shape[1];
    }
    for (int32_t d = 0; same && d < from->n_dim; d++) {
        int64_t parts = item->role == SY__ROLE_EXPERT && d == unit ? spec->granularity : 1;
        same = to->shape[d + lead] * parts == from->shape[d] ||
               (d == 0 && may_grow(to) && to->shape[0] > from->shape[0]);
    }
    return same;
}

static sy_status find_sources(sy_recipe *r, int32_t tensor, const char *name)
{
    sy_status st = SY_OK;
    const sy_recipe_spec *spec = &r->spec;
    sy_source_tensor *to = &r->plan.tensor[tensor];
    sy__ingredient *item = &r->item[tensor];
    char want[96], have[96];
    SY_TRY(sy_alloc(spec->n_sources, sizeof *item->from, (void **)&item->from));
    for (int32_t s = 0; s < spec->n_sources; s++) {
        const sy_source *source = spec->source[s];
        item->from[s] = sy_source_find(source, name);
        if (item->from[s] < 0 && item->role == SY__ROLE_EXPERT && s > 0 && s == spec->base) {
            continue; /* no adapter, and no expert is made of it */
        }
        SY_REQUIRE(item->from[s] >= 0 || !sy__recipe_is_moment(r), SY_ERR_USAGE,
                   "'%s' has no moments of '%s', which it did not train (train.freeze), to carry "
                   "over to '%s'",
                   source->path, name, to->name);
        SY_REQUIRE(item->from[s] >= 0 || strstr(to->name, "/moe/") == NULL ||
                       strcmp(name, to->name) != 0,
                   SY_ERR_USAGE,
                   "'%s' of the new model's router is nothing that '%s' could fill: moe.router %s "
                   "cannot be made from a model that does not have it; use topk",
                   to->name, source->path, spec->moe->router);
        SY_REQUIRE(item->from[s] >= 0, SY_ERR_USAGE, "'%s' has no tensor '%s' to fill '%s' with",
                   source->path, name, to->name);
        const sy_source_tensor *from = &source->tensor[item->from[s]];
        SY_REQUIRE(fits(spec, item, to, from) && (s == 0 || from->numel == item->known),
                   SY_ERR_USAGE, "'%s': tensor '%s' has shape %s, which cannot fill '%s' of %s",
                   source->path, name, sy__shape_text(from->n_dim, from->shape, have, sizeof have),
                   to->name, sy__shape_text(to->n_dim, to->shape, want, sizeof want));
        item->known = from->numel;
        if (to->packed_columns > 0) {
            SY_REQUIRE(spec->n_sources == 1 || spec->base >= 0, SY_ERR_USAGE,
                       "'%s' of four bits has no mean of several sources; give one source, or one "
                       "for all that is no expert",
                       to->name);
            continue;
        }
        to->dtype = s == 0 || from->dtype == to->dtype             ? from->dtype
                    : from->dtype == SY_F64 || to->dtype == SY_F64 ? SY_F64
                                                                   : SY_F32;
    }
    to->dtype = needs_room(to->dtype, item->scale) ? SY_F32 : to->dtype;
cleanup:
    return st;
}

/* Parts of adapters that no source has. */
static bool is_new_adapter(const sy_recipe *r, const char *name, const char *from)
{
    const sy_moe_config *moe = r->spec.moe;
    const bool whole =
        ends_with(name, "/gate") || ends_with(name, "/up") || ends_with(name, "/down");
    bool known = false;
    for (int32_t s = 0; s < r->spec.n_sources; s++) {
        known = known || sy_source_find(r->spec.source[s], from) >= 0;
    }
    return sy_moe_has_adapters(moe) && !known && !whole &&
           (strstr(name, sy__expert_part) != NULL || strstr(name, "/moe/adapters/") != NULL);
}

static sy_status plan_tensor(sy_recipe *r, int32_t tensor)
{
    sy_status st = SY_OK;
    sy__ingredient *item = &r->item[tensor];
    const char *name = r->plan.tensor[tensor].name;
    char from[SY_PARAM_NAME];
    item->role = classify(name, from);
    if (item->role == SY__ROLE_ROUTER && sy__recipe_is_moment(r)) {
        item->role = SY__ROLE_ZERO;
    }
    if (r->spec.expert_source == NULL) { /* the sources have all that the new model has */
        item->role = SY__ROLE_MIX;
        snprintf(from, sizeof from, "%s", name);
    }
    if (is_new_adapter(r, name, from)) {
        item->role = sy__recipe_is_moment(r) ? SY__ROLE_ZERO : SY__ROLE_ADAPTER;
    }
    item->down = ends_with(name, "/down");
    item->scale = r->spec.expert_source != NULL ? scale_of(&r->spec, name) : 1;
    if (r->plan.tensor[tensor].packed_columns > 0 && r->spec.expert_source != NULL) {
        char plain[SY_PARAM_NAME]; /* "layers/003/moe/base/down" */
        item->role = SY__ROLE_PACKED;
        from[strlen(from) - strlen("_nf4")] = '\0';
        snprintf(plain, sizeof plain, "%.*s", (int)(strlen(name) - strlen("_nf4")), name);
        item->scale = scale_of(&r->spec, plain);
    }
    if (item->role == SY__ROLE_MIX || item->role == SY__ROLE_EXPERT ||
        item->role == SY__ROLE_PACKED) {
        SY_TRY(find_sources(r, tensor, from));
    }
    if (item->role == SY__ROLE_EXPERT && r->spec.method == SY_UPCYCLE_DROP) {
        SY_TRY(sy_alloc(r->spec.moe->experts, sizeof *item->lost, (void **)&item->lost));
    } else if (item->role == SY__ROLE_EXPERT && r->spec.method == SY_UPCYCLE_GRANULAR) {
        SY_TRY(sy_alloc(r->spec.n_sources, sizeof *item->lost, (void **)&item->lost));
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
            if (r->item[i].from != NULL && r->item[i].from[s] >= 0) {
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
    bool twice = false;
    for (int32_t i = 0; i < r->plan.n; i++) {
        twice = twice || r->plan.tensor[i].dtype == SY_F64;
    }
    for (int32_t i = 0; i < r->plan.n; i++) {
        if (r->item[i].from == NULL) {
            r->plan.tensor[i].dtype = twice ? SY_F64 : SY_F32;
        }
    }
}

/* Masters are those that the source has, whose model is of bf16; what the new model keeps wide is
   its own master. */
static void keep_masters(sy_recipe *r)
{
    char from[SY_PARAM_NAME];
    int32_t n = 0;
    for (int32_t i = 0; i < r->plan.n; i++) {
        sy__role role = classify(r->plan.tensor[i].name, from);
        if ((role == SY__ROLE_MIX || role == SY__ROLE_EXPERT) &&
            sy_source_find(r->spec.source[0], from) >= 0 &&
            !needs_room(SY_BF16, scale_of(&r->spec, r->plan.tensor[i].name))) {
            r->plan.tensor[n++] = r->plan.tensor[i];
        }
    }
    r->plan.n = n;
}

static sy_status list_tensors(sy_recipe *r)
{
    sy_status st = SY_OK;
    const sy_recipe_spec *s = &r->spec;
    if (s->values == SY_RECIPE_MODEL) {
        return sy_blueprint_create(s->model, s->moe, &r->plan);
    }
    SY_TRY(sy_blueprint_create_trained(s->model, s->moe, s->freeze, s->n_freeze, &r->plan));
    if (s->values == SY_RECIPE_MASTER) {
        keep_masters(r);
    }
cleanup:
    return st;
}

sy_status sy_recipe_create(const sy_recipe_spec *spec, sy_recipe **out)
{
    sy_status st = SY_OK;
    const int64_t F = (int64_t)spec->moe->expert_hidden * spec->granularity;
    sy_recipe *r = NULL;
    SY_REQUIRE(spec->expert_source == NULL || spec->moe->expert_widths.n == 0, SY_ERR_USAGE,
               "moe.expert_widths: experts of different width cannot be copies of one dense MLP; "
               "leave it out, or train them from the start");
    SY_REQUIRE(spec->expert_source == NULL || !sy_moe_has_adapters(spec->moe) ||
                   spec->method == SY_UPCYCLE_COPY,
               SY_ERR_USAGE,
               "experts that are adapters (moe.adapter_kind, moe.adapter_rank) share one copy of "
               "the dense MLP: upcycle them with --method copy");
    SY_TRY(sy_alloc(1, sizeof *r, (void **)&r));
    r->spec = *spec;
    SY_TRY(list_tensors(r));
    SY_TRY(sy_alloc(r->plan.n, sizeof *r->item, (void **)&r->item));
    SY_TRY(sy_alloc(2 * SY__RECIPE_BLOCK, sizeof *r->block, (void **)&r->block));
    SY_TRY(sy_alloc(F, sizeof *r->unit, (void **)&r->unit));
    SY_TRY(sy_alloc(F, sizeof *r->place, (void **)&r->place));
    SY_TRY(sy_alloc(F, sizeof(double), (void **)&r->row));
    r->unit_tensor = -1;
    for (int32_t i = 0; i < r->plan.n; i++) {
        SY_TRY(plan_tensor(r, i));
    }
    SY_TRY(spec->values == SY_RECIPE_MODEL ? check_all_used(r) : SY_OK);
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
        sy_free(&r->item[i].mean);
        sy_free(&r->item[i].lost);
        sy_free(&r->item[i].from);
    }
    sy_free(&r->row);
    sy_free(&r->place);
    sy_free(&r->unit);
    sy_free(&r->block);
    sy_free(&r->item);
    sy_blueprint_free(&r->plan);
    sy_free(recipe);
}

bool sy__recipe_is_moment(const sy_recipe *r)
{
    return r->spec.values == SY_RECIPE_EXP_AVG || r->spec.values == SY_RECIPE_EXP_AVG_SQ;
}

const sy_blueprint *sy_recipe_plan(const sy_recipe *recipe)
{
    return &recipe->plan;
}

sy_recipe_origin sy_recipe_origin_of(const sy_recipe *recipe, int32_t tensor, int32_t source)
{
    const sy__ingredient *item = &recipe->item[tensor];
    return (sy_recipe_origin){.tensor = item->from != NULL ? item->from[source] : -1,
                              .scale = item->scale};
}

/* Are the routed experts of a token, together, the dense MLP, whatever they are? */
static bool is_whole(const sy_recipe_spec *spec)
{
    const int32_t G = spec->granularity;
    switch (spec->method) {
    case SY_UPCYCLE_COPY:
        return true;
    case SY_UPCYCLE_NOISE:
        return spec->noise_std == 0;
    case SY_UPCYCLE_DROP:
        return spec->drop_ratio == 0;
    default:
        return spec->drop_ratio == 0 && spec->moe->top_k % G == 0 && spec->moe->experts % G == 0;
    }
}

/* A softmax adds up to 1 where all experts are chosen. */
static bool is_normal(const sy_moe_config *moe)
{
    return moe->normalize_weights || (moe->score == SY_SCORE_SOFTMAX && moe->top_k == moe->experts);
}

bool sy_recipe_preserves(const sy_recipe_spec *spec)
{
    const sy_moe_config *moe = spec->moe;
    if (moe->adapter_base == SY_BASE_NF4) {
        return false; /* the receipt tells by how much */
    }
    if (spec->n_sources == 1 && sy_moe_has_adapters(moe) &&
        (sy_moe_has_bottlenecks(moe) || moe->adapter_kind == SY_ADAPTER_MOLORA)) {
        return true; /* what they add to the MLP begins as zero */
    }
    return is_whole(spec) && spec->n_sources == 1 && is_normal(moe) && moe->routed_scale == 1 &&
           !moe->eval_capacity_factor.set;
}

/* ---- values ---- */

/* Where the drawn part of a router's row goes, and 0 where there is nothing. */
static const double *router_row(const sy_recipe *r, const sy_source_tensor *t, int64_t copy)
{
    const int32_t n = r->spec.router_texts;
    int layer = 0;
    if (r->spec.router_rows == NULL || sscanf(t->name, "layers/%d/", &layer) != 1 ||
        layer >= r->spec.model->layers) {
        return NULL;
    }
    return r->spec.router_rows + (layer * n + copy % n) * t->shape[1];
}

/* Experts of one copy share a row. */
static void make_router(const sy_recipe *r, const sy_source_tensor *t, int64_t first, int64_t n,
                        char *h_to)
{
    const uint64_t stream = sy_rng_stream_of(t->name);
    const int64_t H = t->shape[1], bytes = (int64_t)sy_dtype_bytes(t->dtype);
    for (int64_t i = 0; i < n; i++) {
        int64_t row = (first + i) / H / r->spec.granularity, column = (first + i) % H;
        const double *text = router_row(r, t, row);
        double x = r->spec.router_std *
                   sy_rng_normal_cut(r->spec.seed, stream, (uint64_t)(row * H + column));
        x += text != NULL ? text[column] : 0;
        sy_convert(t->dtype, h_to + i * bytes, SY_F64, &x, 1);
    }
}

static void make_adapter(const sy_recipe *r, const sy_source_tensor *t, int64_t first, int64_t n,
                         char *h_to)
{
    const uint64_t stream = sy_rng_stream_of(t->name);
    const int64_t bytes = (int64_t)sy_dtype_bytes(t->dtype);
    for (int64_t i = 0; i < n; i++) {
        const uint64_t at = (uint64_t)(first + i);
        const double x = t->init == SY_INIT_NORMAL
                             ? t->init_std * sy_rng_normal_cut(r->spec.seed, stream, at)
                             : t->init == SY_INIT_ONES;
        sy_convert(t->dtype, h_to + i * bytes, SY_F64, &x, 1);
    }
}

sy_status sy_recipe_make(void *self, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                         const void **h_out)
{
    sy_recipe *r = self;
    const sy_source_tensor *t = &r->plan.tensor[tensor];
    *h_out = h_buf;
    switch (r->item[tensor].role) {
    case SY__ROLE_MIX:
        return sy__recipe_mix(r, tensor, first, n, h_buf, h_out);
    case SY__ROLE_EXPERT:
        return sy__recipe_experts(r, tensor, first, n, h_buf);
    case SY__ROLE_ROUTER:
        make_router(r, t, first, n, h_buf);
        return SY_OK;
    case SY__ROLE_PACKED:
        return sy__recipe_packed(r, tensor, first, n, h_buf);
    case SY__ROLE_ADAPTER:
        make_adapter(r, t, first, n, h_buf);
        return SY_OK;
    default:
        memset(h_buf, 0, (size_t)(n * (int64_t)sy_dtype_bytes(t->dtype)));
        return SY_OK;
    }
}

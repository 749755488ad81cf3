/* Experts: the dense MLP, with what a method does to it. All that is drawn is a function of seed,
   tensor, expert and place, so that it does not matter who makes which part. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/rng.h"
#include "upcycle/recipe_impl.h"

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
    for (int64_t done = 0; done < n; done += SY__RECIPE_BLOCK) {
        int64_t m = n - done < SY__RECIPE_BLOCK ? n - done : SY__RECIPE_BLOCK;
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

/* Which unit of the dense MLP a hidden unit of this expert is, the same for gate, up and down; -1:
   none, it is drawn anew. Kept until another expert is asked for. */
static const int64_t *units_of(sy_recipe *r, int32_t tensor, int64_t expert)
{
    const sy_recipe_spec *spec = &r->spec;
    const sy_source_tensor *t = &r->plan.tensor[tensor];
    const int64_t n = r->item[tensor].down ? t->shape[2] : t->shape[1], G = spec->granularity;
    const int64_t n_dropped = llround(spec->drop_ratio * (double)n);
    const bool drop = spec->method == SY_UPCYCLE_DROP;
    char layer[SY_PARAM_NAME];
    if (r->unit_tensor == tensor && r->unit_expert == expert) {
        return r->unit;
    }
    snprintf(layer, sizeof layer, "%.*s", (int)(strstr(t->name, sy__expert_part) - t->name),
             t->name);
    const uint64_t dropped = stream_of(layer, expert, "drop"),
                   shuffled = stream_of(layer, expert / G, "shuffle");
    for (int64_t u = 0; u < n; u++) {
        int64_t at = expert % G * n + u; /* of its copy */
        bool lost = drop && sy_rng_permute(spec->seed, dropped, n, u) < n_dropped;
        r->unit[u] = lost            ? -1
                     : spec->shuffle ? sy_rng_permute(spec->seed, shuffled, G * n, at)
                                     : at;
    }
    memset(r->place, 0xff, (size_t)(G * n) * sizeof *r->place); /* -1 */
    for (int64_t u = 0; u < n; u++) {
        if (r->unit[u] >= 0) {
            r->place[r->unit[u]] = u;
        }
    }
    r->unit_tensor = tensor;
    r->unit_expert = expert;
    return r->unit;
}

/* Mean and unbiased standard deviation of the weights of a dense matrix that an expert loses, by
   two passes; unit NULL: of all. */
static sy_status measure_lost(sy_recipe *r, sy_source *source, int32_t from, const int64_t *unit,
                              bool down, sy__lost *out)
{
    sy_status st = SY_OK;
    const sy_source_tensor *t = &source->tensor[from];
    const int64_t columns = t->shape[1];
    double sum = 0, squares = 0, n = 0;
    for (int32_t pass = 0; pass < 2; pass++) {
        const double mean = n > 0 ? sum / n : 0;
        n = 0;
        for (int64_t at = 0; at < t->numel; at += SY__RECIPE_BLOCK) {
            int64_t m = t->numel - at < SY__RECIPE_BLOCK ? t->numel - at : SY__RECIPE_BLOCK;
            SY_TRY(sy_source_read(source, from, at, m, SY_F64, r->block));
            for (int64_t i = 0; i < m; i++) {
                bool is_lost =
                    unit == NULL || unit[down ? (at + i) % columns : (at + i) / columns] < 0;
                n += is_lost;
                sum += pass == 0 && is_lost ? r->block[i] : 0;
                squares += pass == 1 && is_lost ? (r->block[i] - mean) * (r->block[i] - mean) : 0;
            }
        }
    }
    *out = (sy__lost){true, n > 0 ? sum / n : 0, n > 1 ? sqrt(squares / (n - 1)) : 0};
cleanup:
    return st;
}

/* One weight like those that were lost. Of moments nothing was measured: they are zero. */
static void draw(const sy_recipe *r, const sy__lost *lost, uint64_t stream, int64_t at,
                 sy_dtype dtype, char *h_to)
{
    double x = lost->mean + lost->std * sy_rng_normal(r->spec.seed, stream, (uint64_t)at);
    sy_convert(dtype, h_to, SY_F64, &x, 1);
}

static sy_status drop_units(sy_recipe *r, int32_t tensor, int64_t expert, int64_t first, int64_t n,
                            char *h_to)
{
    sy_status st = SY_OK;
    const sy_source_tensor *t = &r->plan.tensor[tensor];
    sy__ingredient *item = &r->item[tensor];
    const int64_t columns = t->shape[2], bytes = (int64_t)sy_dtype_bytes(t->dtype);
    const int32_t s = r->spec.expert_source[expert];
    const int64_t *unit = units_of(r, tensor, expert);
    const uint64_t stream = stream_of(t->name, expert, "drawn");
    sy__lost *lost = &item->lost[expert];
    if (!lost->known && !sy__recipe_is_moment(r)) {
        SY_TRY(measure_lost(r, r->spec.source[s], item->from[s], unit, item->down, lost));
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t at = first + i;
        if (unit[item->down ? at % columns : at / columns] < 0) {
            draw(r, lost, stream, at, t->dtype, h_to + i * bytes);
        }
    }
cleanup:
    return st;
}

/* A share of all weights, each by itself, drawn like the dense matrix. */
static sy_status draw_share(sy_recipe *r, int32_t tensor, int64_t expert, int64_t first, int64_t n,
                            char *h_to)
{
    sy_status st = SY_OK;
    const sy_source_tensor *t = &r->plan.tensor[tensor];
    sy__ingredient *item = &r->item[tensor];
    const int32_t s = r->spec.expert_source[expert];
    const uint64_t which = stream_of(t->name, expert, "drop"),
                   stream = stream_of(t->name, expert, "drawn");
    sy__lost *lost = &item->lost[s];
    if (!lost->known && !sy__recipe_is_moment(r)) {
        SY_TRY(measure_lost(r, r->spec.source[s], item->from[s], NULL, item->down, lost));
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t at = first + i;
        if (sy_rng_uniform(r->spec.seed, which, (uint64_t)at) < r->spec.drop_ratio) {
            draw(r, lost, stream, at, t->dtype, h_to + i * (int64_t)sy_dtype_bytes(t->dtype));
        }
    }
cleanup:
    return st;
}

/* Rows of gate and up of a narrow expert. They are read in the order of the source, of which so
   each part is read once: where nothing is shuffled they lie together. */
static sy_status cut_rows(sy_recipe *r, int32_t tensor, int64_t expert, int64_t first, int64_t n,
                          char *h_to)
{
    sy_status st = SY_OK;
    const sy_source_tensor *t = &r->plan.tensor[tensor];
    const int32_t s = r->spec.expert_source[expert], from = r->item[tensor].from[s];
    const int64_t H = t->shape[2], F = t->shape[1] * r->spec.granularity;
    const int64_t bytes = (int64_t)sy_dtype_bytes(t->dtype);
    const int64_t *unit = units_of(r, tensor, expert);
    if (!r->spec.shuffle) {
        return sy_source_read(r->spec.source[s], from, unit[0] * H + first, n, t->dtype, h_to);
    }
    for (int64_t f = 0; f < F; f++) {
        int64_t begin = r->place[f] * H - first, end = begin + H, skip = begin < 0 ? -begin : 0;
        end = end < n ? end : n;
        if (r->place[f] >= 0 && begin + skip < end) {
            SY_TRY(sy_source_read(r->spec.source[s], from, f * H + skip, end - begin - skip,
                                  t->dtype, h_to + (begin + skip) * bytes));
        }
    }
cleanup:
    return st;
}

/* Columns of down: without shuffling they lie together in each row. */
static sy_status cut_columns(sy_recipe *r, int32_t tensor, int64_t expert, int64_t first, int64_t n,
                             char *h_to)
{
    sy_status st = SY_OK;
    const sy_source_tensor *t = &r->plan.tensor[tensor];
    const int32_t s = r->spec.expert_source[expert], from = r->item[tensor].from[s];
    const int64_t columns = t->shape[2], F = columns * r->spec.granularity;
    const int64_t bytes = (int64_t)sy_dtype_bytes(t->dtype);
    const int64_t *unit = units_of(r, tensor, expert);
    for (int64_t done = 0, m = 0; done < n; done += m) {
        int64_t row = (first + done) / columns, column = (first + done) % columns;
        m = columns - column < n - done ? columns - column : n - done;
        if (!r->spec.shuffle) {
            SY_TRY(sy_source_read(r->spec.source[s], from, row * F + unit[column], m, t->dtype,
                                  h_to + done * bytes));
            continue;
        }
        SY_TRY(sy_source_read(r->spec.source[s], from, row * F, F, t->dtype, r->row));
        for (int64_t i = 0; i < m; i++) {
            memcpy(h_to + (done + i) * bytes, r->row + unit[column + i] * bytes, (size_t)bytes);
        }
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
    const sy__ingredient *item = &r->item[tensor];
    const sy_upcycle_method method = r->spec.method;
    const int32_t s = r->spec.expert_source[expert];
    if (method != SY_UPCYCLE_GRANULAR) {
        SY_TRY(sy_source_read(r->spec.source[s], item->from[s], first, n, t->dtype, h_to));
    } else if (item->down) {
        SY_TRY(cut_columns(r, tensor, expert, first, n, h_to));
    } else {
        SY_TRY(cut_rows(r, tensor, expert, first, n, h_to));
    }
    if (method == SY_UPCYCLE_NOISE && !sy__recipe_is_moment(r)) {
        SY_TRY(add_noise(r, t, expert, first, n, h_to));
    } else if (method == SY_UPCYCLE_DROP) {
        SY_TRY(drop_units(r, tensor, expert, first, n, h_to));
    } else if (method == SY_UPCYCLE_GRANULAR && r->spec.drop_ratio > 0) {
        SY_TRY(draw_share(r, tensor, expert, first, n, h_to));
    }
    sy__recipe_scale(r, t->dtype, item->scale, n, h_to);
cleanup:
    return st;
}

sy_status sy__recipe_experts(sy_recipe *r, int32_t tensor, int64_t first, int64_t n, char *h_to)
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

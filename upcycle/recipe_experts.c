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

/* Is a hidden unit of an expert drawn anew? The same for gate, up and down of a layer. */
typedef struct drops {
    uint64_t seed, stream;
    int64_t F, n; /* units; of them dropped */
} drops;

static drops drops_of(const sy_recipe *r, const char *name, int64_t F, int64_t expert)
{
    char layer[SY_PARAM_NAME];
    snprintf(layer, sizeof layer, "%.*s", (int)(strstr(name, sy__expert_part) - name), name);
    return (drops){r->spec.seed, stream_of(layer, expert, "drop"), F,
                   llround(r->spec.drop_ratio * (double)F)};
}

static bool is_dropped(const drops *d, int64_t unit)
{
    return sy_rng_permute(d->seed, d->stream, d->F, unit) < d->n;
}

/* Mean and unbiased standard deviation of the weights that are replaced, by two passes. */
static sy_status measure_lost(sy_recipe *r, sy_source *source, int32_t from, const drops *d,
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
                int64_t unit = down ? (at + i) % columns : (at + i) / columns;
                double x = is_dropped(d, unit) ? r->block[i] : 0;
                n += is_dropped(d, unit);
                sum += pass == 0 ? x : 0;
                squares += pass == 1 && is_dropped(d, unit) ? (x - mean) * (x - mean) : 0;
            }
        }
    }
    *out = (sy__lost){true, n > 0 ? sum / n : 0, n > 1 ? sqrt(squares / (n - 1)) : 0};
cleanup:
    return st;
}

static sy_status drop_units(sy_recipe *r, int32_t tensor, int64_t expert, int64_t first, int64_t n,
                            char *h_to)
{
    sy_status st = SY_OK;
    const sy_source_tensor *t = &r->plan.tensor[tensor];
    sy__ingredient *item = &r->item[tensor];
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

/* A narrow expert: some rows of gate and up, some columns of down. */
static sy_status cut_shard(sy_recipe *r, int32_t tensor, int64_t expert, int64_t first, int64_t n,
                           char *h_to)
{
    sy_status st = SY_OK;
    const sy_source_tensor *t = &r->plan.tensor[tensor];
    const sy__ingredient *item = &r->item[tensor];
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
        SY_TRY(sy_source_read(r->spec.source[s], item->from[s],
                              row * columns * G + shard * columns + column, m, t->dtype,
                              h_to + done * bytes));
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
        SY_TRY(cut_shard(r, tensor, expert, first, n, h_to));
    } else {
        SY_TRY(
            sy_source_read(r->spec.source[s], r->item[tensor].from[s], first, n, t->dtype, h_to));
    }
    if (r->spec.method == SY_UPCYCLE_NOISE) {
        SY_TRY(add_noise(r, t, expert, first, n, h_to));
    } else if (r->spec.method == SY_UPCYCLE_DROP) {
        SY_TRY(drop_units(r, tensor, expert, first, n, h_to));
    }
    sy__recipe_scale(r, t->dtype, r->item[tensor].scale, n, h_to);
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

#include "train/check_digest.h"

#include <math.h>
#include <stdio.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "parallel/agree.h"
#include "train/check_impl.h"

enum { SEED = 20240607, BLOCK = 512 };

typedef struct collector {
    sy_digest *digest; /* norms are still squares */
    int32_t capacity;
} collector;

static sy_status add_entry(collector *c, const char *name, int32_t expert)
{
    sy_status st = SY_OK;
    sy_digest *d = c->digest;
    if (d->n == c->capacity) {
        int32_t capacity = 2 * c->capacity + 64;
        SY_TRY(sy_realloc(capacity, sizeof *d->entry, (void **)&d->entry));
        SY_TRY(sy_realloc(capacity, sizeof *d->figures, (void **)&d->figures));
        c->capacity = capacity;
    }
    d->entry[d->n] = (sy_digest_entry){.expert = expert};
    d->figures[d->n] = (sy_digest_figures){0};
    snprintf(d->entry[d->n++].name, SY_PARAM_NAME, "%s", name);
cleanup:
    return st;
}

/* n elements of a tensor from index `first` on. A draw has four words: one for each projection,
   uniform with variance 1. */
static void project_block(const double *x, int64_t first, int64_t n, uint64_t stream,
                          sy_digest_figures *out)
{
    const double width = 2 * sqrt(3.0) / 4294967296.0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t word[SY_N_PROJECTIONS];
        sy_rng_block(SEED, stream, (uint64_t)(first + i), word);
        out->norm += x[i] * x[i];
        for (int32_t k = 0; k < SY_N_PROJECTIONS; k++) {
            out->projection[k] += x[i] * (word[k] * width - sqrt(3.0));
        }
    }
}

static void project(const char *x, sy_dtype dtype, int64_t first, int64_t n, uint64_t stream,
                    sy_digest_figures *out)
{
    double block[BLOCK];
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t m = n - i < BLOCK ? n - i : BLOCK;
        sy_convert(SY_F64, block, dtype, x + i * (int64_t)sy_dtype_bytes(dtype), m);
        project_block(block, first + i, m, stream, out);
    }
}

/* A tensor of three dimensions is a matrix for each expert. */
static sy_status collect(void *self, const sy_field *field)
{
    sy_status st = SY_OK;
    collector *c = self;
    const char *name = field->name + strlen("g/");
    const int32_t n_experts = field->n_dim == 3 ? (int32_t)field->shape_glb[0] : 1;
    const int32_t first = c->digest->n;
    int64_t each = 1; /* elements of an entry */
    for (int32_t d = field->n_dim == 3; d < field->n_dim; d++) {
        each *= field->shape_glb[d];
    }
    for (int32_t e = 0; e < n_experts; e++) {
        SY_TRY(add_entry(c, name, field->n_dim == 3 ? e : -1));
    }
    for (int32_t i = 0; i < field->n_parts; i++) {
        const sy_part *part = &field->parts[i];
        const char *x = part->data;
        int64_t at = sy_box_offset(&part->box, field->shape_glb);
        const int64_t end = at + sy_box_numel(&part->box);
        while (at < end && part->write) {
            int64_t e = at / each, stop = (e + 1) * each < end ? (e + 1) * each : end;
            project(x, field->dtype, at, stop - at, sy_rng_stream_of(name),
                    &c->digest->figures[first + e]);
            x += (stop - at) * (int64_t)sy_dtype_bytes(field->dtype);
            at = stop;
        }
    }
cleanup:
    return st;
}

sy_status sy_digest_gradients(const sy_params *params, sy_stream *stream, void **out)
{
    sy_status st = SY_OK;
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(params->wide);
    char *h_grad = NULL;
    SY_TRY(sy_alloc(params->shard_n, (size_t)elem_bytes, (void **)&h_grad));
    for (int32_t i = 0; i < params->n_ranges; i++) {
        const sy_range *r = &params->range[i];
        SY_TRY(
            sy_copy_d2h(stream, h_grad + r->shard_offset * elem_bytes, r->grad, r->n * elem_bytes));
    }
    SY_TRY(sy_stream_sync(stream));
    *out = h_grad;
    h_grad = NULL;
cleanup:
    sy_free(&h_grad);
    return st;
}

/* Sums over the elements of this rank. */
static sy_status collect_all(const sy_params *params, sy_stream *stream, sy_digest *digest)
{
    sy_status st = SY_OK;
    collector c = {.digest = digest};
    void *h_grad = NULL;
    SY_TRY(sy_digest_gradients(params, stream, &h_grad));
    SY_TRY(sy_params_walk_shard(params, "g", params->wide, h_grad, false, collect, &c));
cleanup:
    sy_free(&h_grad);
    return st;
}

sy_status sy_digest_take(const sy_params *params, sy_stream *stream, sy_digest *out)
{
    sy_status st = SY_OK;
    sy_comm *host = params->mesh->host;
    sy_digest d = {0};
    SY_TRY(sy_agree(host, collect_all(params, stream, &d)));
    SY_TRY(sy_host_all_reduce(host, d.figures, d.n * (int64_t)(sizeof *d.figures / sizeof(double)),
                              SY_F64, SY_SUM, "gradient digest"));
    for (int32_t i = 0; i < d.n; i++) {
        d.figures[i].norm = sqrt(d.figures[i].norm);
    }
    sy_digest_free(out);
    *out = d;
    d = (sy_digest){0};
cleanup:
    sy_digest_free(&d);
    return st;
}

void sy_digest_free(sy_digest *digest)
{
    sy_free(&digest->figures);
    sy_free(&digest->entry);
    digest->n = 0;
}

static double norm_of_all(const sy_digest *d)
{
    double square = 0;
    for (int32_t i = 0; i < d->n; i++) {
        square += d->figures[i].norm * d->figures[i].norm;
    }
    return sqrt(square);
}

static double gap_of(const sy_digest_figures *a, const sy_digest_figures *b, double at_least)
{
    double square = 0, apart;
    for (int32_t k = 0; k < SY_N_PROJECTIONS; k++) {
        double d = a->projection[k] - b->projection[k];
        square += d * d;
    }
    apart = fmax(sqrt(square / SY_N_PROJECTIONS), fabs(a->norm - b->norm));
    if (isnan(square)) { /* fmax would hide it */
        apart = NAN;
    }
    return apart == 0 ? 0 : apart / fmax(a->norm, at_least);
}

double sy_digest_entry_gap(const sy_digest *a, const sy_digest *b, double floor, int32_t i)
{
    return gap_of(&a->figures[i], &b->figures[i], floor * norm_of_all(a));
}

double sy_digest_gap(const sy_digest *a, const sy_digest *b, double floor, int32_t *at)
{
    const double at_least = floor * norm_of_all(a);
    double worst = 0;
    *at = 0;
    for (int32_t i = 0; i < a->n; i++) {
        double g = gap_of(&a->figures[i], &b->figures[i], at_least);
        if (sy__is_worse(g, worst)) {
            worst = g;
            *at = i;
        }
    }
    return worst;
}

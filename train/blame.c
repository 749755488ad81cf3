/* Every rank says where it saw the trouble first, as a number that grows along the order of a step:
 * forward by layers, the loss, then gradients in the order of backward. The smallest number of all
 * ranks is the answer. */
#include "train/blame.h"

#include <math.h>
#include <stdio.h>

#include "core/alloc.h"
#include "parallel/agree.h"

enum { CHUNK = 1 << 16, STAGES = 3 }; /* elements read at a time; places in a layer's forward */

typedef struct search {
    const sy_trainer *t;
    char *h_raw;     /* [CHUNK] wide */
    double *h_x;     /* [CHUNK] */
    double *squares; /* [n] of each parameter's gradient, of this rank */
    int64_t place;   /* INT64_MAX: all is finite here */
    int64_t element; /* of the parameter, where a gradient is meant */
} search;

static int64_t n_forward_places(const sy_trainer *t)
{
    return (int64_t)sy_engine_blocks(t->engine) * STAGES + 1;
}

/* What this rank's statistics say, before those of others came in. */
static int64_t place_in_forward(const sy_trainer *t)
{
    static const int32_t sum[STAGES] = {SY_SUM_INPUT, SY_SUM_ENTROPY, SY_SUM_OUTPUT};
    const double *h = t->engine->h_own_sums;
    const int64_t n = n_forward_places(t);
    for (int64_t i = 0; i < n - 1; i++) {
        if (!isfinite(h[2 + i / STAGES * SY_N_SUMS + sum[i % STAGES]])) {
            return i;
        }
    }
    return isfinite(h[1]) ? INT64_MAX : n - 1;
}

/* Of elements [begin, end) of a segment, which lie in a range: *squares += their squares; the first
   that is not finite, if *bad is -1. */
static sy_status read_range(search *s, const sy_range *range, int64_t begin, int64_t end,
                            double *squares, int64_t *bad)
{
    sy_status st = SY_OK;
    sy_stream *stream = s->t->engine->compute_stream;
    const sy_dtype wide = s->t->engine->params->wide;
    const int64_t bytes = (int64_t)sy_dtype_bytes(wide);
    for (int64_t at = begin; at < end; at += CHUNK) {
        const int64_t now = end - at < CHUNK ? end - at : CHUNK;
        const char *grad = (const char *)range->grad + (at - range->offset) * bytes;
        SY_TRY(sy_copy_d2h(stream, s->h_raw, grad, now * bytes));
        SY_TRY(sy_stream_sync(stream));
        sy_convert(SY_F64, s->h_x, wide, s->h_raw, now);
        for (int64_t i = 0; i < now; i++) {
            *squares += s->h_x[i] * s->h_x[i];
            *bad = *bad < 0 && !isfinite(s->h_x[i]) ? at + i : *bad;
        }
    }
cleanup:
    return st;
}

/* Sum of squares of what this rank has of a reduced gradient; the first of the parameter's elements
   that is not finite, -1: none. */
static sy_status read_gradient(search *s, const sy_param *p, double *squares, int64_t *bad)
{
    sy_status st = SY_OK;
    const sy_params *params = s->t->engine->params;
    const int64_t end = p->offset + sy_box_numel(&p->box);
    *squares = 0;
    *bad = -1;
    for (int32_t i = 0; i < params->n_ranges; i++) {
        const sy_range *r = &params->range[i];
        if (r->segment == p->segment && r->offset < end && r->offset + r->n > p->offset) {
            SY_TRY(read_range(s, r, r->offset > p->offset ? r->offset : p->offset,
                              r->offset + r->n < end ? r->offset + r->n : end, squares, bad));
        }
    }
    *bad -= *bad >= 0 ? p->offset : 0;
cleanup:
    return st;
}

static sy_status look(search *s)
{
    sy_status st = SY_OK;
    const sy_params *params = s->t->engine->params;
    int64_t bad = -1;
    SY_TRY(sy_alloc(CHUNK, sizeof(double), (void **)&s->h_raw));
    SY_TRY(sy_alloc(CHUNK, sizeof *s->h_x, (void **)&s->h_x));
    SY_TRY(sy_alloc(params->n, sizeof *s->squares, (void **)&s->squares));
    s->place = place_in_forward(s->t);
    for (int32_t i = params->n - 1; i >= 0; i--) {
        const sy_param *p = params->param[i];
        if (p->grad.data == NULL) {
            continue;
        }
        SY_TRY(read_gradient(s, p, &s->squares[i], &bad));
        if (params->zero == 0) { /* all replicas hold the same */
            s->squares[i] /= params->mesh->group[p->spec.replicas]->size;
        }
        if (bad >= 0 && s->place == INT64_MAX) {
            s->place = n_forward_places(s->t) + params->n - 1 - i;
            s->element = bad;
        }
    }
cleanup:
    return st;
}

/* The tensor of the file that an element of a parameter is of, and of an expert which. */
static void name_element(const sy_param *p, int64_t element, char *buf, size_t buf_bytes)
{
    const sy_param_spec *spec = &p->spec;
    const char *name = spec->name;
    int64_t at[SY_MAX_DIM], rest = element;
    for (int32_t d = p->box.n_dim - 1; d >= 0; d--) {
        at[d] = p->box.start[d] + rest % p->box.shape[d];
        rest /= p->box.shape[d];
    }
    int64_t along = spec->n_pieces > 0 ? at[spec->piece_dim] : 0;
    for (int32_t i = 0; i < spec->n_pieces; i++) {
        if (along < spec->piece[i].extent) {
            name = spec->piece[i].name;
            break;
        }
        along -= spec->piece[i].extent;
    }
    if (spec->shard_by == SY_EP && spec->shard_dim == 0) {
        snprintf(buf, buf_bytes, "model/%s, expert %ld", name, (long)at[0]);
    } else {
        snprintf(buf, buf_bytes, "model/%s", name);
    }
}

/* place is the smallest of all ranks, met on `rank`; on that rank s->element is its own. */
static sy_status tell_place(search *s, int64_t place, int32_t rank, char *text)
{
    static const char *const stage[STAGES] = {"what the MoE of layer %d receives",
                                              "the router's scores of layer %d",
                                              "what the MoE of layer %d gives"};
    sy_status st = SY_OK;
    const sy_params *params = s->t->engine->params;
    sy_comm *host = s->t->engine->mesh->host;
    const int64_t n = n_forward_places(s->t);
    char what[SY_BLAME_BYTES / 2 + 32] = "the loss";
    if (place < n - 1) {
        snprintf(what, sizeof what, stage[place % STAGES], (int)(place / STAGES));
    } else if (place >= n) {
        const sy_param *p = params->param[params->n - 1 - (place - n)];
        char name[sizeof what] = "";
        if (host->rank == rank) {
            name_element(p, s->element, name, sizeof name);
        }
        SY_TRY(sy_host_broadcast(host, name, sizeof name, rank, "blame"));
        snprintf(what, sizeof what, "the gradient of %.*s", SY_BLAME_BYTES / 2, name);
    }
    snprintf(text, SY_BLAME_BYTES, "first in %s, on rank %d", what, rank);
cleanup:
    return st;
}

/* The parameter with the largest gradient. */
static void tell_largest(const search *s, char *text)
{
    const sy_params *params = s->t->engine->params;
    double all = 0;
    int32_t most = 0;
    for (int32_t i = 0; i < params->n; i++) {
        all += s->squares[i];
        most = s->squares[i] > s->squares[most] ? i : most;
    }
    snprintf(text, SY_BLAME_BYTES, "the largest gradient is that of model/%s, %.0f %% of the norm",
             params->param[most]->spec.name, all > 0 ? 100 * sqrt(s->squares[most] / all) : 0);
}

sy_status sy_blame(const sy_trainer *t, const sy_step_result *r, char *text)
{
    sy_status st = SY_OK;
    sy_comm *host = t->engine->mesh->host;
    search s = {.t = t, .place = INT64_MAX};
    int64_t first;
    text[0] = '\0';
    SY_TRY(sy_agree(host, look(&s)));
    if (r->trouble.kind != SY_TROUBLE_NONFINITE) {
        SY_TRY(sy_host_all_reduce(host, s.squares, t->engine->params->n, SY_F64, SY_SUM, "blame"));
        tell_largest(&s, text);
        goto cleanup;
    }
    first = s.place == INT64_MAX ? INT64_MAX : s.place * host->size + host->rank;
    SY_TRY(sy_host_all_reduce(host, &first, 1, SY_I64, SY_MIN, "blame"));
    if (first == INT64_MAX) {
        snprintf(text, SY_BLAME_BYTES, "every gradient is finite by itself: the sum overflows");
    } else {
        SY_TRY(tell_place(&s, first / host->size, (int32_t)(first % host->size), text));
    }
cleanup:
    sy_free(&s.squares);
    sy_free(&s.h_x);
    sy_free(&s.h_raw);
    return st;
}

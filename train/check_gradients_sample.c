/* Which coordinates are looked at, and where each lies on this rank. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "parallel/agree.h"
#include "train/check_gradients_impl.h"

enum { SEED = 77, MAX_ROUTER_ROWS = 8 };

/* ---- the tensors ---- */

typedef struct listing {
    sy__samples *samples;
    double *largest; /* [n_tensors] of this rank's elements */
    int32_t capacity;
} listing;

static sy_status list_tensor(void *self, const sy_field *field)
{
    sy_status st = SY_OK;
    listing *l = self;
    sy__samples *s = l->samples;
    if (s->n_tensors == l->capacity) {
        int32_t capacity = 2 * l->capacity + 64;
        SY_TRY(sy_realloc(capacity, sizeof *s->tensor, (void **)&s->tensor));
        SY_TRY(sy_realloc(capacity, sizeof *l->largest, (void **)&l->largest));
        l->capacity = capacity;
    }
    sy__sampled_tensor *t = &s->tensor[s->n_tensors];
    double *largest = &l->largest[s->n_tensors++];
    *t = (sy__sampled_tensor){.n_dim = field->n_dim, .n = 1, .largest = INT64_MAX};
    *largest = -1;
    snprintf(t->name, sizeof t->name, "%s", field->name + strlen("g/"));
    for (int32_t d = 0; d < field->n_dim; d++) {
        t->shape[d] = field->shape_glb[d];
        t->n *= field->shape_glb[d];
    }
    for (int32_t i = 0; i < field->n_parts; i++) {
        const double *x = field->parts[i].data;
        int64_t first = sy_box_offset(&field->parts[i].box, field->shape_glb);
        for (int64_t k = 0; k < sy_box_numel(&field->parts[i].box); k++) {
            if (fabs(x[k]) > *largest) {
                *largest = fabs(x[k]);
                t->largest = first + k;
            }
        }
    }
cleanup:
    return st;
}

/* The tensors and the place of each one's largest gradient over all ranks; of equals the first. */
static sy_status list_tensors(const sy__subject *s, void *h_grad, sy__samples *out)
{
    sy_status st = SY_OK;
    const sy_params *params = s->t->engine->params;
    listing l = {.samples = out};
    double *mine = NULL;
    int64_t *place = NULL;
    SY_TRY(sy_params_walk_shard(params, "g", params->wide, h_grad, false, list_tensor, &l));
    SY_TRY(sy_alloc(out->n_tensors, sizeof *mine, (void **)&mine));
    SY_TRY(sy_alloc(out->n_tensors, sizeof *place, (void **)&place));
    memcpy(mine, l.largest, (size_t)out->n_tensors * sizeof *mine);
    SY_TRY(sy_host_all_reduce(params->mesh->host, l.largest, out->n_tensors, SY_F64, SY_MAX,
                              "largest gradients"));
    for (int32_t i = 0; i < out->n_tensors; i++) {
        place[i] = mine[i] == l.largest[i] ? out->tensor[i].largest : INT64_MAX;
    }
    SY_TRY(sy_host_all_reduce(params->mesh->host, place, out->n_tensors, SY_I64, SY_MIN,
                              "largest gradients"));
    for (int32_t i = 0; i < out->n_tensors; i++) {
        sy__sampled_tensor *t = &out->tensor[i];
        t->largest = place[i] < t->n ? place[i] : 0;
        t->each = t->n_dim == 3 && t->shape[0] == sy_engine_experts(s->t->engine)
                      ? t->n / t->shape[0]
                      : 0;
    }
cleanup:
    sy_free(&place);
    sy_free(&mine);
    sy_free(&l.largest);
    return st;
}

/* ---- the coordinates ---- */

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* The k-th expert to look at: the one with most tokens, then any that has some. */
static int64_t pick_expert(const sy__subject *s, const char *name, int32_t k, uint64_t draw)
{
    const sy_engine *e = s->t->engine;
    const int32_t E = sy_engine_experts(e);
    const int64_t *kept = e->h_loads + (int64_t)sy_engine_blocks(e) * E;
    int32_t layer = 0, n_used = 0, busiest = 0, used = 0;
    sscanf(name, "layers/%d/", &layer);
    kept += (int64_t)layer * E;
    for (int32_t i = 0; i < E; i++) {
        n_used += kept[i] > 0;
        busiest = kept[i] > kept[busiest] ? i : busiest;
    }
    if (k == 0 || n_used == 0) {
        return busiest;
    }
    for (int32_t skip = (int32_t)(draw % (uint64_t)n_used); used < E; used++) {
        if (kept[used] > 0 && skip-- == 0) {
            break;
        }
    }
    return used;
}

static int64_t pick_index(const sy__subject *s, const sy__sampled_tensor *t, int32_t k,
                          const int32_t *ids, int32_t n_ids)
{
    const uint64_t stream = sy_rng_stream_of(t->name);
    const uint64_t draw = sy_rng_u64(SEED, stream, (uint64_t)(2 * k));
    const uint64_t which = sy_rng_u64(SEED, stream, (uint64_t)(2 * k + 1));
    const int64_t each = t->n_dim > 0 && t->shape[0] > 0 ? t->n / t->shape[0] : 1;
    if (t->each > 0) {
        return pick_expert(s, t->name, k, which) * each + (int64_t)(draw % (uint64_t)each);
    }
    if (ends_with(t->name, "moe/router")) {
        return k * t->shape[0] / (t->n_coordinates - 1) * each + (int64_t)(draw % (uint64_t)each);
    }
    if (strcmp(t->name, "embed") == 0 && n_ids > 0) {
        return ids[which % (uint64_t)n_ids] * each + (int64_t)(draw % (uint64_t)each);
    }
    return (int64_t)(draw % (uint64_t)t->n);
}

/* Of a router each expert's row, up to a number of them. */
static int32_t how_many(const sy__sampled_tensor *t, int32_t per_tensor)
{
    int64_t rows = t->shape[0] < MAX_ROUTER_ROWS ? t->shape[0] : MAX_ROUTER_ROWS;
    return ends_with(t->name, "moe/router") && rows >= per_tensor ? (int32_t)rows + 1 : per_tensor;
}

static sy_status draw_all(const sy__subject *s, int32_t per_tensor, const int32_t *ids,
                          int32_t n_ids, sy__samples *out)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < out->n_tensors; i++) {
        sy__sampled_tensor *t = &out->tensor[i];
        t->first = out->n;
        t->n_coordinates = how_many(t, per_tensor);
        out->n += t->n_coordinates;
    }
    SY_TRY(sy_alloc(out->n, sizeof *out->coordinate, (void **)&out->coordinate));
    for (int32_t i = 0; i < out->n_tensors; i++) {
        const sy__sampled_tensor *t = &out->tensor[i];
        for (int32_t k = 0; k < t->n_coordinates; k++) {
            bool last = k > 0 && k == t->n_coordinates - 1;
            out->coordinate[t->first + k] = (sy__coordinate){
                .tensor = i, .index = last ? t->largest : pick_index(s, t, k, ids, n_ids)};
        }
    }
cleanup:
    return st;
}

/* ---- where they lie ---- */

typedef struct finder {
    sy__samples *samples;
    double *value; /* [n] of the elements that this rank answers for; else 0 */
    bool slopes;   /* parts are host doubles; else device memory of the values */
} finder;

static sy__sampled_tensor *tensor_of(const sy__samples *s, const char *name)
{
    for (int32_t i = 0; i < s->n_tensors; i++) {
        if (strcmp(s->tensor[i].name, name) == 0) {
            return &s->tensor[i];
        }
    }
    return NULL; /* frozen */
}

static void find_in_part(const finder *f, const sy__sampled_tensor *t, const sy_field *field,
                         const sy_part *part)
{
    const int64_t begin = sy_box_offset(&part->box, field->shape_glb);
    for (int32_t i = t->first; i < t->first + t->n_coordinates; i++) {
        sy__coordinate *c = &f->samples->coordinate[i];
        int64_t at = c->index - begin;
        if (at < 0 || at >= sy_box_numel(&part->box)) {
            continue;
        }
        if (f->slopes) {
            f->value[i] = part->write ? ((const double *)part->data)[at] : f->value[i];
        } else {
            c->at = (char *)part->data + at * (int64_t)sy_dtype_bytes(field->dtype);
        }
    }
}

static sy_status find_in_field(void *self, const sy_field *field)
{
    const finder *f = self;
    const sy__sampled_tensor *t = tensor_of(f->samples, field->name + strlen("g/"));
    for (int32_t i = 0; t != NULL && i < field->n_parts; i++) {
        find_in_part(f, t, field, &field->parts[i]);
    }
    return SY_OK;
}

/* One owner of each coordinate tells its value; on ref, values are doubles. */
static sy_status read_values(const sy__subject *s, sy__samples *out, double *value)
{
    sy_status st = SY_OK;
    sy_comm *host = s->t->engine->mesh->host;
    sy_stream *stream = s->t->engine->compute_stream;
    for (int32_t i = 0; i < out->n; i++) {
        value[i] = -INFINITY;
        if (out->coordinate[i].at != NULL) {
            SY_TRY(sy_copy_d2h(stream, &value[i], out->coordinate[i].at, sizeof *value));
        }
    }
    SY_TRY(sy_stream_sync(stream));
    SY_TRY(sy_host_all_reduce(host, value, out->n, SY_F64, SY_MAX, "sampled values"));
    for (int32_t i = 0; i < out->n; i++) {
        out->coordinate[i].x = value[i];
    }
cleanup:
    return st;
}

static sy_status find_all(const sy__subject *s, void *h_grad, sy__samples *out)
{
    sy_status st = SY_OK;
    const sy_params *params = s->t->engine->params;
    finder f = {.samples = out, .slopes = true};
    SY_TRY(sy_alloc(out->n, sizeof *f.value, (void **)&f.value));
    SY_TRY(sy_params_walk_shard(params, "g", params->wide, h_grad, false, find_in_field, &f));
    SY_TRY(sy_host_all_reduce(params->mesh->host, f.value, out->n, SY_F64, SY_SUM,
                              "sampled gradients"));
    for (int32_t i = 0; i < out->n; i++) {
        out->coordinate[i].slope = f.value[i];
    }
    f.slopes = false;
    SY_TRY(sy_params_walk(params, "g", find_in_field, &f));
    SY_TRY(read_values(s, out, f.value));
cleanup:
    sy_free(&f.value);
    return st;
}

/* The tokens of rank 0's first micro-batch: their rows of the embedding are used. */
static sy_status first_tokens(const sy__subject *s, int32_t **ids, int32_t *n)
{
    sy_status st = SY_OK;
    sy_comm *host = s->t->engine->mesh->host;
    const sy_step_batch *batch = NULL;
    SY_TRY(sy_agree(host, sy_loader_take(s->t->loader, s->t->count.data_step, &batch)));
    *n = batch->n_micro > 0 ? batch->micro[0].B * batch->micro[0].S : 0;
    SY_TRY(sy_host_broadcast(host, n, sizeof *n, 0, "sampled tokens"));
    SY_TRY(sy_alloc(*n, sizeof **ids, (void **)ids));
    if (host->rank == 0) {
        memcpy(*ids, batch->micro[0].ids, (size_t)*n * sizeof **ids);
    }
    SY_TRY(sy_host_broadcast(host, *ids, *n * (int64_t)sizeof **ids, 0, "sampled tokens"));
cleanup:
    return st;
}

sy_status sy__samples_draw(const sy__subject *s, int32_t per_tensor, sy__samples *out)
{
    sy_status st = SY_OK;
    const sy_engine *e = s->t->engine;
    void *h_grad = NULL;
    int32_t *ids = NULL, n_ids = 0;
    SY_TRY(sy_digest_gradients(e->params, e->compute_stream, &h_grad));
    SY_TRY(list_tensors(s, h_grad, out));
    SY_TRY(first_tokens(s, &ids, &n_ids));
    SY_TRY(draw_all(s, per_tensor, ids, n_ids, out));
    SY_TRY(find_all(s, h_grad, out));
cleanup:
    sy_free(&ids);
    sy_free(&h_grad);
    return st;
}

void sy__samples_free(sy__samples *samples)
{
    sy_free(&samples->coordinate);
    sy_free(&samples->tensor);
    *samples = (sy__samples){0};
}

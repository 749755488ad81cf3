/* Parameters as fields: what this rank holds of every piece, as stretches that are contiguous both
   in memory and in the piece. */
#include "parallel/param_impl.h"

#include <stdio.h>

#include "core/alloc.h"

typedef struct walk {
    const sy_params *params;
    const char *prefix;
    sy_emit *emit;
    void *to;
    sy_part *part; /* of the field being put together; kept from field to field */
    int32_t n_parts, capacity;
} walk;

/* Elements [begin, end) of a piece, which lie at `data`. */
static sy_status add_parts(walk *w, const sy_field *field, int64_t begin, int64_t end, char *data,
                           bool write)
{
    sy_status st = SY_OK;
    sy_box box[2 * SY_MAX_DIM];
    int32_t n = sy_boxes_from_range(field->n_dim, field->shape_glb, begin, end, box);
    if (w->n_parts + n > w->capacity) {
        int32_t capacity = 2 * (w->n_parts + n);
        SY_TRY(sy_realloc(capacity, sizeof *w->part, (void **)&w->part));
        w->capacity = capacity;
    }
    for (int32_t i = 0; i < n; i++) {
        w->part[w->n_parts++] = (sy_part){.box = box[i], .data = data, .write = write};
        data += sy_box_numel(&box[i]) * (int64_t)sy_dtype_bytes(field->dtype);
    }
cleanup:
    return st;
}

/* Replicas hold the same; they take turns at writing. */
static bool is_writer(const walk *w, const sy_param *p)
{
    const sy_comm *replicas = sy__replicas(w->params, p->spec.replicas);
    return p->index % replicas->size == replicas->rank;
}

static sy_status add_values(walk *w, const sy_param *p, int32_t piece, const sy_field *field)
{
    sy_status st = SY_OK;
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(field->dtype);
    for (int64_t k = 0; k < sy__param_n_runs(p); k++) {
        sy__run run = sy__piece_run(p, piece, k);
        SY_TRY(add_parts(w, field, run.index, run.index + run.n,
                         (char *)p->value.data + run.at * elem_bytes, is_writer(w, p)));
    }
cleanup:
    return st;
}

/* What of one run lies in this rank's ranges. */
static sy_status add_run_of_shard(walk *w, const sy_param *p, sy__run run, char *data,
                                  const sy_field *field)
{
    sy_status st = SY_OK;
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(field->dtype);
    const int64_t run_begin = p->offset + run.at, run_end = run_begin + run.n;
    const bool write = w->params->zero > 0 || is_writer(w, p);
    for (int32_t i = 0; i < w->params->n_ranges; i++) {
        const sy_range *r = &w->params->range[i];
        int64_t begin = r->offset > run_begin ? r->offset : run_begin;
        int64_t end = r->offset + r->n < run_end ? r->offset + r->n : run_end;
        if (r->segment == p->segment && begin < end) {
            SY_TRY(add_parts(w, field, run.index + begin - run_begin, run.index + end - run_begin,
                             data + (r->shard_offset + begin - r->offset) * elem_bytes, write));
        }
    }
cleanup:
    return st;
}

static sy_status add_shard(walk *w, const sy_param *p, int32_t piece, void *data,
                           const sy_field *field)
{
    sy_status st = SY_OK;
    for (int64_t k = 0; k < sy__param_n_runs(p); k++) {
        SY_TRY(add_run_of_shard(w, p, sy__piece_run(p, piece, k), data, field));
    }
cleanup:
    return st;
}

/* shard NULL: the values. */
static sy_status emit_piece(walk *w, const sy_param *p, int32_t piece, sy_dtype dtype, void *shard)
{
    sy_status st = SY_OK;
    char name[2 * SY_PARAM_NAME];
    sy_field field = {.name = name,
                      .dtype = shard ? dtype : p->value.dtype,
                      .dev = w->params->dev,
                      .n_dim = p->spec.n_dim,
                      .optional = p->spec.optional};
    int n = snprintf(name, sizeof name, "%s/%s", w->prefix, sy__piece_name(p, piece));
    SY_REQUIRE(n > 0 && (size_t)n < sizeof name, SY_ERR_INTERNAL,
               "the name of field '%s' below '%s' is too long", sy__piece_name(p, piece),
               w->prefix);
    sy__piece_shape(p, piece, field.shape_glb);
    w->n_parts = 0;
    if (shard) {
        SY_TRY(add_shard(w, p, piece, shard, &field));
    } else {
        SY_TRY(add_values(w, p, piece, &field));
    }
    field.parts = w->part;
    field.n_parts = w->n_parts;
    SY_TRY(w->emit(w->to, &field));
cleanup:
    return st;
}

static sy_status walk_all(walk *w, sy_dtype dtype, void *shard, bool narrow_only)
{
    sy_status st = SY_OK;
    SY_REQUIRE(w->params->mesh, SY_ERR_INTERNAL, "parameters are walked before bind");
    for (int32_t i = 0; i < w->params->n; i++) {
        const sy_param *p = w->params->param[i];
        bool narrow = p->value.dtype != w->params->wide;
        bool wanted = !shard || (p->spec.trainable && (narrow || !narrow_only));
        for (int32_t k = 0; k < sy__param_n_pieces(p) && wanted; k++) {
            SY_TRY(emit_piece(w, p, k, dtype, shard));
        }
    }
cleanup:
    sy_free(&w->part);
    return st;
}

sy_status sy_params_walk(const sy_params *params, const char *prefix, sy_emit *emit, void *to)
{
    walk w = {.params = params, .prefix = prefix, .emit = emit, .to = to};
    return walk_all(&w, params->compute, NULL, false);
}

sy_status sy_params_walk_shard(const sy_params *params, const char *prefix, sy_dtype dtype,
                               void *data, bool narrow_only, sy_emit *emit, void *to)
{
    walk w = {.params = params, .prefix = prefix, .emit = emit, .to = to};
    return walk_all(&w, dtype, data, narrow_only);
}

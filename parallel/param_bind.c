/* Binding: which part of each parameter is here, where it lies in its segment, and the fixed cuts
   of segments into buckets and ranges. Everything follows from the declarations and the mesh, so
   all ranks cut alike. */
#include "parallel/param_impl.h"

#include <string.h>

#include "core/alloc.h"

static const int64_t default_bucket_bytes = (int64_t)32 << 20;
/* All buckets are gathered behind an update, and a stream holds so many calls under way before the
   host waits (backend/cuda/stream.c): a large model has larger buckets rather than more. */
enum { MOST_BUCKETS = 96 };

static int64_t round_up(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

const sy_comm *sy__replicas(const sy_params *params, sy_group replicas)
{
    return params->mesh->group[replicas];
}

void sy__params_release(sy_params *params)
{
    for (int32_t s = 0; s < params->n_segments; s++) {
        sy_device_free(params->dev, &params->segment[s].grad);
        sy_device_free(params->dev, &params->segment[s].value);
    }
    sy_free(&params->range);
    sy_free(&params->bucket);
    sy_free(&params->segment);
    params->n_segments = params->n_buckets = params->n_ranges = 0;
    params->mesh = NULL;
}

static sy_status place_box(const sy_mesh *mesh, sy_param *p)
{
    sy_status st = SY_OK;
    const sy_placement *place = mesh->placement;
    const int32_t ep_rank = mesh->group[SY_EP]->rank;
    if (p->spec.shard_dim < 0) {
        goto cleanup;
    }
    SY_REQUIRE(p->spec.shape_glb[0] == place->E, SY_ERR_INTERNAL,
               "parameter '%s' is sharded over experts but has %lld rows for %d experts",
               p->spec.name, (long long)p->spec.shape_glb[0], place->E);
    for (int32_t i = 0; i < place->E_loc; i++) {
        int32_t e = ep_rank * place->E_loc + i; /* a box holds neighbours only */
        SY_REQUIRE(place->owner[e] == ep_rank && place->slot[e] == i, SY_ERR_INTERNAL,
                   "parameter '%s': expert %d does not stand in linear order", p->spec.name, e);
    }
    p->box.start[0] = (int64_t)ep_rank * place->E_loc;
    p->box.shape[0] = place->E_loc;
cleanup:
    return st;
}

/* ---- segments ---- */

static sy_status segment_of(sy_params *params, const sy_param *p, int32_t *out)
{
    sy_status st = SY_OK;
    sy_segment key = {.replicas = p->spec.replicas,
                      .dtype = p->spec.packed_columns > 0 ? SY_U8
                               : p->spec.wide             ? params->wide
                                                          : params->compute,
                      .trainable = p->spec.trainable,
                      .decay = p->spec.decay};
    for (int32_t s = 0; s < params->n_segments; s++) {
        const sy_segment *g = &params->segment[s];
        if (g->replicas == key.replicas && g->dtype == key.dtype && g->trainable == key.trainable &&
            g->decay == key.decay) {
            *out = s;
            goto cleanup;
        }
    }
    SY_TRY(sy_realloc(params->n_segments + 1, sizeof key, (void **)&params->segment));
    params->segment[params->n_segments] = key;
    *out = params->n_segments++;
cleanup:
    return st;
}

/* What a bucket's size is a multiple of. */
static int64_t bucket_unit(const sy_params *params, const sy_segment *g)
{
    return SY__PARAM_ALIGN * (int64_t)sy__replicas(params, g->replicas)->size;
}

/* The parameter that lies before param[i] in its segment; NULL: it is the first. */
static const sy_param *neighbour(const sy_params *params, int32_t i)
{
    for (int32_t k = i + 1; k < params->n; k++) {
        if (params->param[k]->segment == params->param[i]->segment) {
            return params->param[k];
        }
    }
    return NULL;
}

/* Whether a bucket must begin at param[i]. */
static bool begins_bucket(const sy_params *params, int32_t i)
{
    const sy_param *before = neighbour(params, i);
    return before == NULL || (params->zero == 2 && !sy__same_turn(before, params->param[i]));
}

/* Against the order of declaration, as backward completes them. */
static sy_status lay_out(sy_params *params)
{
    sy_status st = SY_OK;
    for (int32_t i = params->n - 1; i >= 0; i--) {
        sy_param *p = params->param[i];
        SY_TRY(place_box(params->mesh, p));
        SY_TRY(segment_of(params, p, &p->segment));
        sy_segment *g = &params->segment[p->segment];
        if (g->trainable && begins_bucket(params, i)) {
            g->n = round_up(g->n, bucket_unit(params, g));
        }
        p->offset = g->n;
        g->n = round_up(g->n + sy_box_numel(&p->box), SY__PARAM_ALIGN);
    }
    for (int32_t s = 0; s < params->n_segments; s++) {
        sy_segment *g = &params->segment[s];
        if (g->trainable) {
            g->n = round_up(g->n, bucket_unit(params, g));
        }
    }
cleanup:
    return st;
}

static sy_status place_values(sy_params *params)
{
    sy_status st = SY_OK;
    for (int32_t s = 0; s < params->n_segments; s++) {
        sy_segment *g = &params->segment[s];
        int64_t bytes = g->n * (int64_t)sy_dtype_bytes(g->dtype);
        SY_TRY(sy_device_alloc(params->dev, bytes, SY_MEM_PARAMS, &g->value));
    }
    for (int32_t i = 0; i < params->n; i++) {
        sy_param *p = params->param[i];
        const sy_segment *g = &params->segment[p->segment];
        char *first = (char *)g->value + p->offset * (int64_t)sy_dtype_bytes(g->dtype);
        p->value = sy_tensor_nd(first, g->dtype, p->box.n_dim, p->box.shape);
    }
cleanup:
    return st;
}

/* ---- cuts ---- */

/* Buckets of at most `most` elements from begin to end of a segment. */
static sy_status add_buckets(sy_params *params, int32_t segment, int64_t begin, int64_t end,
                             int64_t most, int32_t turn)
{
    sy_status st = SY_OK;
    const int32_t n = (int32_t)((end - begin + most - 1) / most);
    if (n == 0) {
        goto cleanup;
    }
    SY_TRY(sy_realloc(params->n_buckets + n, sizeof *params->bucket, (void **)&params->bucket));
    for (int64_t at = begin; at < end; at += most) {
        params->bucket[params->n_buckets++] = (sy_bucket){
            .segment = segment, .offset = at, .n = end - at < most ? end - at : most, .turn = turn};
    }
    params->segment[segment].n_buckets += n;
cleanup:
    return st;
}

static sy_status cut_segment(sy_params *params, int32_t s, int64_t most)
{
    sy_status st = SY_OK;
    const sy_segment *g = &params->segment[s];
    int64_t begin = 0;
    int32_t turn = -1, n_turns = 0;
    for (int32_t i = params->n - 1; i >= 0; i--) {
        const sy_param *p = params->param[i];
        if (p->segment == s && begins_bucket(params, i)) {
            SY_TRY(add_buckets(params, s, begin, p->offset, most, turn));
            begin = p->offset;
            turn = params->zero == 2 && sy__takes_turns(p) ? n_turns++ : -1;
        }
    }
    SY_TRY(add_buckets(params, s, begin, g->n, most, turn));
cleanup:
    return st;
}

/* Elements of a bucket where nobody says it. */
static int64_t default_bucket(const sy_params *params)
{
    const int64_t least = default_bucket_bytes / (int64_t)sy_dtype_bytes(params->wide);
    int64_t n = 0;
    for (int32_t s = 0; s < params->n_segments; s++) {
        n += params->segment[s].trainable ? params->segment[s].n : 0;
    }
    return n / MOST_BUCKETS > least ? n / MOST_BUCKETS : least;
}

static sy_status cut_buckets(sy_params *params, int64_t bucket_bytes)
{
    sy_status st = SY_OK;
    const int64_t wanted = bucket_bytes > 0 ? bucket_bytes / (int64_t)sy_dtype_bytes(params->wide)
                                            : default_bucket(params);
    for (int32_t s = 0; s < params->n_segments; s++) {
        sy_segment *g = &params->segment[s];
        int64_t unit = bucket_unit(params, g);
        g->first_bucket = params->n_buckets;
        if (g->trainable) {
            SY_TRY(cut_segment(params, s, wanted > unit ? wanted / unit * unit : unit));
        }
    }
cleanup:
    return st;
}

/* Each parameter, from the last, calls the buckets that it lies in its own. */
static void note_first_params(sy_params *params)
{
    for (int32_t b = 0; b < params->n_buckets; b++) {
        params->bucket[b].first_param = params->n;
    }
    for (int32_t i = params->n - 1; i >= 0; i--) {
        const sy_param *p = params->param[i];
        const sy_segment *g = &params->segment[p->segment];
        const int64_t end = p->offset + sy_box_numel(&p->box);
        for (int32_t b = g->first_bucket; b < g->first_bucket + g->n_buckets; b++) {
            sy_bucket *k = &params->bucket[b];
            if (p->offset < k->offset + k->n && end > k->offset) {
                k->first_param = i;
            }
        }
    }
}

static void add_range(sy_params *params, int32_t segment, int64_t offset, int64_t n)
{
    params->range[params->n_ranges++] =
        (sy_range){.segment = segment, .offset = offset, .n = n, .shard_offset = params->shard_n};
    params->shard_n += n;
}

static sy_status cut_ranges(sy_params *params)
{
    sy_status st = SY_OK;
    int64_t most = params->n_segments > params->n_buckets ? params->n_segments : params->n_buckets;
    SY_TRY(sy_alloc(most, sizeof *params->range, (void **)&params->range));
    params->shard_n = 0;
    for (int32_t s = 0; s < params->n_segments; s++) {
        const sy_segment *g = &params->segment[s];
        const sy_comm *replicas = sy__replicas(params, g->replicas);
        if (g->trainable && params->zero == 0) {
            add_range(params, s, 0, g->n);
        }
        for (int32_t b = 0; b < g->n_buckets && params->zero > 0; b++) {
            const sy_bucket *bucket = &params->bucket[g->first_bucket + b];
            int64_t n = bucket->n / replicas->size;
            add_range(params, s, bucket->offset + replicas->rank * n, n);
        }
    }
cleanup:
    return st;
}

sy_status sy_params_bind(sy_params *params, const sy_bind_spec *spec)
{
    sy_status st = SY_OK;
    SY_REQUIRE(!params->mesh, SY_ERR_INTERNAL, "parameters are bound twice");
    SY_REQUIRE(spec->zero >= 0 && spec->zero <= 2, SY_ERR_USAGE,
               "parallel.zero = %d is not supported; choose 0, 1 or 2", spec->zero);
    SY_REQUIRE(spec->dev->supports[spec->compute], SY_ERR_UNSUPPORTED,
               "backend '%s' does not compute in %s", spec->dev->name,
               sy_dtype_name(spec->compute));
    params->mesh = spec->mesh;
    params->dev = spec->dev;
    params->compute = spec->compute;
    params->wide = spec->dev->wide;
    params->zero = spec->zero;
    SY_TRY(lay_out(params));
    SY_TRY(place_values(params));
    SY_TRY(cut_buckets(params, spec->bucket_bytes));
    note_first_params(params);
    SY_TRY(cut_ranges(params));
    SY_TRY(sy__params_place_gradients(params));
cleanup:
    if (st != SY_OK) {
        sy__params_release(params);
    }
    return st;
}

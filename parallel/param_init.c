/* Initial values. An element is a function of the seed, its piece's name and its place in the
   piece, so neither the mesh nor the number of threads can be seen in it. */
#include "parallel/param_impl.h"

#include "backend/nf4.h"
#include "core/alloc.h"
#include "core/rng.h"
#include "core/thread.h"

enum { CHUNK = 1 << 20, BLOCK = 256, WORTH_THREADS = 1 << 14, MAX_THREADS = 64 };

typedef struct draw {
    const sy_param *param;
    uint64_t seed;
    int64_t begin, end; /* elements of the parameter's local memory */
    char *dst;          /* host; where element `begin` goes */
} draw;

/* Is the element of a piece of [n, rows, columns] beyond its matrix's width? */
static bool is_beyond(const sy_param_spec *s, int64_t index)
{
    const int64_t rows = s->n_pieces > 0 ? s->piece[0].extent : s->shape_glb[1];
    const int64_t columns = s->shape_glb[2], row = index / columns % rows;
    return (s->width_dim == 1 ? row : index % columns) >= s->width[index / columns / rows];
}

/* The weights of a packed piece. */
typedef struct packed {
    const draw *d;
    uint64_t stream;
} packed;

static void packed_values(void *self, int64_t row, int64_t column, int64_t n, double *values)
{
    const packed *k = self;
    const sy_param_spec *s = &k->d->param->spec;
    for (int64_t i = 0; i < n; i++) {
        const uint64_t at = (uint64_t)(row * s->packed_columns + column + i);
        values[i] = s->init_std * sy_rng_normal_cut(k->d->seed, k->stream, at);
    }
}

static void draw_run(const draw *d, uint64_t stream, int64_t index, int64_t n, char *dst)
{
    const sy_param_spec *s = &d->param->spec;
    const sy_dtype dtype = d->param->value.dtype;
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(dtype);
    double block[BLOCK];
    if (s->packed_columns > 0) {
        packed from = {d, stream};
        sy_nf4_pack(s->packed_columns, index, n, packed_values, &from, (uint8_t *)dst);
        return;
    }
    for (int64_t done = 0; done < n; done += BLOCK) {
        int64_t m = n - done < BLOCK ? n - done : BLOCK;
        for (int64_t i = 0; i < m; i++) {
            block[i] =
                s->init == SY_INIT_NORMAL
                    ? s->init_std * sy_rng_normal_cut(d->seed, stream, (uint64_t)(index + done + i))
                : s->init == SY_INIT_ONES ? 1.0
                                          : 0.0;
            if (s->width != NULL && is_beyond(s, index + done + i)) {
                block[i] = 0;
            }
        }
        sy_convert(dtype, dst + done * elem_bytes, SY_F64, block, m);
    }
}

static void *draw_elements(void *arg)
{
    const draw *d = arg;
    const sy_param *p = d->param;
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(p->value.dtype);
    const int64_t per_k = sy_box_numel(&p->box) / sy__param_n_runs(p);
    for (int64_t k = d->begin / per_k; k * per_k < d->end; k++) {
        for (int32_t i = 0; i < sy__param_n_pieces(p); i++) {
            sy__run run = sy__piece_run(p, i, k);
            int64_t from = run.at > d->begin ? run.at : d->begin;
            int64_t to = run.at + run.n < d->end ? run.at + run.n : d->end;
            if (from < to) {
                draw_run(d, sy_rng_stream_of(sy__piece_name(p, i)), run.index + from - run.at,
                         to - from, d->dst + (from - d->begin) * elem_bytes);
            }
        }
    }
    return NULL;
}

/* The same elements, shared among threads; what cannot be started is done here. */
static void draw_parallel(const draw *all, int32_t n_threads)
{
    draw part[MAX_THREADS];
    pthread_t thread[MAX_THREADS];
    bool started[MAX_THREADS] = {false};
    const int64_t n = all->end - all->begin;
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(all->param->value.dtype);
    n_threads = n < WORTH_THREADS || n_threads < 1 ? 1
                : n_threads > MAX_THREADS          ? MAX_THREADS
                                                   : n_threads;
    for (int32_t t = 0; t < n_threads; t++) {
        part[t] = *all;
        part[t].begin = all->begin + n * t / n_threads;
        part[t].end = all->begin + n * (t + 1) / n_threads;
        part[t].dst = all->dst + (part[t].begin - all->begin) * elem_bytes;
    }
    for (int32_t t = 1; t < n_threads; t++) {
        started[t] = sy_thread_start("init", draw_elements, &part[t], &thread[t]) == SY_OK;
    }
    for (int32_t t = 0; t < n_threads; t++) {
        if (!started[t]) {
            draw_elements(&part[t]);
        }
    }
    for (int32_t t = 1; t < n_threads; t++) {
        if (started[t]) {
            pthread_join(thread[t], NULL);
        }
    }
}

static sy_status init_param(const sy_param *p, uint64_t seed, int32_t n_threads, char *h_chunk,
                            sy_stream *stream)
{
    sy_status st = SY_OK;
    const int64_t n = sy_box_numel(&p->box);
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(p->value.dtype);
    for (int64_t begin = 0; begin < n; begin += CHUNK) {
        draw all = {.param = p, .seed = seed, .begin = begin, .dst = h_chunk};
        all.end = n - begin < CHUNK ? n : begin + CHUNK;
        draw_parallel(&all, n_threads);
        SY_TRY(sy_copy_h2d(stream, (char *)p->value.data + begin * elem_bytes, h_chunk,
                           (all.end - begin) * elem_bytes));
        SY_TRY(sy_stream_sync(stream)); /* the chunk is filled again */
    }
cleanup:
    return st;
}

static sy_status init_list(const sy_params *params, const sy_param *const *param, int32_t n,
                           uint64_t seed, sy_stream *stream)
{
    sy_status st = SY_OK;
    char *h_chunk = NULL;
    SY_REQUIRE(params->mesh, SY_ERR_INTERNAL, "parameters are initialised before bind");
    if (params->dev->dry) {
        goto cleanup;
    }
    SY_TRY(sy_alloc(CHUNK, sizeof(double), (void **)&h_chunk));
    for (int32_t i = 0; i < n; i++) {
        SY_TRY(init_param(param[i], seed, params->dev->n_threads, h_chunk, stream));
    }
cleanup:
    sy_free(&h_chunk);
    return st;
}

sy_status sy_params_init(sy_params *params, uint64_t seed, sy_stream *stream)
{
    return init_list(params, (const sy_param *const *)params->param, params->n, seed, stream);
}

sy_status sy_param_init(const sy_params *params, const sy_param *param, uint64_t seed,
                        sy_stream *stream)
{
    return init_list(params, &param, 1, seed, stream);
}

sy_status sy_params_init_optional(const sy_params *params, sy_stream *stream)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < params->n; i++) {
        if (params->param[i]->spec.optional) {
            SY_TRY(sy_param_init(params, params->param[i], 0, stream));
        }
    }
cleanup:
    return st;
}

/* Gradient buckets: a bucket waits for the earliest declared parameter that lies in it, because
   backward completes that one last. Where there is one replica nothing is enqueued at all. */
#include "parallel/grad_sync.h"

#include "backend/ops.h"
#include "core/alloc.h"

typedef struct bucket_state {
    sy_comm *replicas;
    bool fired;      /* in this step */
    sy_event *ready; /* its gradients are complete on the compute stream; NULL: one replica */
} bucket_state;

struct sy_grad_sync {
    sy_params *params; /* borrowed, as are the streams */
    sy_stream *compute, *comm;
    sy_event *edge;       /* from one stream to the other, outside backward */
    bucket_state *bucket; /* [params->n_buckets] */
    double reducing_s;    /* see sy_grad_sync_take_s */
    sy_event **window;    /* [n_segments][2] a segment's window is reduced and zero again */
    bool active;          /* between begin and finish */
    bool last;            /* in the step's last micro-batch */
    bool any_replicas;    /* some bucket has more than one replica */
    bool any_windows;     /* some bucket is reduced in every micro-batch */
};

static sy_status setup_buckets(sy_grad_sync *gs)
{
    sy_status st = SY_OK;
    const sy_params *params = gs->params;
    for (int32_t b = 0; b < params->n_buckets; b++) {
        const sy_segment *g = &params->segment[params->bucket[b].segment];
        bucket_state *state = &gs->bucket[b];
        state->replicas = params->mesh->group[g->replicas];
        if (state->replicas->size > 1) {
            SY_TRY(sy_event_create(params->dev, &state->ready));
            gs->any_replicas = true;
        }
        if (params->bucket[b].turn >= 0) {
            sy_event **window = &gs->window[2 * params->bucket[b].segment];
            for (int32_t i = 0; i < 2 && window[i] == NULL; i++) {
                SY_TRY(sy_event_create(params->dev, &window[i]));
            }
            gs->any_windows = true;
        }
    }
cleanup:
    return st;
}

sy_status sy_grad_sync_create(sy_params *params, sy_stream *compute, sy_stream *comm,
                              sy_grad_sync **out)
{
    sy_status st = SY_OK;
    sy_grad_sync *gs = NULL;
    SY_REQUIRE(params->mesh, SY_ERR_INTERNAL, "gradients are to be reduced before bind");
    SY_TRY(sy_alloc(1, sizeof *gs, (void **)&gs));
    gs->params = params;
    gs->compute = compute;
    gs->comm = comm;
    SY_TRY(sy_alloc(params->n_buckets, sizeof *gs->bucket, (void **)&gs->bucket));
    SY_TRY(sy_alloc(2 * (int64_t)params->n_segments, sizeof(void *), (void **)&gs->window));
    SY_TRY(sy_event_create(params->dev, &gs->edge));
    SY_TRY(setup_buckets(gs));
    *out = gs;
    gs = NULL;
cleanup:
    sy_grad_sync_destroy(&gs);
    return st;
}

void sy_grad_sync_destroy(sy_grad_sync **gs)
{
    sy_grad_sync *g = *gs;
    if (g) {
        for (int32_t b = 0; g->bucket && b < g->params->n_buckets; b++) {
            sy_event_destroy(&g->bucket[b].ready);
        }
        for (int32_t i = 0; g->window && i < 2 * g->params->n_segments; i++) {
            sy_event_destroy(&g->window[i]);
        }
        sy_event_destroy(&g->edge);
        sy_free(&g->window);
        sy_free(&g->bucket);
        sy_free(gs);
    }
}

static char *at(void *base, sy_dtype dtype, int64_t element)
{
    return (char *)base + element * (int64_t)sy_dtype_bytes(dtype);
}

/* ---- backward ---- */

/* What the others own has been sent and is not needed here: it starts the next step from zero. */
static sy_status clear_others(sy_grad_sync *gs, const sy_bucket *b, int64_t own, int64_t own_n)
{
    sy_status st = SY_OK;
    const sy_params *params = gs->params;
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(params->wide);
    SY_TRY(sy_zero(gs->comm, b->grad, own * elem_bytes));
    SY_TRY(sy_zero(gs->comm, at(b->grad, params->wide, own + own_n),
                   (b->n - own - own_n) * elem_bytes));
cleanup:
    return st;
}

/* This rank's part of a window goes to its sum over micro-batches; the window is for another layer
   then. */
static sy_status keep_own(sy_grad_sync *gs, int32_t bucket_idx, void *part)
{
    sy_status st = SY_OK;
    const sy_params *params = gs->params;
    const sy_bucket *b = &params->bucket[bucket_idx];
    const sy_range *range = &params->range[bucket_idx];
    const sy_tensor sum = sy_tensor_1d(range->grad, params->wide, range->n);
    SY_TRY(sy_add(
        gs->comm,
        &(sy_add_args){.a = sum, .b = sy_tensor_1d(part, params->wide, range->n), .y = sum}));
    SY_TRY(sy_zero(gs->comm, b->grad, b->n * (int64_t)sy_dtype_bytes(params->wide)));
cleanup:
    return st;
}

static sy_status reduce_bucket(sy_grad_sync *gs, int32_t bucket_idx)
{
    sy_status st = SY_OK;
    const sy_params *params = gs->params;
    const sy_bucket *b = &params->bucket[bucket_idx];
    sy_comm *replicas = gs->bucket[bucket_idx].replicas;
    const int64_t own_n = b->n / replicas->size, own = replicas->rank * own_n;
    sy_comm_args args = {.stream = gs->comm,
                         .send = b->grad,
                         .recv = b->grad,
                         .n = b->n,
                         .dtype = params->wide,
                         .reduce = SY_SUM,
                         .what = "gradients",
                         .layer = -1};
    if (params->zero == 0) {
        SY_TRY(sy_all_reduce(replicas, &args));
    } else {
        args.recv = at(b->grad, params->wide, own);
        args.n = own_n;
        SY_TRY(sy_reduce_scatter(replicas, &args));
        SY_TRY(b->turn >= 0 ? keep_own(gs, bucket_idx, args.recv)
                            : clear_others(gs, b, own, own_n));
    }
cleanup:
    return st;
}

/* After a layer's last bucket: the next layer but one has its window, once it is reduced. Until
   then the reduction runs beside the backward of the next. */
static sy_status pass_window_on(sy_grad_sync *gs, int32_t bucket_idx)
{
    sy_status st = SY_OK;
    const sy_params *params = gs->params;
    const sy_bucket *b = &params->bucket[bucket_idx];
    const sy_segment *g = &params->segment[b->segment];
    sy_event **window = &gs->window[2 * b->segment];
    const bool goes_on = bucket_idx + 1 < g->first_bucket + g->n_buckets && b[1].turn == b->turn;
    if (b->turn >= 0 && !goes_on) {
        SY_TRY(sy_event_record(window[b->turn % 2], gs->comm));
        if (b->turn > 0) {
            SY_TRY(sy_stream_wait(gs->compute, window[(b->turn + 1) % 2]));
        }
    }
cleanup:
    return st;
}

/* Fire every bucket that needs no parameter declared before `index`. */
static sy_status fire(sy_grad_sync *gs, int32_t index)
{
    sy_status st = SY_OK;
    const double t0 = sy_stream_clock(gs->compute);
    const int32_t n = gs->last || gs->any_windows ? gs->params->n_buckets : 0;
    for (int32_t i = 0; i < n; i++) {
        bucket_state *b = &gs->bucket[i];
        const bool now = gs->last || gs->params->bucket[i].turn >= 0;
        if (!b->ready || b->fired || gs->params->bucket[i].first_param < index || !now) {
            continue;
        }
        b->fired = true;
        SY_TRY(sy_event_record(b->ready, gs->compute));
        SY_TRY(sy_stream_wait(gs->comm, b->ready));
        SY_TRY(reduce_bucket(gs, i));
        SY_TRY(pass_window_on(gs, i));
    }
    gs->reducing_s += sy_stream_clock(gs->compute) - t0;
cleanup:
    return st;
}

sy_status sy_grad_sync_begin(sy_grad_sync *gs, bool last)
{
    for (int32_t i = 0; i < gs->params->n_buckets; i++) {
        gs->bucket[i].fired = false;
    }
    gs->active = true;
    gs->last = last;
    return SY_OK;
}

sy_status sy_grad_sync_reached(sy_grad_sync *gs, const sy_param *param)
{
    sy_status st = SY_OK;
    SY_REQUIRE(gs->active, SY_ERR_INTERNAL, "gradients of '%s' are complete outside begin, finish",
               param->spec.name);
    SY_TRY(fire(gs, param->index));
cleanup:
    return st;
}

/* `after` waits for all that was enqueued on `before`. */
static sy_status order_streams(sy_grad_sync *gs, sy_stream *before, sy_stream *after)
{
    sy_status st = SY_OK;
    SY_TRY(sy_event_record(gs->edge, before));
    SY_TRY(sy_stream_wait(after, gs->edge));
cleanup:
    return st;
}

sy_status sy_grad_sync_finish(sy_grad_sync *gs)
{
    sy_status st = SY_OK;
    SY_REQUIRE(gs->active, SY_ERR_INTERNAL, "gradient reduction is finished but was not begun");
    gs->active = false;
    if (gs->last ? gs->any_replicas : gs->any_windows) {
        SY_TRY(fire(gs, 0));
        SY_TRY(order_streams(gs, gs->comm, gs->compute));
    }
cleanup:
    return st;
}

double sy_grad_sync_take_s(sy_grad_sync *gs)
{
    double s = gs->reducing_s;
    gs->reducing_s = 0;
    return s;
}

/* ---- after backward ---- */

sy_status sy_grad_sync_norm(sy_grad_sync *gs, sy_tensor *out)
{
    sy_status st = SY_OK;
    const sy_params *params = gs->params;
    SY_REQUIRE(out->dtype == SY_F64 && sy_tensor_numel(out) == 1, SY_ERR_INTERNAL,
               "the gradient norm goes into one f64");
    SY_TRY(sy_zero(gs->compute, out->data, sizeof(double)));
    for (int32_t i = 0; i < params->n_ranges; i++) {
        const sy_range *r = &params->range[i];
        const sy_comm *replicas = params->mesh->group[params->segment[r->segment].replicas];
        int64_t offset = 0, n = r->n;
        if (params->zero == 0) { /* all replicas hold it: each counts its share */
            n = r->n / replicas->size;
            offset = replicas->rank * n;
        }
        sy_sum_squares_args args = {
            .x = sy_tensor_1d(at(r->grad, params->wide, offset), params->wide, n), .out = *out};
        SY_TRY(sy_sum_squares(gs->compute, &args));
    }
cleanup:
    return st;
}

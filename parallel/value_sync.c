/* Buckets lie against the order of declaration, forward goes with it: a bucket is gathered at the
   place of the earliest parameter in it. The comm stream keeps that order, so whoever waits for a
   bucket has all before it. */
#include "parallel/value_sync.h"

#include "core/alloc.h"
#include "parallel/comm.h"

struct sy_value_sync {
    sy_params *params; /* borrowed, as are the streams */
    sy_stream *compute, *comm;
    sy_event *updated;  /* this rank's parts are written */
    int32_t *order;     /* [n] buckets with more than one replica, as forward wants them */
    sy_event **arrived; /* [n] NULL where the next bucket is wanted at the same place */
    int32_t n, next;    /* next: the first that the compute stream has not waited for */
    double waited_s;    /* see sy_value_sync_take_s */
};

static const sy_bucket *bucket_at(const sy_value_sync *vs, int32_t i)
{
    return &vs->params->bucket[vs->order[i]];
}

static sy_comm *replicas_of(const sy_value_sync *vs, const sy_bucket *b)
{
    return vs->params->mesh->group[vs->params->segment[b->segment].replicas];
}

/* A bucket of nothing but padding comes last: first_param is params->n. */
static void sort_buckets(sy_value_sync *vs)
{
    const sy_params *params = vs->params;
    for (int32_t first = 0; first <= params->n && params->zero > 0; first++) {
        for (int32_t b = 0; b < params->n_buckets; b++) {
            const sy_bucket *bucket = &params->bucket[b];
            if (bucket->first_param == first && replicas_of(vs, bucket)->size > 1) {
                vs->order[vs->n++] = b;
            }
        }
    }
    vs->next = vs->n;
}

static sy_status create_events(sy_value_sync *vs)
{
    sy_status st = SY_OK;
    SY_TRY(sy_event_create(vs->params->dev, &vs->updated));
    for (int32_t i = 0; i < vs->n; i++) {
        const bool goes_on =
            i + 1 < vs->n && bucket_at(vs, i + 1)->first_param == bucket_at(vs, i)->first_param;
        SY_TRY(goes_on ? SY_OK : sy_event_create(vs->params->dev, &vs->arrived[i]));
    }
cleanup:
    return st;
}

sy_status sy_value_sync_create(sy_params *params, sy_stream *compute, sy_stream *comm,
                               sy_value_sync **out)
{
    sy_status st = SY_OK;
    sy_value_sync *vs = NULL;
    SY_REQUIRE(params->mesh, SY_ERR_INTERNAL, "values are to be gathered before bind");
    SY_TRY(sy_alloc(1, sizeof *vs, (void **)&vs));
    vs->params = params;
    vs->compute = compute;
    vs->comm = comm;
    SY_TRY(sy_alloc(params->n_buckets, sizeof *vs->order, (void **)&vs->order));
    SY_TRY(sy_alloc(params->n_buckets, sizeof(void *), (void **)&vs->arrived));
    sort_buckets(vs);
    SY_TRY(create_events(vs));
    *out = vs;
    vs = NULL;
cleanup:
    sy_value_sync_destroy(&vs);
    return st;
}

void sy_value_sync_destroy(sy_value_sync **vs)
{
    sy_value_sync *v = *vs;
    if (v) {
        if (v->next < v->n) {
            (void)sy_stream_sync(v->comm);
        }
        for (int32_t i = 0; v->arrived && i < v->n; i++) {
            sy_event_destroy(&v->arrived[i]);
        }
        sy_event_destroy(&v->updated);
        sy_free(&v->arrived);
        sy_free(&v->order);
        sy_free(vs);
    }
}

/* ---- after an update ---- */

static sy_status gather(sy_value_sync *vs, const sy_bucket *b)
{
    const sy_segment *g = &vs->params->segment[b->segment];
    sy_comm *replicas = replicas_of(vs, b);
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(g->dtype), own_n = b->n / replicas->size;
    char *values = (char *)g->value + b->offset * elem_bytes;
    sy_comm_args args = {.stream = vs->comm,
                         .send = values + replicas->rank * own_n * elem_bytes,
                         .recv = values,
                         .n = own_n,
                         .dtype = g->dtype,
                         .what = "parameters",
                         .layer = -1};
    return sy_all_gather(replicas, &args);
}

sy_status sy_value_sync_begin(sy_value_sync *vs)
{
    sy_status st = SY_OK;
    SY_REQUIRE(vs->next == vs->n, SY_ERR_INTERNAL, "values of the update before are under way");
    if (vs->n == 0) {
        goto cleanup;
    }
    SY_TRY(sy_event_record(vs->updated, vs->compute));
    SY_TRY(sy_stream_wait(vs->comm, vs->updated));
    for (int32_t i = 0; i < vs->n; i++) {
        SY_TRY(gather(vs, bucket_at(vs, i)));
        SY_TRY(vs->arrived[i] ? sy_event_record(vs->arrived[i], vs->comm) : SY_OK);
    }
    vs->next = 0;
cleanup:
    return st;
}

/* ---- before values are used ---- */

/* Buckets that are wanted at `place` or before it. */
static sy_status await(sy_value_sync *vs, int32_t place)
{
    sy_status st = SY_OK;
    const double t0 = sy_stream_clock(vs->compute);
    int32_t i = vs->next;
    while (i < vs->n && bucket_at(vs, i)->first_param <= place) {
        i++;
    }
    if (i > vs->next) {
        SY_TRY(sy_stream_wait(vs->compute, vs->arrived[i - 1]));
        vs->next = i;
        vs->waited_s += sy_stream_clock(vs->compute) - t0;
    }
cleanup:
    return st;
}

sy_status sy_value_sync_need(sy_value_sync *vs, const sy_param *param)
{
    return vs ? await(vs, param->index) : SY_OK;
}

sy_status sy_value_sync_finish(sy_value_sync *vs)
{
    return vs ? await(vs, vs->params->n) : SY_OK;
}

double sy_value_sync_take_s(sy_value_sync *vs)
{
    const double s = vs->waited_s;
    vs->waited_s = 0;
    return s;
}

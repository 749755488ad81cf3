/* A device that measures: memory is counted and given out as addresses that nobody may touch,
 * nothing runs, nothing is waited for. */
#include "backend/backend_impl.h"

/* Where the next address starts. */
static sy_status dry_open(sy_device *dev)
{
    dev->self = SY__NOWHERE;
    return SY_OK;
}

static void dry_close(sy_device *dev)
{
    dev->self = NULL;
}

static sy_status dry_alloc(sy_device *dev, int64_t bytes, void **out)
{
    *out = dev->self;
    dev->self = (char *)dev->self + sy__align_up(bytes) + SY__ALIGN_BYTES;
    return SY_OK;
}

static void dry_free(sy_device *dev, void *ptr, int64_t bytes)
{
    (void)dev, (void)ptr, (void)bytes;
}

static void *dry_host_view(const sy_device *dev, const void *ptr)
{
    (void)dev;
    return (void *)ptr;
}

static sy_status dry_stream(sy_stream *stream)
{
    (void)stream;
    return SY_OK;
}

static void dry_stream_destroy(sy_stream *stream)
{
    (void)stream;
}

static sy_status dry_copy(sy_stream *stream, sy_copy_kind kind, void *dst, const void *src,
                          int64_t bytes)
{
    (void)stream, (void)kind, (void)dst, (void)src, (void)bytes;
    return SY_OK;
}

static sy_status dry_zero(sy_stream *stream, void *dst, int64_t bytes)
{
    (void)stream, (void)dst, (void)bytes;
    return SY_OK;
}

static sy_status dry_call(sy_stream *stream, sy_call *fn, const void *args, int64_t args_bytes)
{
    (void)stream, (void)fn, (void)args, (void)args_bytes;
    return SY_OK;
}

static sy_status dry_run_op(sy_stream *stream, sy_op op, sy_call *run, const void *args,
                            int64_t args_bytes)
{
    (void)stream, (void)op, (void)run, (void)args, (void)args_bytes;
    return SY_OK;
}

static sy_status dry_event(sy_event *event)
{
    (void)event;
    return SY_OK;
}

static void dry_event_destroy(sy_event *event)
{
    (void)event;
}

static sy_status dry_event_record(sy_event *event, sy_stream *stream)
{
    (void)event, (void)stream;
    return SY_OK;
}

static sy_status dry_stream_wait(sy_stream *stream, sy_event *event)
{
    (void)stream, (void)event;
    return SY_OK;
}

static bool dry_event_done(sy_event *event)
{
    (void)event;
    return true;
}

const sy_device_vt sy__dry_vt = {
    .open = dry_open,
    .close = dry_close,
    .alloc = dry_alloc,
    .free = dry_free,
    .host_view = dry_host_view,
    .stream_create = dry_stream,
    .stream_destroy = dry_stream_destroy,
    .sync = dry_stream,
    .copy = dry_copy,
    .zero = dry_zero,
    .call = dry_call,
    .run_op = dry_run_op,
    .event_create = dry_event,
    .event_destroy = dry_event_destroy,
    .event_record = dry_event_record,
    .stream_wait = dry_stream_wait,
    .event_sync = dry_event,
    .event_done = dry_event_done,
};

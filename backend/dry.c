/* A device that measures: memory is counted and given out as addresses that nobody may touch,
   nothing runs, nothing is waited for. With prices it rehearses: streams and host keep clocks. */
#include "backend/backend_impl.h"
#include "backend/prices.h"
#include "core/alloc.h"

static const int64_t most_bytes = (int64_t)1 << 50; /* of a block: more is a mistake */

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
    if (bytes > most_bytes) {
        return sy_error(SY_ERR_MEMORY, "more than a pebibyte");
    }
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

/* ---- clocks ---- */

/* Of a stream: when it will have run all that it was given. Of an event: when it passes. */
static sy_status make_clock(const sy_device *dev, void **self)
{
    return dev->prices ? sy_alloc(1, sizeof(double), self) : SY_OK;
}

static double later(double a, double b)
{
    return a > b ? a : b;
}

double sy__dry_clock(const sy_stream *stream)
{
    const sy_device *dev = stream->dev;
    return dev->prices->at_once ? dev->host_s : later(*(double *)stream->self, dev->host_s);
}

void sy_stream_spend(sy_stream *stream, double seconds)
{
    sy_device *dev = stream->dev;
    if (!dev->prices) {
        return;
    }
    dev->host_s += dev->prices->launch_s;
    *(double *)stream->self = sy__dry_clock(stream) + seconds;
    if (dev->prices->at_once) {
        dev->host_s += seconds;
    }
}

void sy_host_spend(sy_device *dev, double seconds)
{
    dev->host_s += dev->prices ? seconds : 0;
}

static sy_status dry_stream_create(sy_stream *stream)
{
    return make_clock(stream->dev, &stream->self);
}

static void dry_stream_destroy(sy_stream *stream)
{
    sy_free(&stream->self);
}

static sy_status dry_sync(sy_stream *stream)
{
    sy_device *dev = stream->dev;
    if (dev->prices) {
        dev->host_s = sy__dry_clock(stream) + dev->prices->wait_s;
    }
    return SY_OK;
}

static sy_status dry_copy(sy_stream *stream, sy_copy_kind kind, void *dst, const void *src,
                          int64_t bytes)
{
    const sy_prices *p = stream->dev->prices;
    (void)kind, (void)dst, (void)src;
    if (p) {
        sy_stream_spend(stream, p->copy(p->self, bytes, false));
    }
    return SY_OK;
}

static sy_status dry_zero(sy_stream *stream, void *dst, int64_t bytes)
{
    const sy_prices *p = stream->dev->prices;
    (void)dst;
    if (p) {
        sy_stream_spend(stream, p->copy(p->self, bytes, true));
    }
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
    const sy_prices *p = stream->dev->prices;
    (void)run, (void)args_bytes;
    if (p) {
        sy_stream_spend(stream, p->op(p->self, op, args));
    }
    return SY_OK;
}

static sy_status dry_event_create(sy_event *event)
{
    return make_clock(event->dev, &event->self);
}

static void dry_event_destroy(sy_event *event)
{
    sy_free(&event->self);
}

static sy_status dry_event_record(sy_event *event, sy_stream *stream)
{
    if (event->self) {
        *(double *)event->self = sy__dry_clock(stream);
    }
    return SY_OK;
}

static sy_status dry_stream_wait(sy_stream *stream, sy_event *event)
{
    if (event->self) {
        *(double *)stream->self = later(*(double *)stream->self, *(double *)event->self);
    }
    return SY_OK;
}

static sy_status dry_event_sync(sy_event *event)
{
    if (event->self) {
        event->dev->host_s = later(event->dev->host_s, *(double *)event->self);
    }
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
    .stream_create = dry_stream_create,
    .stream_destroy = dry_stream_destroy,
    .sync = dry_sync,
    .copy = dry_copy,
    .zero = dry_zero,
    .call = dry_call,
    .run_op = dry_run_op,
    .event_create = dry_event_create,
    .event_destroy = dry_event_destroy,
    .event_record = dry_event_record,
    .stream_wait = dry_stream_wait,
    .event_sync = dry_event_sync,
    .event_done = dry_event_done,
};

/* Streams and events as everybody sees them: bookkeeping here, the order itself in the backend. */
#include <inttypes.h>
#include <stdio.h>

#include "backend/backend_impl.h"
#include "core/pulse.h"
#include "core/alloc.h"
#include "core/clock.h"

/* The one figure of the ledger that several threads write. */
static void count_wait(sy_device *dev)
{
    __atomic_fetch_add(&dev->ledger.n_host_waits, 1, __ATOMIC_RELAXED);
}

sy_status sy_stream_create(sy_device *dev, const char *name, sy_stream **out)
{
    sy_status st = SY_OK;
    sy_stream *stream = NULL;
    SY_TRY(sy_alloc(1, sizeof *stream, (void **)&stream));
    stream->dev = dev;
    snprintf(stream->name, sizeof stream->name, "%s", name);
    SY_TRY(sy_device_alloc(dev, SY_WORKSPACE_BYTES, SY_MEM_WORKSPACE, &stream->workspace));
    SY_TRY(dev->vt->stream_create(stream));
    *out = stream;
    stream = NULL;
cleanup:
    if (stream) {
        sy_device_free(dev, &stream->workspace);
    }
    sy_free(&stream);
    return st;
}

void sy_stream_destroy(sy_stream **stream)
{
    if (!*stream) {
        return;
    }
    sy_device *dev = (*stream)->dev;
    dev->vt->stream_destroy(*stream);
    sy_device_free(dev, &(*stream)->workspace);
    sy_free(stream);
}

sy_device *sy_stream_device(const sy_stream *stream)
{
    return stream->dev;
}

void *sy_stream_workspace(sy_stream *stream)
{
    return sy_device_host_view(stream->dev, stream->workspace);
}

sy_status sy_stream_sync(sy_stream *stream)
{
    count_wait(stream->dev);
    return stream->dev->vt->sync(stream);
}

double sy_stream_clock(const sy_stream *stream)
{
    return stream->dev->prices ? sy__dry_clock(stream) : sy_clock_s();
}

static sy_status copy(sy_stream *stream, sy_copy_kind kind, void *dst, const void *src,
                      int64_t bytes)
{
    if (bytes < 0) {
        return sy_error(SY_ERR_INTERNAL, "cannot copy %" PRId64 " bytes", bytes);
    }
    sy_pulse_beat();
    return bytes == 0              ? SY_OK
           : stream->dev->observer ? sy__observe_copy(stream, kind, dst, src, bytes)
                                   : stream->dev->vt->copy(stream, kind, dst, src, bytes);
}

sy_status sy_copy_h2d(sy_stream *stream, void *dst, const void *h_src, int64_t bytes)
{
    return copy(stream, SY_COPY_H2D, dst, h_src, bytes);
}

sy_status sy_copy_d2h(sy_stream *stream, void *h_dst, const void *src, int64_t bytes)
{
    return copy(stream, SY_COPY_D2H, h_dst, src, bytes);
}

sy_status sy_copy_d2d(sy_stream *stream, void *dst, const void *src, int64_t bytes)
{
    return copy(stream, SY_COPY_D2D, dst, src, bytes);
}

sy_status sy_zero(sy_stream *stream, void *dst, int64_t bytes)
{
    if (bytes < 0) {
        return sy_error(SY_ERR_INTERNAL, "cannot zero %" PRId64 " bytes", bytes);
    }
    return bytes == 0              ? SY_OK
           : stream->dev->observer ? sy__observe_copy(stream, SY_COPY_D2D, dst, NULL, bytes)
                                   : stream->dev->vt->zero(stream, dst, bytes);
}

sy_status sy_stream_call(sy_stream *stream, sy_call *fn, const void *args, int64_t args_bytes)
{
    if (args_bytes < 0 || args_bytes > SY_CALL_BYTES) {
        return sy_error(SY_ERR_INTERNAL,
                        "the args of a call take %" PRId64 " bytes, at most %d are copied",
                        args_bytes, SY_CALL_BYTES);
    }
    return stream->dev->vt->call(stream, fn, args, args_bytes);
}

sy_status sy_stream_announce(sy_stream *stream, const void *ptr, int64_t bytes, bool writes)
{
    bool heard = stream->dev->vt->announce && bytes > 0;
    return heard ? stream->dev->vt->announce(stream, ptr, bytes, writes) : SY_OK;
}

sy_status sy_event_create(sy_device *dev, sy_event **out)
{
    sy_status st = SY_OK;
    sy_event *event = NULL;
    SY_TRY(sy_alloc(1, sizeof *event, (void **)&event));
    event->dev = dev;
    SY_TRY(dev->vt->event_create(event));
    *out = event;
    event = NULL;
cleanup:
    sy_free(&event);
    return st;
}

void sy_event_destroy(sy_event **event)
{
    if (!*event) {
        return;
    }
    (*event)->dev->vt->event_destroy(*event);
    sy_free(event);
}

sy_status sy_event_record(sy_event *event, sy_stream *stream)
{
    return stream->dev->vt->event_record(event, stream);
}

sy_status sy_stream_wait(sy_stream *stream, sy_event *event)
{
    return stream->dev->vt->stream_wait(stream, event);
}

sy_status sy_event_sync(sy_event *event)
{
    count_wait(event->dev);
    return event->dev->vt->event_sync(event);
}

bool sy_event_done(sy_event *event)
{
    return event->dev->vt->event_done(event);
}

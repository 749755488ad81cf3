/* Ops that are timed one by one: each is waited for, so nothing runs beside anything. */
#include "backend/backend_impl.h"
#include "backend/prices.h"
#include "core/clock.h"

sy_status sy__observe_op(sy_stream *stream, sy_op op, sy_call *run, const void *args,
                         size_t args_bytes)
{
    sy_status st = SY_OK;
    const sy_device *dev = stream->dev;
    const double from = sy_clock_s();
    SY_TRY(dev->vt->run_op(stream, op, run, args, (int64_t)args_bytes));
    SY_TRY(dev->vt->sync(stream));
    dev->observer->op(dev->observer->self, op, args, sy_clock_s() - from);
cleanup:
    return st;
}

sy_status sy__observe_copy(sy_stream *stream, sy_copy_kind kind, void *dst, const void *src,
                           int64_t bytes)
{
    sy_status st = SY_OK;
    const sy_device *dev = stream->dev;
    const double from = sy_clock_s();
    SY_TRY(src != NULL ? dev->vt->copy(stream, kind, dst, src, bytes)
                       : dev->vt->zero(stream, dst, bytes));
    SY_TRY(dev->vt->sync(stream));
    dev->observer->copy(dev->observer->self, bytes, src == NULL, sy_clock_s() - from);
cleanup:
    return st;
}

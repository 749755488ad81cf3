/* The backends cpu and ref: device memory is memory of the process, and what is enqueued has run
   when the enqueue returns. So an error comes back from the call that made it, streams have nothing
   to wait for and events have always passed. */
#include "backend/host_impl.h"

#include <string.h>
#include <sys/mman.h>

#include "backend/cpu/cpu_impl.h"
#include "backend/ref/ref_impl.h"
#include "core/alloc.h"
#include "core/thread.h"

static sy_status host_open(sy_device *dev)
{
    (void)dev;
    return SY_OK;
}

static void host_close(sy_device *dev)
{
    (void)dev;
}

/* Large blocks on large pages, where the system has them: fewer misses in the tables of addresses
 * (1 to 4 % of a product). */
static sy_status host_alloc(sy_device *dev, int64_t bytes, void **out)
{
    sy_status st = SY_OK;
    const uintptr_t page = (uintptr_t)1 << 21;
    (void)dev;
    SY_TRY(sy_alloc(bytes, 1, out));
    uintptr_t begin = ((uintptr_t)*out + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)*out + (uintptr_t)bytes) / page * page;
    if (end > begin) {
        madvise((void *)begin, end - begin, MADV_HUGEPAGE); /* a wish; a refusal changes nothing */
    }
cleanup:
    return st;
}

static void host_free(sy_device *dev, void *ptr, int64_t bytes)
{
    (void)dev, (void)bytes;
    sy_free(&ptr);
}

static void *host_view(const sy_device *dev, const void *ptr)
{
    (void)dev;
    return (void *)ptr;
}

static sy_status host_stream(sy_stream *stream)
{
    (void)stream;
    return SY_OK;
}

static void host_stream_destroy(sy_stream *stream)
{
    (void)stream;
}

static sy_status host_copy(sy_stream *stream, sy_copy_kind kind, void *dst, const void *src,
                           int64_t bytes)
{
    (void)stream, (void)kind;
    memmove(dst, src, (size_t)bytes);
    return SY_OK;
}

static sy_status host_zero(sy_stream *stream, void *dst, int64_t bytes)
{
    (void)stream;
    memset(dst, 0, (size_t)bytes);
    return SY_OK;
}

static sy_status host_call(sy_stream *stream, sy_call *fn, const void *args, int64_t args_bytes)
{
    _Alignas(SY__ALIGN_BYTES) char copied[SY_CALL_BYTES];
    if (args_bytes > 0) {
        memcpy(copied, args, (size_t)args_bytes);
    }
    return fn(stream, copied);
}

static sy_status host_run_op(sy_stream *stream, sy_op op, sy_call *run, const void *args,
                             int64_t args_bytes)
{
    (void)op, (void)args_bytes;
    return run(stream, args);
}

static sy_status host_event(sy_event *event)
{
    (void)event;
    return SY_OK;
}

static void host_event_destroy(sy_event *event)
{
    (void)event;
}

static sy_status host_event_record(sy_event *event, sy_stream *stream)
{
    (void)event, (void)stream;
    return SY_OK;
}

static sy_status host_stream_wait(sy_stream *stream, sy_event *event)
{
    (void)stream, (void)event;
    return SY_OK;
}

static bool host_event_done(sy_event *event)
{
    (void)event;
    return true;
}

static const sy_device_vt host_vt = {
    .open = host_open,
    .close = host_close,
    .alloc = host_alloc,
    .free = host_free,
    .host_view = host_view,
    .stream_create = host_stream,
    .stream_destroy = host_stream_destroy,
    .sync = host_stream,
    .copy = host_copy,
    .zero = host_zero,
    .call = host_call,
    .run_op = host_run_op,
    .event_create = host_event,
    .event_destroy = host_event_destroy,
    .event_record = host_event_record,
    .stream_wait = host_stream_wait,
    .event_sync = host_event,
    .event_done = host_event_done,
};

void sy__host_describe_cpu(sy_device *dev, const sy_device_spec *spec)
{
    dev->wide = SY_F32;
    dev->supports[SY_F32] = dev->supports[SY_BF16] = true;
    dev->n_threads = spec->threads > 0 ? spec->threads : sy_thread_cores();
    dev->row_multiple = SY_CPU_ROW_MULTIPLE;
}

static void describe_ref(sy_device *dev, const sy_device_spec *spec)
{
    (void)spec; /* one thread, whatever is asked for: plain beats fast here */
    dev->wide = SY_F64;
    dev->supports[SY_F64] = true;
    dev->n_threads = 1;
    dev->row_multiple = 1;
}

const sy_backend sy__backend_cpu = {
    .name = "cpu", .describe = sy__host_describe_cpu, .vt = &host_vt, .ops = &sy__cpu_ops};
const sy_backend sy__backend_ref = {
    .name = "ref", .describe = describe_ref, .vt = &host_vt, .ops = &sy__ref_ops};

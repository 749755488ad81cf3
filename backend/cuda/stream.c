/* Streams and events. A call in the stream's order, and a small copy between device and ordinary
   host memory, take one of a fixed number of slots, so that nothing is allocated and the host waits
   only where all slots are on their way. A call stops the stream until the host has run it; a copy
   to the GPU needs none, and its slot is free when an event has passed. Large copies are left to
   the runtime, which waits for them unless the host memory is pinned. */
#include "backend/cuda/cuda_impl.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"

void *sy_cuda_stream(sy_stream *stream)
{
    return sy__cuda_stream_of(stream)->stream;
}

/* ---- slots ---- */

/* The next slot, once what it carried has arrived. If the stream has failed nothing ever arrives.
 */
static sy_status take_slot(sy__cuda_stream *s, sy__cuda_slot **out)
{
    sy__cuda_slot *slot = &s->slot[s->n_slots_taken++ % SY__CUDA_SLOTS];
    int32_t busy;
    while ((busy = __atomic_load_n(&slot->busy, __ATOMIC_ACQUIRE)) != SY__CUDA_FREE) {
        const bool by_event = busy == SY__CUDA_UNTIL_EVENT;
        const cudaError_t error =
            by_event ? cudaEventQuery(slot->sent) : cudaStreamQuery(s->stream);
        if (error != cudaSuccess && error != cudaErrorNotReady) {
            return sy__cuda_try(error, "waiting for earlier work");
        }
        if (by_event && error == cudaSuccess) {
            break;
        }
        sched_yield();
    }
    __atomic_store_n(&slot->busy, SY__CUDA_UNTIL_CALL, __ATOMIC_RELAXED);
    *out = slot;
    return SY_OK;
}

static void keep_error(sy__cuda_stream *s, sy_status st)
{
    pthread_mutex_lock(&s->lock);
    if (s->error.status == SY_OK) {
        sy_error_take(&s->error);
        s->error.status = st;
    }
    pthread_mutex_unlock(&s->lock);
}

static bool has_failed(sy__cuda_stream *s)
{
    pthread_mutex_lock(&s->lock);
    const bool failed = s->error.status != SY_OK;
    pthread_mutex_unlock(&s->lock);
    return failed;
}

/* On a thread of the runtime, where no function of the runtime may be called. */
static void arrive(void *arg)
{
    sy__cuda_slot *slot = arg;
    sy__cuda_stream *s = slot->owner;
    if (slot->fn && !has_failed(s)) { /* what follows a failure would only fail worse */
        sy_error_clear();
        const sy_status st = slot->fn(s->about, slot->args);
        if (st != SY_OK) {
            keep_error(s, st);
        }
        sy_error_clear();
    } else if (slot->h_dst) {
        memcpy(slot->h_dst, slot->pinned, (size_t)slot->bytes);
    }
    __atomic_store_n(&slot->busy, SY__CUDA_FREE, __ATOMIC_RELEASE);
}

/* st: of what the slot is for; where that was refused, nothing will arrive. */
static sy_status send_slot(sy__cuda_stream *s, sy__cuda_slot *slot, sy_status st)
{
    SY_TRY(st);
    SY_TRY(sy__cuda_try(cudaLaunchHostFunc(s->stream, arrive, slot), "a host call"));
cleanup:
    if (st != SY_OK) {
        __atomic_store_n(&slot->busy, SY__CUDA_FREE, __ATOMIC_RELEASE);
    }
    return st;
}

/* ---- streams ---- */

sy_status sy__cuda_stream_create(sy_stream *stream)
{
    sy_status st = SY_OK;
    sy__cuda_stream *s = NULL;
    SY_TRY(sy_cuda_enter(stream->dev));
    SY_TRY(sy_alloc(1, sizeof *s, (void **)&s));
    pthread_mutex_init(&s->lock, NULL);
    s->about = stream;
    stream->self = s;
    SY_TRY(sy__cuda_try(cudaHostAlloc((void **)&s->fault, sizeof *s->fault, cudaHostAllocMapped),
                        "pinned memory"));
    SY_TRY(sy__cuda_try(cudaHostAlloc((void **)&s->pinned,
                                      (size_t)SY__CUDA_SLOTS * SY__CUDA_STAGED_BYTES,
                                      cudaHostAllocDefault),
                        "pinned memory"));
    *s->fault = SY__CUDA_NO_FAULT;
    for (int32_t i = 0; i < SY__CUDA_SLOTS; i++) {
        s->slot[i].owner = s;
        s->slot[i].pinned = s->pinned + i * SY__CUDA_STAGED_BYTES;
        SY_TRY(sy__cuda_try(cudaEventCreateWithFlags(&s->slot[i].sent, cudaEventDisableTiming),
                            "an event"));
    }
    SY_TRY(sy__cuda_try(cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking), "a stream"));
cleanup:
    if (st != SY_OK) {
        sy__cuda_stream_destroy(stream);
    }
    return st;
}

void sy__cuda_stream_destroy(sy_stream *stream)
{
    sy__cuda_stream *s = sy__cuda_stream_of(stream);
    if (!s) {
        return;
    }
    if (s->stream) {
        cudaStreamSynchronize(s->stream);
        cudaStreamDestroy(s->stream);
    }
    for (int32_t i = 0; i < SY__CUDA_SLOTS; i++) {
        if (s->slot[i].sent) {
            cudaEventDestroy(s->slot[i].sent);
        }
    }
    cudaFreeHost(s->pinned);
    cudaFreeHost(s->fault);
    pthread_mutex_destroy(&s->lock);
    sy_free(&stream->self);
}

static sy_status fault_error(const char *stream, int32_t fault)
{
    static const char *const text[SY__N_CUDA_FAULTS] = {
        [SY__CUDA_EXPERT_OUT_OF_RANGE] = "a choice names an expert that does not exist",
        [SY__CUDA_OVER_CAPACITY] = "op plan_rows: a wire place has more kept choices than capacity",
        [SY__CUDA_ROWS_DO_NOT_FIT] = "op plan_receive: the rows do not fit into the buffers",
    };
    const bool known = fault > 0 && fault < SY__N_CUDA_FAULTS;
    return sy_error(SY_ERR_INTERNAL, "a kernel on stream '%s' found: %s", stream,
                    known ? text[fault] : "an unknown fault");
}

sy_status sy__cuda_sync(sy_stream *stream)
{
    sy_status st = SY_OK;
    sy__cuda_stream *s = sy__cuda_stream_of(stream);
    SY_TRY(sy_cuda_enter(stream->dev));
    SY_TRY(sy__cuda_try(cudaStreamSynchronize(s->stream), "running what was enqueued"));
    if (s->error.status != SY_OK) {
        st = sy_error_raise(&s->error);
        s->error.status = SY_OK;
        goto cleanup;
    }
    const int32_t fault = *s->fault;
    *s->fault = SY__CUDA_NO_FAULT;
    SY_TRY(fault == SY__CUDA_NO_FAULT ? SY_OK : fault_error(stream->name, fault));
cleanup:
    return st;
}

/* ---- what is enqueued ---- */

static sy_status stage_h2d(sy__cuda_stream *s, void *dst, const void *src, int64_t bytes)
{
    sy_status st = SY_OK;
    sy__cuda_slot *slot = NULL;
    SY_TRY(take_slot(s, &slot));
    memcpy(slot->pinned, src, (size_t)bytes);
    st = sy__cuda_try(
        cudaMemcpyAsync(dst, slot->pinned, (size_t)bytes, cudaMemcpyHostToDevice, s->stream),
        "a copy to the GPU");
    slot->busy = st == SY_OK ? SY__CUDA_UNTIL_EVENT : SY__CUDA_FREE;
    SY_TRY(st);
    SY_TRY(sy__cuda_try(cudaEventRecord(slot->sent, s->stream), "recording an event"));
cleanup:
    return st;
}

static sy_status stage_d2h(sy__cuda_stream *s, void *dst, const void *src, int64_t bytes)
{
    sy_status st = SY_OK;
    sy__cuda_slot *slot = NULL;
    SY_TRY(take_slot(s, &slot));
    slot->fn = NULL;
    slot->h_dst = dst;
    slot->bytes = bytes;
    st = sy__cuda_try(
        cudaMemcpyAsync(slot->pinned, src, (size_t)bytes, cudaMemcpyDeviceToHost, s->stream),
        "a copy from the GPU");
    SY_TRY(send_slot(s, slot, st));
cleanup:
    return st;
}

sy_status sy__cuda_copy(sy_stream *stream, sy_copy_kind kind, void *dst, const void *src,
                        int64_t bytes)
{
    static const enum cudaMemcpyKind kinds[] = {[SY_COPY_H2D] = cudaMemcpyHostToDevice,
                                                [SY_COPY_D2H] = cudaMemcpyDeviceToHost,
                                                [SY_COPY_D2D] = cudaMemcpyDeviceToDevice};
    sy_status st = SY_OK;
    sy__cuda_stream *s = sy__cuda_stream_of(stream);
    SY_TRY(sy_cuda_enter(stream->dev));
    if (bytes <= SY__CUDA_STAGED_BYTES && kind != SY_COPY_D2D) {
        SY_TRY(kind == SY_COPY_H2D ? stage_h2d(s, dst, src, bytes) : stage_d2h(s, dst, src, bytes));
    } else {
        SY_TRY(sy__cuda_try(cudaMemcpyAsync(dst, src, (size_t)bytes, kinds[kind], s->stream),
                            "a copy"));
    }
cleanup:
    return st;
}

sy_status sy__cuda_zero(sy_stream *stream, void *dst, int64_t bytes)
{
    sy_status st = SY_OK;
    SY_TRY(sy_cuda_enter(stream->dev));
    SY_TRY(sy__cuda_try(cudaMemsetAsync(dst, 0, (size_t)bytes, sy__cuda_stream_of(stream)->stream),
                        "clearing"));
cleanup:
    return st;
}

sy_status sy__cuda_call(sy_stream *stream, sy_call *fn, const void *args, int64_t args_bytes)
{
    sy_status st = SY_OK;
    sy__cuda_stream *s = sy__cuda_stream_of(stream);
    sy__cuda_slot *slot = NULL;
    SY_TRY(sy_cuda_enter(stream->dev));
    SY_TRY(take_slot(s, &slot));
    slot->fn = fn;
    slot->h_dst = NULL;
    if (args_bytes > 0) {
        memcpy(slot->args, args, (size_t)args_bytes);
    }
    SY_TRY(send_slot(s, slot, SY_OK));
cleanup:
    return st;
}

/* An op launches kernels, so it is enqueued by running it here. */
sy_status sy__cuda_run_op(sy_stream *stream, sy_op op, sy_call *run, const void *args,
                          int64_t args_bytes)
{
    sy_status st = SY_OK;
    (void)op, (void)args_bytes;
    SY_TRY(sy_cuda_enter(stream->dev));
    SY_TRY(run(stream, args));
cleanup:
    return st;
}

/* ---- events ---- */

sy_status sy__cuda_event_create(sy_event *event)
{
    sy_status st = SY_OK;
    cudaEvent_t made = NULL;
    SY_TRY(sy_cuda_enter(event->dev));
    SY_TRY(sy__cuda_try(cudaEventCreateWithFlags(&made, cudaEventDisableTiming), "an event"));
    event->self = made;
cleanup:
    return st;
}

void sy__cuda_event_destroy(sy_event *event)
{
    cudaEventDestroy(event->self);
}

sy_status sy__cuda_event_record(sy_event *event, sy_stream *stream)
{
    sy_status st = SY_OK;
    SY_TRY(sy_cuda_enter(stream->dev));
    SY_TRY(sy__cuda_try(cudaEventRecord(event->self, sy__cuda_stream_of(stream)->stream),
                        "recording an event"));
cleanup:
    return st;
}

sy_status sy__cuda_stream_wait(sy_stream *stream, sy_event *event)
{
    sy_status st = SY_OK;
    SY_TRY(sy_cuda_enter(stream->dev));
    SY_TRY(sy__cuda_try(cudaStreamWaitEvent(sy__cuda_stream_of(stream)->stream, event->self, 0),
                        "waiting for an event"));
cleanup:
    return st;
}

sy_status sy__cuda_event_sync(sy_event *event)
{
    sy_status st = SY_OK;
    SY_TRY(sy_cuda_enter(event->dev));
    SY_TRY(sy__cuda_try(cudaEventSynchronize(event->self), "waiting for an event"));
cleanup:
    return st;
}

bool sy__cuda_event_done(sy_event *event)
{
    return cudaEventQuery(event->self) != cudaErrorNotReady;
}

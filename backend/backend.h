/* A device: memory, streams and events, and the table of ops that compute on it. The device owns
   its ops, streams and ledger. Backends: ref (plain double), cpu, check (the cpu backend made
   hostile), cuda. Who holds a device pointer may not dereference it. */
#ifndef SY_BACKEND_BACKEND_H
#define SY_BACKEND_BACKEND_H

#include "core/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a block of memory is for: every byte is booked under one. */
typedef enum sy_mem_tag {
    SY_MEM_PARAMS,
    SY_MEM_GRADS,
    SY_MEM_OPTIM,
    SY_MEM_SAVED,
    SY_MEM_SCRATCH,
    SY_MEM_EXCHANGE,
    SY_MEM_BATCH,
    SY_MEM_WORKSPACE,
    SY_MEM_CHECKPOINT,
    SY_MEM_OTHER,
    SY_N_MEM_TAGS
} sy_mem_tag;
const char *sy_mem_tag_name(sy_mem_tag tag);

/* Bytes now and at most, per tag. Read by the memory report; written by the device alone. */
typedef struct sy_ledger {
    int64_t now[SY_N_MEM_TAGS], peak[SY_N_MEM_TAGS], total_now, total_peak;
    int64_t n_allocs;     /* device allocations so far: constant over a warm step */
    int64_t n_host_waits; /* times the host waited for a stream or event */
} sy_ledger;

typedef struct sy_device sy_device;
typedef struct sy_stream sy_stream;
typedef struct sy_event sy_event;
typedef struct sy_ops sy_ops;

typedef struct sy_prices sy_prices;     /* backend/prices.h */
typedef struct sy_observer sy_observer; /* likewise */

typedef struct sy_device_spec {
    const char *backend; /* "auto" (cuda where there is a GPU, else cpu), "cpu", "check" (config
                            name cpu_check), "ref", "cuda" */
    int32_t threads;     /* for the ops of one rank; 0: all cores of the process */
    bool dry; /* measure only: nothing is computed, allocations hand out addresses that nobody may
                 touch */
    const sy_prices *prices; /* dry, borrowed: rehearse at these prices instead of measuring */
    int32_t place, n_places; /* this rank among those of its node: each takes a GPU of its own */
    bool shareable;          /* large blocks such as a network can move by itself (parallel/comm.h,
                                sy_comm_register), where the device has them */
} sy_device_spec;

struct sy_device {
    char name[16];              /* the backend's name */
    sy_dtype wide;              /* dtype of "wide" operands: F32, on ref F64 */
    bool supports[SY_N_DTYPES]; /* as compute dtype */
    int32_t n_threads;
    int32_t row_multiple; /* expert rows are aligned to it */
    bool dry;
    bool measures; /* dry without prices: sizes that depend on data are the largest there can be */
    const sy_prices *prices;     /* dry: it rehearses */
    const sy_observer *observer; /* told of every op and what it took; usually NULL */
    double host_s;               /* rehearsing: the host's clock */
    int32_t place, n_places;     /* as in the spec; n_places at least 1 */
    bool shareable;              /* likewise */
    char unit[32];   /* what computes, where no other rank of the node may use the same; "": no
                        matter */
    char model[144]; /* what all ranks must compute with; "": no matter */
    sy_ledger ledger;
    const sy_ops *ops; /* NULL slots: lacking */
    const struct sy_device_vt *vt;
    void *self; /* of the backend */
    void
        *ops_self; /* what the ops keep, made at their first use; freed by ops_self_free at close */
    void (*ops_self_free)(void *ops_self);
};

/* Open a device. Not collective. A backend that was not built: SY_ERR_UNSUPPORTED, "backend 'cuda'
   was not built; reconfigure with -Dcuda=enabled"; an unknown name: SY_ERR_USAGE with the nearest.
 */
sy_status sy_device_open(const sy_device_spec *spec, sy_device **out);
void sy_device_close(sy_device **dev);
/* Names of the backends in this build, NULL-terminated. */
const char *const *sy_backend_names(void);

/* Device memory, 64-byte aligned, contents zero. bytes == 0 gives a valid pointer. Exhausted:
 * SY_ERR_MEMORY naming tag and bytes. */
sy_status sy_device_alloc(sy_device *dev, int64_t bytes, sy_mem_tag tag, void **out);
void sy_device_free(sy_device *dev, void *ptr_to_ptr);
/* Bytes of memory that are free now and that there are, on a device with memory of its own; *total
 * 0 elsewhere and on a dry one. */
sy_status sy_device_capacity(sy_device *dev, int64_t *free_bytes, int64_t *total_bytes);
/* Book host memory that belongs to what this device computes (negative: it was given back), so that
 * the memory report has it. Not collective. */
void sy_device_book_host(sy_device *dev, sy_mem_tag tag, int64_t bytes);

/* Large copies between the device and these bytes of the host's, allocated by others, may skip a
   copy of the driver's (pinned memory). Slow, so for memory that stays; a hint: where it fails,
   copies are as they were. unpin before the memory is freed. Not collective. */
void sy_device_pin(sy_device *dev, void *h_ptr, int64_t bytes);
void sy_device_unpin(sy_device *dev, void *h_ptr);

/* Where a function run by sy_stream_call on this device may touch the memory behind a device
   pointer (identity on cpu and ref; the second mapping on check; NULL on cuda). NULL and host
   pointers come back as they are. */
void *sy_device_host_view(const sy_device *dev, const void *ptr);

/* Streams run what is enqueued in order. cpu and ref run it at once, inside the enqueue; check on a
   worker thread of the stream. Each stream owns a workspace (sy_stream_workspace) that the ops on
   it may use as scratch. */
sy_status sy_stream_create(sy_device *dev, const char *name, sy_stream **out);
void sy_stream_destroy(sy_stream **stream);
sy_device *sy_stream_device(const sy_stream *stream);
/* Wait for all that was enqueued; returns the first error of the stream since the last wait.
 * Counted in ledger.n_host_waits. */
sy_status sy_stream_sync(sy_stream *stream);
/* Copies and zero fill. Enqueued. h_ pointers are host memory and must stay valid until the stream
 * has passed the call. */
sy_status sy_copy_h2d(sy_stream *stream, void *dst, const void *h_src, int64_t bytes);
sy_status sy_copy_d2h(sy_stream *stream, void *h_dst, const void *src, int64_t bytes);
sy_status sy_copy_d2d(sy_stream *stream, void *dst, const void *src, int64_t bytes);
sy_status sy_zero(sy_stream *stream, void *dst, int64_t bytes);
/* The time at which all that was enqueued will have run: now where streams run at once, of the
   stream's own clock on a device that rehearses (backend/prices.h). For differences. */
double sy_stream_clock(const sy_stream *stream);
/* Run fn(stream, copy of args) in the stream's order, on the host. args_bytes <= SY_CALL_BYTES. For
   communication and tests; a dry device never calls it. */
enum { SY_CALL_BYTES = 1024 };
typedef sy_status sy_call(sy_stream *stream, const void *args);
sy_status sy_stream_call(sy_stream *stream, sy_call *fn, const void *args, int64_t args_bytes);

/* Tell the device that the next call on the stream reads (or writes) these bytes of device memory:
   what the args of a call point at cannot be seen otherwise. check finds a missing wait with it and
   returns SY_ERR_INTERNAL; elsewhere it does nothing. Ops and copies need none. */
sy_status sy_stream_announce(sy_stream *stream, const void *ptr, int64_t bytes, bool writes);

/* Events: recorded on one stream, waited for by another (enqueued) or by the host (counted). */
sy_status sy_event_create(sy_device *dev, sy_event **out);
void sy_event_destroy(sy_event **event);
sy_status sy_event_record(sy_event *event, sy_stream *stream);
sy_status sy_stream_wait(sy_stream *stream, sy_event *event);
sy_status sy_event_sync(sy_event *event);
/* Has the event passed? Never waits. */
bool sy_event_done(sy_event *event);

/* Scratch of the op that now runs on the stream: at least SY_WORKSPACE_BYTES, 64-byte aligned,
   contents undefined, per stream. Called by op implementations only. */
enum { SY_WORKSPACE_BYTES = 32 << 20 };
void *sy_stream_workspace(sy_stream *stream);

#ifdef __cplusplus
}
#endif
#endif

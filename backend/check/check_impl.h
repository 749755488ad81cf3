/* The cpu backend made hostile. Three ideas, one file each:
     memory.c  code holds addresses that it may not touch, ops get a second place of the same
   memory; red zones stand around blocks; lane.c    a stream is a worker thread that starts late,
   unless somebody waits for it; order.c   every access that is not yet known to have passed is
   remembered, so that two of them in no order are found when the second is enqueued, whatever the
   threads do. enqueue.c puts them together on the host's side, run.c on the worker's; view.c walks
   the elements of strided operands; undefined.c knows which memory nobody has written yet; trap.c
   says who touched what. */
#ifndef SY_BACKEND_CHECK_CHECK_IMPL_H
#define SY_BACKEND_CHECK_CHECK_IMPL_H

#include <pthread.h>

#include "backend/host_impl.h"

enum {
    SY__LANES = 32,       /* streams of a device at one time */
    SY__TASKS = 1024,     /* waiting in one stream */
    SY__ACCESSES = 4096,  /* remembered of one stream */
    SY__UNDEFINED = 1024, /* ranges of memory that nobody has written */
    SY__MAX_OPERANDS = 16,
    SY__RED_BYTES = 64 /* at least, on either side of a block */
};

/* ---- view.c: the elements of a tensor ---- */

/* Bytes first .. first+bytes-1; with a pitch only the first `width` of every `pitch` of them. */
typedef struct sy__range {
    uintptr_t first;
    int64_t bytes, pitch, width;
} sy__range;

sy__range sy__range_of_bytes(const void *ptr, int64_t bytes);
sy__range sy__range_of(const sy_tensor *t);
bool sy__ranges_meet(const sy__range *a, const sy__range *b);
/* Fill with what no computation yields: a signalling NaN, an unlikely negative integer. */
void sy__view_poison(const sy_tensor *t);
/* Elements that still hold the poison; index: the first of them. */
int64_t sy__view_count_poison(const sy_tensor *t, int64_t index[SY_MAX_DIM]);

/* ---- memory.c ---- */

typedef struct sy__span {
    int64_t offset, span_bytes; /* of the region, whole pages */
    int64_t bytes;              /* of the block that code sees */
} sy__span;

typedef struct sy__region {
    char *base; /* handed out; the ops' place is at base + bytes */
    int64_t bytes, page_bytes;
    sy__span *spans; /* ascending */
    int32_t n_spans, max_spans;
} sy__region;

sy_status sy__region_open(sy__region *region);
void sy__region_close(sy__region *region);
sy_status sy__region_alloc(sy__region *region, int64_t bytes, void **out);
void sy__region_free(sy__region *region, void *ptr);
bool sy__region_has(const sy__region *region, const void *ptr);
void *sy__region_view(const sy__region *region, const void *ptr);
/* Do all of these bytes lie in one block? */
bool sy__region_covers(const sy__region *region, uintptr_t first, int64_t bytes);
/* Are the red zones of the block that holds ptr as they were? Else SY_ERR_INTERNAL; who: "op add:
 * y". */
sy_status sy__region_verify(const sy__region *region, const void *ptr, const char *who);

/* ---- trap.c ---- */

/* One clear sentence on standard error, before the process dies, when code touches these bytes. */
void sy__trap_set(const void *first, int64_t bytes, int64_t view_bytes);
void sy__trap_clear(const void *first);

/* ---- lane.c, order.c ---- */

typedef struct sy__clock {
    int64_t ticket[SY__LANES]; /* per lane: everything up to this task is ordered before */
} sy__clock;

typedef struct sy__access {
    sy__range range;
    bool writes, overwrites;           /* overwrites: without reading */
    bool on_host;                      /* host memory: the far end of a copy */
    const char *kind, *what, *operand; /* static storage: "op ", "add", "x" */
    int64_t ticket;
} sy__access;

/* A stretch of a stream's order. */
typedef struct sy__task {
    char args[SY_CALL_BYTES] __attribute__((aligned(64)));
    sy_call *run;
    int32_t op;       /* -1: not an op */
    int32_t wait_for; /* a lane, and up to which task of it; -1: nothing */
    int64_t wait_ticket;
    double due_s; /* when it starts even if nobody waits for it */
} sy__task;

typedef struct sy__check sy__check;

typedef struct sy__lane {
    sy__check *check;
    sy_stream *stream; /* NULL: free. The counts go on when a lane is taken again */
    pthread_t thread;
    pthread_cond_t wake;
    bool quit;
    sy__task *tasks; /* a ring */
    int64_t n_queued, n_done, n_wanted;
    bool announced; /* what the next call touches is known */
    sy_trace error; /* status SY_OK: none */
    int64_t error_ticket;
    sy__clock seen;                  /* what the next task is ordered after */
    sy__access *accesses;            /* a ring */
    int64_t n_accesses, n_forgotten; /* ever noted; of these, no longer of interest */
} sy__lane;

struct sy__check {
    sy_device *dev;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t progress;
    sy__region region;
    sy__lane lanes[SY__LANES];
    sy__clock host_seen;
    sy__range undefined[SY__UNDEFINED];
    int32_t n_undefined;
    sy_trace late; /* found where nothing can be returned; comes out at the next wait */
};

typedef struct sy__check_event {
    int32_t lane; /* -1: never recorded */
    int64_t ticket;
    sy__clock seen;
} sy__check_event;

static inline sy__check *sy__check_of(const sy_device *dev)
{
    return (sy__check *)dev->self;
}

static inline sy__lane *sy__lane_of(const sy_stream *stream)
{
    return (sy__lane *)stream->self;
}

sy_status sy__lane_create(sy_stream *stream);
void sy__lane_destroy(sy_stream *stream);
/* All three want the lock. reserve: the slot of the next task, waiting for room; push: it is
 * filled. */
sy__task *sy__lane_reserve(sy__lane *lane);
void sy__lane_push(sy__lane *lane);
/* Start the lane and wait until it has passed the ticket. */
void sy__lane_await(sy__lane *lane, int64_t ticket);
void sy__lane_await_all(sy__check *check);
/* The sticky error of a lane up to a ticket, raised in this thread and forgotten. */
sy_status sy__lane_take_error(sy__lane *lane, int64_t ticket);

sy_status sy__check_sync(sy_stream *stream);
sy_status sy__check_event_create(sy_event *event);
void sy__check_event_destroy(sy_event *event);
sy_status sy__check_event_record(sy_event *event, sy_stream *stream);
sy_status sy__check_stream_wait(sy_stream *stream, sy_event *event);
sy_status sy__check_event_sync(sy_event *event);
bool sy__check_event_done(sy_event *event);

int32_t sy__lane_index(const sy__lane *lane);
void sy__clock_join(sy__clock *clock, const sy__clock *other);
/* The host has waited: forget what is in order with everything to come. */
void sy__order_host_saw(sy__check *check, const sy__clock *clock);
/* Is the access in order with every earlier one of the other lanes? Else SY_ERR_INTERNAL naming
 * both. */
sy_status sy__order_verify(const sy__lane *lane, const sy__access *access);
/* Does any access of any lane that the host has not waited for touch the range? */
bool sy__order_pending(const sy__check *check, const sy__range *range);
/* The next task of the lane makes this access. */
void sy__order_note(sy__lane *lane, const sy__access *access);

/* ---- undefined.c ---- */

/* Handed out, and nobody has written it. Slot of the device's table. */
void sy__undefined_add(sy_device *dev, void *ptr, int64_t bytes);
/* All others want the lock. take: a piece of the range that is undefined, which it is no longer;
 * false: there is none. */
bool sy__undefined_take(sy__check *check, const sy__range *range, sy__range *piece);
void sy__undefined_forget(sy__check *check);
/* Somebody is about to write at ptr by other means. */
void sy__undefined_forget_at(sy__check *check, const void *ptr);

/* ---- run.c ---- */

const sy_tensor *sy__operand(const void *args, const sy_operand *operand);
/* IN, OUT or UPDATE: the conditional role is decided by its factor. */
sy_role sy__operand_role(const void *args, const sy_operand *operand);
/* A task, on the worker of its lane, without the lock. */
sy_status sy__task_run(sy__lane *lane, sy__task *task);

/* ---- enqueue.c ---- */

sy_status sy__check_copy(sy_stream *stream, sy_copy_kind kind, void *dst, const void *src,
                         int64_t bytes);
sy_status sy__check_zero(sy_stream *stream, void *dst, int64_t bytes);
sy_status sy__check_call(sy_stream *stream, sy_call *fn, const void *args, int64_t args_bytes);
sy_status sy__check_announce(sy_stream *stream, const void *ptr, int64_t bytes, bool writes);
sy_status sy__check_run_op(sy_stream *stream, sy_op op, sy_call *run, const void *args,
                           int64_t args_bytes);

#endif

/* Streams and events of the emulator. A stream runs what it is given inside the call; or a thread
   of its own runs it as late as it may: once the host, or another stream that has come to it, waits
   for it. EMULATOR_ORDER=late: all do, so whoever forgets to wait for a result finds the bytes of
   before, every time, instead of the right ones by luck. EMULATOR_ORDER=uneven: the process' first
   stream does, and the others find that nothing of it has run which they do not wait for. What
   nobody waits for runs after LIE_S, because the rank of another process may need it. */
#include "tests/emulator/emulator_impl.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LIE_S = 2, ALIGNMENT = 16 };

typedef struct task {
    struct task *next;
    struct timespec due;
    void (*run)(const void *args); /* NULL: wait for `other` to have run `ticket` tasks */
    struct CUstream_st *other;
    int64_t ticket;
    char args[] __attribute__((aligned(ALIGNMENT)));
} task;

struct CUstream_st {
    int32_t order;
    bool late, quit;
    pthread_t thread;
    task *first, *last;
    int64_t n_queued, n_wanted, n_done;
    struct CUstream_st *next;
};

struct CUevent_st {
    struct CUstream_st *stream; /* NULL: nothing was recorded that could still run */
    int64_t ticket;
};

/* Streams are few, and events may outlive them: they are never given back. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct CUstream_st *first;
    int32_t n_created;
} all = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* How many streams run late. */
static int32_t n_late(void)
{
    const char *order = getenv("EMULATOR_ORDER");
    const bool late = order && strcmp(order, "late") == 0;
    return late ? INT32_MAX : order && strcmp(order, "uneven") == 0 ? 1 : 0;
}

bool emulator_is_late(void)
{
    return n_late() > 0;
}

/* ---- a stream's thread ---- */

static bool is_before(struct timespec a, struct timespec b)
{
    return a.tv_sec != b.tv_sec ? a.tv_sec < b.tv_sec : a.tv_nsec < b.tv_nsec;
}

static bool may_start(const struct CUstream_st *s)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return s->first && (s->n_wanted > s->n_done || is_before(s->first->due, now));
}

static void want(struct CUstream_st *s, int64_t ticket)
{
    if (ticket > s->n_wanted) {
        s->n_wanted = ticket;
        pthread_cond_broadcast(&all.changed);
    }
}

static void await(struct CUstream_st *s, int64_t ticket)
{
    want(s, ticket);
    while (s->n_done < ticket) {
        pthread_cond_wait(&all.changed, &all.lock);
    }
}

static void run_first(struct CUstream_st *s)
{
    task *t = s->first;
    if (t->run) {
        pthread_mutex_unlock(&all.lock);
        t->run(t->args);
        pthread_mutex_lock(&all.lock);
    } else {
        await(t->other, t->ticket);
    }
    s->first = t->next;
    s->n_done++;
    free(t);
    pthread_cond_broadcast(&all.changed);
}

static void *work(void *stream)
{
    struct CUstream_st *s = stream;
    pthread_mutex_lock(&all.lock);
    while (s->first || !s->quit) {
        if (may_start(s)) {
            run_first(s);
        } else if (s->first) {
            pthread_cond_timedwait(&all.changed, &all.lock, &s->first->due);
        } else {
            pthread_cond_wait(&all.changed, &all.lock);
        }
    }
    pthread_mutex_unlock(&all.lock);
    return NULL;
}

/* ---- what is enqueued ---- */

static void push(struct CUstream_st *s, const task *about, const void *args, size_t bytes)
{
    task *t = aligned_alloc(ALIGNMENT, (sizeof *t + bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    if (!t) {
        abort();
    }
    *t = *about;
    clock_gettime(CLOCK_REALTIME, &t->due);
    t->due.tv_sec += LIE_S;
    if (bytes > 0) {
        memcpy(t->args, args, bytes);
    }
    pthread_mutex_lock(&all.lock);
    if (s->first) {
        s->last->next = t;
    } else {
        s->first = t;
        pthread_cond_broadcast(&all.changed);
    }
    s->last = t;
    s->n_queued++;
    pthread_mutex_unlock(&all.lock);
}

void emulator_enqueue(cudaStream_t stream, void (*run)(const void *args), const void *args,
                      size_t bytes)
{
    if (stream && stream->late) {
        push(stream, &(task){.run = run}, args, bytes);
    } else {
        run(args);
    }
}

void emulator_finish_all(void)
{
    pthread_mutex_lock(&all.lock);
    for (struct CUstream_st *s = all.first; s; s = s->next) {
        await(s, s->n_queued);
    }
    pthread_mutex_unlock(&all.lock);
}

int32_t emulator_order(cudaStream_t stream)
{
    return stream ? stream->order : 0;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    struct CUstream_st *s = calloc(1, sizeof *s);
    (void)flags;
    if (!s) {
        return cudaErrorMemoryAllocation;
    }
    pthread_mutex_lock(&all.lock);
    s->order = all.n_created % 3;
    s->late = all.n_created++ < n_late() && pthread_create(&s->thread, NULL, work, s) == 0;
    s->next = all.first;
    all.first = s;
    pthread_mutex_unlock(&all.lock);
    *out = s;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    if (stream->late) {
        pthread_mutex_lock(&all.lock);
        await(stream, stream->n_queued);
        stream->quit = true;
        pthread_cond_broadcast(&all.changed);
        pthread_mutex_unlock(&all.lock);
        pthread_join(stream->thread, NULL);
        stream->late = false;
    }
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    if (stream) {
        pthread_mutex_lock(&all.lock);
        await(stream, stream->n_queued);
        pthread_mutex_unlock(&all.lock);
    }
    return cudaSuccess;
}

/* Whoever asks again and again gets on, a task at a time. */
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    if (!stream) {
        return cudaSuccess;
    }
    pthread_mutex_lock(&all.lock);
    const bool done = stream->n_done == stream->n_queued;
    if (!done) {
        want(stream, stream->n_done + 1);
    }
    pthread_mutex_unlock(&all.lock);
    return done ? cudaSuccess : cudaErrorNotReady;
}

static _Thread_local bool in_host_function;

bool emulator_in_host_function(void)
{
    return in_host_function;
}

static void call(const void *args)
{
    const emulator_call *c = args;
    in_host_function = true;
    c->fn(c->arg);
    in_host_function = false;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *arg)
{
    const emulator_call c = {fn, arg};
    emulator_enqueue(stream, call, &c, sizeof c);
    return cudaSuccess;
}

/* ---- events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    (void)flags;
    *out = calloc(1, sizeof **out);
    return *out ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    free(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    pthread_mutex_lock(&all.lock);
    *event = (struct CUevent_st){stream, stream->n_queued};
    pthread_mutex_unlock(&all.lock);
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    if (event->stream) {
        pthread_mutex_lock(&all.lock);
        await(event->stream, event->ticket);
        pthread_mutex_unlock(&all.lock);
    }
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    (void)flags;
    if (!stream->late) {
        return cudaEventSynchronize(event);
    }
    if (event->stream && event->stream != stream) {
        push(stream, &(task){.other = event->stream, .ticket = event->ticket}, NULL, 0);
    }
    return cudaSuccess;
}

/* Asking is no waiting, but who asks will ask again. */
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    bool done = true;
    if (event->stream) {
        pthread_mutex_lock(&all.lock);
        done = event->stream->n_done >= event->ticket;
        want(event->stream, event->ticket);
        pthread_mutex_unlock(&all.lock);
    }
    return done ? cudaSuccess : cudaErrorNotReady;
}

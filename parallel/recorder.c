/* The flight recorder: a ring of the last collectives of this process, whatever communicator they
   belong to. An entry does not record its own end: calls of one communicator end in order, so its
   counter of finished calls tells the state of every one. */
#include "parallel/comm_impl.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { RING = 256 };

typedef struct entry {
    const sy_comm *comm; /* NULL: the communicator is gone, n_done stays as it was */
    char comm_name[16];
    const char *what;
    int64_t number; /* of this call among the communicator's own, from 1 */
    int64_t n_done;
    uint64_t comm_id, chain; /* as they were when it was called */
    int64_t bytes;
    sy__collective which;
    int32_t layer, comm_size;
} entry;

/* One per process, as a watchdog must see the calls of every thread. */
static struct {
    pthread_mutex_t lock;
    int64_t n;
    entry ring[RING];
} recorder = {.lock = PTHREAD_MUTEX_INITIALIZER};

void sy__recorder_add(const sy_comm *comm, const sy_comm_args *args, sy__collective which)
{
    pthread_mutex_lock(&recorder.lock);
    entry *e = &recorder.ring[recorder.n++ % RING];
    e->comm = comm;
    memcpy(e->comm_name, comm->name, sizeof e->comm_name);
    e->what = args->what;
    e->number = comm->n_issued;
    e->comm_id = comm->id;
    e->comm_size = comm->size;
    e->chain = comm->chain;
    e->bytes = sy__comm_common_bytes(args, which);
    e->which = which;
    e->layer = args->layer;
    pthread_mutex_unlock(&recorder.lock);
}

void sy__recorder_forget(const sy_comm *comm)
{
    pthread_mutex_lock(&recorder.lock);
    for (int i = 0; i < RING; i++) {
        entry *e = &recorder.ring[i];
        if (e->comm == comm) {
            e->n_done = __atomic_load_n(&comm->n_done, __ATOMIC_ACQUIRE);
            e->comm = NULL;
        }
    }
    pthread_mutex_unlock(&recorder.lock);
}

static bool waits(const entry *e)
{
    return e->comm && e->comm->size > 1 &&
           e->number <= __atomic_load_n(&e->comm->n_begun, __ATOMIC_ACQUIRE) &&
           e->number > __atomic_load_n(&e->comm->n_done, __ATOMIC_ACQUIRE);
}

static sy_comm_call call_of(const entry *e)
{
    sy_comm_call c = {.comm_id = e->comm_id,
                      .chain = e->chain,
                      .number = e->number,
                      .bytes = e->bytes,
                      .layer = e->layer,
                      .comm_size = e->comm_size};
    memcpy(c.comm_name, e->comm_name, sizeof c.comm_name);
    snprintf(c.collective, sizeof c.collective, "%s", sy__collective_name(e->which));
    snprintf(c.what, sizeof c.what, "%s", e->what);
    return c;
}

bool sy__recorder_waits(sy_comm_call *out)
{
    bool found = false;
    *out = (sy_comm_call){0};
    pthread_mutex_lock(&recorder.lock);
    int64_t first = recorder.n > RING ? recorder.n - RING : 0;
    for (int64_t i = first; i < recorder.n && !found; i++) {
        const entry *e = &recorder.ring[i % RING];
        found = waits(e);
        if (found || (i == recorder.n - 1)) {
            *out = call_of(e);
        }
    }
    pthread_mutex_unlock(&recorder.lock);
    return found;
}

static const char *state_of(const entry *e)
{
    int64_t n_done = e->comm ? __atomic_load_n(&e->comm->n_done, __ATOMIC_ACQUIRE) : e->n_done;
    if (e->number <= n_done) {
        return "done";
    }
    return e->number == n_done + 1 ? "not done" : "queued";
}

static int format_entry(const entry *e, int64_t number, char *buf, size_t buf_bytes)
{
    char layer[32] = "";
    if (e->layer >= 0) {
        snprintf(layer, sizeof layer, " layer %d", e->layer);
    }
    return snprintf(buf, buf_bytes, "%" PRId64 " %s %s '%s'%s %s\n", number, e->comm_name,
                    sy__collective_name(e->which), e->what, layer, state_of(e));
}

void sy_comm_recorder_format(char *buf, size_t buf_bytes)
{
    size_t used = 0;
    if (buf_bytes == 0) {
        return;
    }
    buf[0] = '\0';
    pthread_mutex_lock(&recorder.lock);
    int64_t first = recorder.n > RING ? recorder.n - RING : 0;
    for (int64_t i = first; i < recorder.n; i++) {
        char line[256];
        int n = format_entry(&recorder.ring[i % RING], i + 1, line, sizeof line);
        size_t bytes = n < 0 ? 0 : (size_t)n < sizeof line ? (size_t)n : sizeof line - 1;
        if (used + bytes >= buf_bytes) {
            break;
        }
        memcpy(buf + used, line, bytes + 1);
        used += bytes;
    }
    pthread_mutex_unlock(&recorder.lock);
}

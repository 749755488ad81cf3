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
    int64_t place; /* among the calls with other ranks; 0: it was none */
    uint64_t signature, digest;
    int64_t bytes;
    sy__collective which;
    int32_t layer;
} entry;

/* One per process, as a watchdog must see the calls of every thread. */
static struct {
    pthread_mutex_t lock;
    int64_t n;
    int64_t n_taken, n_taken_before; /* at the last take and at the one before it */
    int64_t n_places;                /* calls with other ranks */
    uint64_t digest;                 /* of those since the last take */
    double patience_s;
    entry ring[RING];
} recorder = {.lock = PTHREAD_MUTEX_INITIALIZER};

void sy__recorder_add(const sy_comm *comm, const sy_comm_args *args, sy__collective which,
                      uint64_t signature)
{
    pthread_mutex_lock(&recorder.lock);
    entry *e = &recorder.ring[recorder.n++ % RING];
    e->comm = comm;
    memcpy(e->comm_name, comm->name, sizeof e->comm_name);
    e->what = args->what;
    e->number = comm->n_issued;
    e->bytes = sy__comm_common_bytes(args, which);
    e->signature = 0;
    e->place = 0;
    if (comm->size > 1) {
        recorder.digest = (recorder.digest ^ signature) * 0x9E3779B97F4A7C15U;
        recorder.digest ^= recorder.digest >> 31;
        e->signature = signature;
        e->digest = recorder.digest;
        e->place = ++recorder.n_places;
    }
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
    sy_comm_call c = {.place = e->place,
                      .digest = e->digest,
                      .number = e->number,
                      .bytes = e->bytes,
                      .layer = e->layer};
    memcpy(c.comm_name, e->comm_name, sizeof c.comm_name);
    snprintf(c.collective, sizeof c.collective, "%s", sy__collective_name(e->which));
    snprintf(c.what, sizeof c.what, "%s", e->what);
    return c;
}

bool sy__recorder_last(sy_comm_call *out, int32_t n)
{
    bool found = false;
    memset(out, 0, (size_t)n * sizeof *out);
    pthread_mutex_lock(&recorder.lock);
    const int64_t first = recorder.n > RING ? recorder.n - RING : 0;
    int64_t at = recorder.n - 1;
    for (int64_t i = first; i < recorder.n && !found; i++) {
        found = waits(&recorder.ring[i % RING]);
        at = found ? i : at;
    }
    for (int32_t i = 0; i < n && at >= first; at--) {
        if (recorder.ring[at % RING].place > 0) {
            out[i++] = call_of(&recorder.ring[at % RING]);
        }
    }
    pthread_mutex_unlock(&recorder.lock);
    return found;
}

void sy__recorder_first(const sy_comm *comm, sy_comm_call *out)
{
    const int64_t n_done = __atomic_load_n(&comm->n_done, __ATOMIC_ACQUIRE);
    *out = (sy_comm_call){0};
    pthread_mutex_lock(&recorder.lock);
    const int64_t first = recorder.n > RING ? recorder.n - RING : 0;
    for (int64_t i = first; i < recorder.n && out->place == 0; i++) {
        const entry *e = &recorder.ring[i % RING];
        if (e->comm == comm && e->number > n_done) {
            *out = call_of(e);
        }
    }
    pthread_mutex_unlock(&recorder.lock);
}

int64_t sy_comm_calls_take(void)
{
    pthread_mutex_lock(&recorder.lock);
    const int64_t number = (int64_t)(recorder.digest >> 40);
    recorder.digest = 0;
    recorder.n_taken_before = recorder.n_taken;
    recorder.n_taken = recorder.n;
    pthread_mutex_unlock(&recorder.lock);
    return number;
}

int64_t sy__recorder_count(int64_t *first_kept)
{
    pthread_mutex_lock(&recorder.lock);
    const int64_t lost = recorder.n - RING - recorder.n_taken_before;
    const int64_t n = recorder.n_taken - recorder.n_taken_before;
    pthread_mutex_unlock(&recorder.lock);
    *first_kept = lost > 0 ? lost : 0;
    return n;
}

bool sy__recorder_call(int64_t k, sy_comm_call *out, uint64_t *signature)
{
    *out = (sy_comm_call){0};
    *signature = 0;
    pthread_mutex_lock(&recorder.lock);
    const int64_t i = recorder.n_taken_before + k;
    const bool kept = k >= 0 && i < recorder.n_taken && i >= recorder.n - RING;
    if (kept) {
        *out = call_of(&recorder.ring[i % RING]);
        *signature = recorder.ring[i % RING].signature;
    }
    pthread_mutex_unlock(&recorder.lock);
    return kept;
}

void sy__recorder_be_patient(double seconds)
{
    pthread_mutex_lock(&recorder.lock);
    recorder.patience_s = seconds;
    pthread_mutex_unlock(&recorder.lock);
}

double sy__recorder_patience(void)
{
    pthread_mutex_lock(&recorder.lock);
    const double seconds = recorder.patience_s;
    pthread_mutex_unlock(&recorder.lock);
    return seconds;
}

void sy_comm_call_format(const sy_comm_call *c, char *buf, size_t buf_bytes)
{
    char bytes[48] = "", layer[32] = "";
    if (c->place == 0) {
        snprintf(buf, buf_bytes, "nothing");
        return;
    }
    if (c->bytes >= 0) {
        snprintf(bytes, sizeof bytes, ", %" PRId64 " bytes", c->bytes);
    }
    if (c->layer >= 0) {
        snprintf(layer, sizeof layer, " of layer %d", c->layer);
    }
    snprintf(buf, buf_bytes, "'%.*s' (%.*s over %.*s, call %" PRId64 "%s)%s", (int)sizeof c->what,
             c->what, (int)sizeof c->collective, c->collective, (int)sizeof c->comm_name,
             c->comm_name, c->number, bytes, layer);
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

/* The flight recorder: a ring of the last collectives of this process, whatever communicator they
   belong to. An entry does not record its own end: calls of one communicator end in order, so its
   counter of finished calls tells the state of every one. */
#include "parallel/comm_impl.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { RING = 512 }; /* more than streams have under way */

typedef struct entry {
    const sy_comm *comm; /* NULL: the communicator is gone, n_done stays as it was */
    char comm_name[16];
    const char *what;
    int64_t number; /* of this call among the communicator's own, from 1 */
    int64_t n_done;
    uint64_t lane;
    int64_t common;
    int64_t place; /* in its lane; 0: a call without other ranks */
    uint64_t signature, digest;
    int64_t bytes;
    sy__collective which;
    int32_t layer;
} entry;

/* One per process, as a watchdog must see the calls of every thread. */
static struct {
    pthread_mutex_t lock;
    int64_t n;
    int64_t n_common;                /* calls of lane 0 */
    int64_t n_taken, n_taken_before; /* of them, at the last take and at the one before it */
    uint64_t digest, since_take;     /* of all of them, and of those since the last take */
    double patience_s;
    entry ring[RING];
} recorder = {.lock = PTHREAD_MUTEX_INITIALIZER};

static uint64_t chain(uint64_t digest, uint64_t signature)
{
    digest = (digest ^ signature) * 0x9E3779B97F4A7C15U;
    return digest ^ digest >> 31;
}

void sy__recorder_add(sy_comm *comm, const sy_comm_args *args, sy__collective which,
                      uint64_t signature)
{
    pthread_mutex_lock(&recorder.lock);
    entry *e = &recorder.ring[recorder.n++ % RING];
    *e = (entry){.comm = comm,
                 .what = args->what,
                 .number = comm->n_issued,
                 .bytes = sy__comm_common_bytes(args, which),
                 .which = which,
                 .layer = args->layer,
                 .lane = comm->lane};
    memcpy(e->comm_name, comm->name, sizeof e->comm_name);
    if (comm->size > 1) {
        uint64_t *digest = comm->lane == 0 ? &recorder.digest : &comm->digest;
        recorder.n_common += comm->lane == 0;
        *digest = chain(*digest, signature);
        recorder.since_take =
            comm->lane == 0 ? chain(recorder.since_take, signature) : recorder.since_take;
        e->signature = signature;
        e->digest = *digest;
        e->place = comm->lane == 0 ? recorder.n_common : comm->n_issued;
        e->common = recorder.n_common;
    }
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
    sy_comm_call c = {.lane = e->lane,
                      .common = e->common,
                      .place = e->place,
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
    const int64_t number = (int64_t)(recorder.since_take >> 40);
    recorder.since_take = 0;
    recorder.n_taken_before = recorder.n_taken;
    recorder.n_taken = recorder.n_common;
    pthread_mutex_unlock(&recorder.lock);
    return number;
}

/* The entry of the call of lane 0 at this place; NULL: it is not kept. */
static const entry *common_call(int64_t place)
{
    for (int32_t i = 0; i < RING; i++) {
        const entry *e = &recorder.ring[i];
        if (e->lane == 0 && e->place == place && place > 0) {
            return e;
        }
    }
    return NULL;
}

int64_t sy__recorder_count(int64_t *first_kept)
{
    pthread_mutex_lock(&recorder.lock);
    const int64_t n = recorder.n_taken - recorder.n_taken_before;
    *first_kept = n;
    while (*first_kept > 0 && common_call(recorder.n_taken_before + *first_kept) != NULL) {
        (*first_kept)--;
    }
    pthread_mutex_unlock(&recorder.lock);
    return n;
}

bool sy__recorder_call(int64_t k, sy_comm_call *out, uint64_t *signature)
{
    *out = (sy_comm_call){0};
    *signature = 0;
    pthread_mutex_lock(&recorder.lock);
    const int64_t place = recorder.n_taken_before + k + 1;
    const entry *e = k >= 0 && place <= recorder.n_taken ? common_call(place) : NULL;
    if (e != NULL) {
        *out = call_of(e);
        *signature = e->signature;
    }
    pthread_mutex_unlock(&recorder.lock);
    return e != NULL;
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

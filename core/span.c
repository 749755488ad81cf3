/* The recorder of spans: open ones stand on a stack of their thread, ended ones in one array of
   the process. */
#include "core/span.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "core/alloc.h"
#include "core/clock.h"

enum { DEPTH = 32 };

static atomic_bool is_on;
static atomic_int recording; /* counts the starts: a stack of an earlier one is void */

static struct {
    pthread_mutex_t lock;
    sy_span *item; /* [n_max] */
    int64_t n, n_max, n_lost;
    char thread[SY_SPAN_THREADS][SY_SPAN_NAME];
    int32_t n_threads;
} recorder = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local struct {
    int recording;
    int32_t thread, depth;
    sy_span open[DEPTH];
} mine;

/* This thread's first span of a recording. */
static void enroll(void)
{
    mine.recording = atomic_load(&recording);
    mine.depth = 0;
    pthread_mutex_lock(&recorder.lock);
    mine.thread = recorder.n_threads < SY_SPAN_THREADS ? recorder.n_threads++ : -1;
    if (mine.thread >= 0) {
        char *name = recorder.thread[mine.thread];
        if (pthread_getname_np(pthread_self(), name, SY_SPAN_NAME) != 0) {
            snprintf(name, SY_SPAN_NAME, "thread %d", mine.thread);
        }
    }
    pthread_mutex_unlock(&recorder.lock);
}

bool sy_span_is_on(void)
{
    return atomic_load_explicit(&is_on, memory_order_relaxed);
}

void sy_span_begin(sy_span_kind kind, const char *name, int64_t number, int64_t bytes)
{
    if (!sy_span_is_on()) {
        return;
    }
    if (mine.recording != atomic_load(&recording)) {
        enroll();
    }
    if (mine.depth < DEPTH) {
        mine.open[mine.depth] = (sy_span){.name = name,
                                          .begun_s = sy_clock_s(),
                                          .number = number,
                                          .bytes = bytes,
                                          .thread = mine.thread,
                                          .depth = mine.depth,
                                          .kind = kind};
    }
    mine.depth++;
}

void sy_span_end(void)
{
    if (!sy_span_is_on() || mine.recording != atomic_load(&recording) || mine.depth == 0) {
        return;
    }
    mine.depth--;
    pthread_mutex_lock(&recorder.lock);
    if (mine.depth >= DEPTH || mine.thread < 0 || recorder.n == recorder.n_max) {
        recorder.n_lost++;
    } else {
        sy_span *ended = &recorder.item[recorder.n++];
        *ended = mine.open[mine.depth];
        ended->ended_s = sy_clock_s();
    }
    pthread_mutex_unlock(&recorder.lock);
}

sy_status sy_span_start(int64_t n_max)
{
    sy_status st = SY_OK;
    sy_span_discard();
    SY_TRY(sy_alloc(n_max, sizeof *recorder.item, (void **)&recorder.item));
    recorder.n_max = n_max;
    atomic_fetch_add(&recording, 1);
    enroll();
    atomic_store(&is_on, true);
cleanup:
    return st;
}

void sy_span_stop(void)
{
    atomic_store(&is_on, false);
}

sy_spans sy_span_recorded(void)
{
    sy_spans out = {0};
    pthread_mutex_lock(&recorder.lock);
    out.item = recorder.item;
    out.n = recorder.n;
    out.n_lost = recorder.n_lost;
    out.n_threads = recorder.n_threads;
    for (int32_t i = 0; i < recorder.n_threads; i++) {
        snprintf(out.thread[i], SY_SPAN_NAME, "%s", recorder.thread[i]);
    }
    pthread_mutex_unlock(&recorder.lock);
    return out;
}

void sy_span_discard(void)
{
    sy_span_stop();
    pthread_mutex_lock(&recorder.lock);
    sy_free(&recorder.item);
    recorder.n = recorder.n_max = recorder.n_lost = recorder.n_threads = 0;
    pthread_mutex_unlock(&recorder.lock);
}

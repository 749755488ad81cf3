/* An observer: keeps what it hears of every rank, judges it at every tick, names stragglers, and
   ends the job. */
#include <stdio.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/thread.h"
#include "parallel/watch_impl.h"

/* Seconds. */
#define UNHEARD_S 10.0   /* from the start: then the network is to blame */
#define OTHERS_END_S 1.5 /* MPI's abort has ended everybody by then, or does not */
#define HELD_S 2.0       /* that a straggler stands out before it is named */
#define RECOVERED 1.2

enum { STACKS = 8, MESSAGE_BYTES = 7168 };

bool sy__watch_observes(const sy_watch *w)
{
    return w->table.seen != NULL;
}

void sy__watch_hear(sy_watch *w, const sy__watch_message *m, sy__watch_address from)
{
    const int32_t r = m->from;
    if (!sy__watch_observes(w) || r < 0 || r >= w->table.n) {
        return;
    }
    sy_watch_seen *s = &w->table.seen[r];
    s->heard = true;
    s->gone = s->gone || m->kind == SY__WATCH_BYE;
    s->beat = m->beat;
    w->heard_s[r] = w->awake_s;
    w->from[r] = from;
    if (r != w->world->rank) {
        sy__watch_message ack = {.kind = SY__WATCH_ACK, .from = w->world->rank};
        sy__watch_send(&w->wire, &ack, from);
    }
}

/* ---- the end of the job ---- */

static bool answers(const sy_watch *w, int32_t r)
{
    const sy_watch_seen *s = &w->table.seen[r];
    return s->heard && !s->gone && s->silent_s < w->table.timeout_s;
}

static void show(sy_watch *w, int32_t r)
{
    sy__watch_message m = {.kind = SY__WATCH_SHOW, .from = w->world->rank};
    if (r == w->world->rank) {
        sy__watch_stack_show(r);
    } else {
        sy__watch_send(&w->wire, &m, w->from[r]);
    }
}

/* A rank that does not answer is looked at by one that does, on its host, if there is one. */
static void look(sy_watch *w, int32_t r)
{
    const sy_watch_beat *b = &w->table.seen[r].beat;
    sy__watch_message m = {.kind = SY__WATCH_LOOK,
                           .from = w->world->rank,
                           .rank = r,
                           .pid = b->pid,
                           .started = b->started};
    for (int32_t i = 0; i < w->table.n; i++) {
        const int32_t q = (w->world->rank + i) % w->table.n; /* oneself first */
        if (answers(w, q) && w->table.seen[q].beat.host_id == b->host_id) {
            if (q == w->world->rank) {
                sy__watch_handle(w, &m, (sy__watch_address){0});
            } else {
                sy__watch_send(&w->wire, &m, w->from[q]);
            }
            return;
        }
    }
    sy_warn("rank %d: nobody on its host (%s) answers", r, b->host);
}

/* Those to blame, and one of those that wait for them. */
static void gather_stacks(sy_watch *w)
{
    const sy_watch_table *t = &w->table;
    int32_t n = 0;
    bool waiter = false;
    for (int32_t r = 0; r < t->n; r++) {
        if (t->blamed[r] && t->seen[r].heard && n++ < STACKS) {
            if (answers(w, r)) {
                show(w, r);
            } else {
                look(w, r);
            }
        } else if (!waiter && answers(w, r) && t->seen[r].beat.waits) {
            waiter = true;
            show(w, r);
        }
    }
    sy_clock_sleep_s(SY__WATCH_STACKS_S);
}

/* Only MPI's abort, which ends a whole job, may take long; end_with_others is the other half. */
static void *kill_the_silent(void *arg)
{
    const sy_watch *w = arg;
    sy_clock_sleep_s(OTHERS_END_S);
    if (w->look_pid > 0) {
        sy__watch_kill(w->look_pid, w->look_started);
    }
    return NULL;
}

static void end_the_job(sy_watch *w, sy_watch_verdict verdict)
{
    const int32_t status = verdict == SY_WATCH_DESYNC ? 1 : SY_EXIT_HUNG;
    sy__watch_message m = {.kind = SY__WATCH_END, .from = w->world->rank, .status = status};
    static _Thread_local char text[MESSAGE_BYTES];
    pthread_t thread;
    sy_watch_describe(&w->table, verdict, text, sizeof text);
    sy_log(SY_LOG_ERROR, "%s", text);
    gather_stacks(w);
    for (int32_t r = 0; r < w->table.n; r++) {
        if (r != w->world->rank && w->table.seen[r].heard && !w->table.seen[r].gone) {
            sy__watch_send(&w->wire, &m, w->from[r]);
        }
    }
    (void)sy_thread_start("sy-kill", kill_the_silent, w, &thread);
    sy__comm_end_job(w->world, status);
}

/* ---- observing ---- */

static void name_straggler(sy_watch *w)
{
    const sy_watch_table *t = &w->table;
    int32_t slowest = -1;
    double ratio = 1;
    const int32_t s = sy_watch_straggler(t, &slowest, &ratio);
    atomic_store(&w->slowest, slowest);
    atomic_store(&w->slowest_ppm, (int64_t)(1e6 * ratio));
    if (s != w->candidate) {
        w->candidate = s;
        w->candidate_s = w->awake_s;
        w->candidate_step = s >= 0 ? t->seen[s].beat.step : 0;
    }
    if (s >= 0 && s != w->named && w->awake_s - w->candidate_s >= HELD_S &&
        t->seen[s].beat.step - w->candidate_step >= SY_PULSE_STEPS) {
        const double mine = t->seen[s].beat.median_s;
        w->named = s;
        sy_warn("rank %d (host %s) computes %.1f times as long as the median of the others in the "
                "last %d steps: %.4g s against %.4g s",
                s, t->seen[s].beat.host, ratio, SY_PULSE_STEPS, mine, mine / ratio);
    }
    if (w->named >= 0 && slowest >= 0 && ratio < RECOVERED) {
        sy_info("rank %d computes as fast as the others again", w->named);
        w->named = -1;
    }
}

static void warn_unheard(sy_watch *w)
{
    for (int32_t r = 0; r < w->table.n && !w->warned_unheard; r++) {
        if (!w->table.seen[r].heard && w->awake_s > UNHEARD_S) {
            w->warned_unheard = true;
            sy_warn("rank %d cannot reach the watchdog of rank %d by UDP: a hang will not be found;"
                    " let the hosts of this job exchange UDP, or set parallel.timeout_s to 0",
                    r, w->world->rank);
        }
    }
}

/* The second observer acts when the first does not answer, or has left. */
static bool may_act(const sy_watch *w)
{
    const sy_watch_seen *first = &w->table.seen[w->observer[0].rank];
    return w->world->rank == w->observer[0].rank || first->gone ||
           (first->heard && first->silent_s >= w->table.timeout_s);
}

void sy__watch_observe(sy_watch *w)
{
    sy__watch_message m = {.kind = SY__WATCH_BEAT, .from = w->world->rank, .beat = w->own};
    sy__watch_hear(w, &m, (sy__watch_address){0});
    for (int32_t r = 0; r < w->table.n; r++) {
        w->table.seen[r].silent_s = w->awake_s - w->heard_s[r];
    }
    const sy_watch_verdict verdict = sy_watch_judge(&w->table);
    const bool again = w->out_of_step; /* by then every rank has told where it stands */
    w->out_of_step = verdict == SY_WATCH_DESYNC;
    if (verdict != SY_WATCH_FINE && (verdict != SY_WATCH_DESYNC || again) && may_act(w)) {
        end_the_job(w, verdict);
    }
    if (w->world->rank == w->observer[0].rank) {
        name_straggler(w);
        warn_unheard(w);
    }
}

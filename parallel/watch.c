/* The watchdog's thread: tell the observers, listen, and, as an observer, judge and end the job. */
#include "parallel/watch_impl.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/log.h"
#include "core/thread.h"
#include "parallel/agree.h"

/* Seconds. A gap longer than GAP between two looks at the clock is time in which this process did
   not run: it says nothing about others. */
#define TICK_S 0.25
#define GAP_S 1.0
#define OTHERS_END_S 1.5 /* after the one that ends the job through the launcher */

enum { RANKS_PER_S = 2000, GOODBYES = 3 };

/* ---- start: all ranks meet ---- */

typedef struct introduction {
    uint64_t host_id;
    int64_t has_wire;
} introduction;

/* Host and network together: what names a place from which a process can be seen and reached. */
static uint64_t find_host(char *name, size_t bytes)
{
    struct stat net = {0};
    uint64_t id = 14695981039346656037U;
    if (gethostname(name, bytes) != 0) {
        snprintf(name, bytes, "?");
    }
    name[bytes - 1] = '\0';
    for (const char *c = name; *c; c++) {
        id = (id ^ (unsigned char)*c) * 1099511628211U;
    }
    return stat("/proc/self/ns/net", &net) == 0 ? (id ^ net.st_ino) * 1099511628211U : id;
}

/* Rank 0, and the first rank of another host, or else rank 1. */
static int32_t second_observer(const introduction *all, int32_t n)
{
    for (int32_t r = 1; r < n; r++) {
        if (all[r].host_id != all[0].host_id) {
            return r;
        }
    }
    return 1;
}

static sy_status make_table(sy_watch *w)
{
    sy_status st = SY_OK;
    const int32_t n = w->world->size;
    w->table = (sy_watch_table){.n = n, .timeout_s = atomic_load(&w->timeout_s)};
    if (w->world->rank == w->observer[0].rank || w->world->rank == w->observer[1].rank) {
        SY_TRY(sy_alloc(n, sizeof *w->table.seen, (void **)&w->table.seen));
        SY_TRY(sy_alloc((int64_t)n * SY_WATCH_CALLS, sizeof *w->table.order,
                        (void **)&w->table.order));
        SY_TRY(sy_alloc(n, sizeof *w->table.figure, (void **)&w->table.figure));
        SY_TRY(sy_alloc(n, sizeof *w->table.blamed, (void **)&w->table.blamed));
        SY_TRY(sy_alloc(n, sizeof *w->heard_s, (void **)&w->heard_s));
        SY_TRY(sy_alloc(n, sizeof *w->from, (void **)&w->from));
    }
cleanup:
    return st;
}

/* *all_have: a wire. */
static sy_status meet(sy_watch *w, bool has_wire, bool *all_have)
{
    sy_status st = SY_OK;
    sy_comm *world = w->world;
    introduction me = {find_host(w->own.host, sizeof w->own.host), has_wire}, *all = NULL;
    SY_TRY(sy_agree(world, sy_alloc(world->size, sizeof *all, (void **)&all)));
    SY_TRY(sy_host_all_gather(world, &me, all, sizeof me, "watchdog hosts"));
    w->own.host_id = me.host_id;
    *all_have = true;
    for (int32_t r = 0; r < world->size; r++) {
        *all_have = *all_have && all[r].has_wire;
    }
    w->observer[1].rank = second_observer(all, world->size);
    SY_TRY(sy_agree(world, make_table(w)));
    if (world->rank == 0 && getrandom(w->wire.key, sizeof w->wire.key, 0) < 0) {
        snprintf((char *)w->wire.key, sizeof w->wire.key, "%ld", (long)(1e9 * sy_clock_s()));
    }
    SY_TRY(sy_host_broadcast(world, w->wire.key, sizeof w->wire.key, 0, "watchdog key"));
    for (int32_t o = 0; o < SY__WATCH_OBSERVERS; o++) {
        const int32_t rank = w->observer[o].rank;
        if (world->rank == rank && has_wire) {
            sy__watch_addresses(&w->wire, &w->observer[o]);
        }
        SY_TRY(sy_host_broadcast(world, &w->observer[o], sizeof w->observer[o], rank,
                                 "watchdog addresses"));
        w->acked_s[o] = -1;
    }
cleanup:
    sy_free(&all);
    return st;
}

/* ---- telling ---- */

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* What this rank is doing; how long, by comparison with the last time, dt seconds ago. */
static void observe_self(sy_watch *w, double dt)
{
    sy_watch_beat *b = &w->own;
    sy_pulse p = sy_pulse_read();
    sy_comm_call call[SY_WATCH_CALLS];
    const bool waits = sy__recorder_last(call, SY_WATCH_CALLS);
    const bool same_call =
        waits && b->waits && call[0].lane == b->call[0].lane && call[0].place == b->call[0].place;
    b->wait_s = same_call ? b->wait_s + dt : 0;
    b->quiet_s = p.beats == w->n_beats ? b->quiet_s + dt : 0;
    w->n_beats = p.beats;
    b->waits = waits;
    memcpy(b->call, call, sizeof b->call);
    b->step = p.step;
    snprintf(b->phase, sizeof b->phase, "%s", p.phase ? p.phase : "start");
    qsort(p.compute_s, SY_PULSE_STEPS, sizeof *p.compute_s, compare_doubles);
    b->n_steps = p.n_steps < SY_PULSE_STEPS ? (int32_t)p.n_steps : SY_PULSE_STEPS;
    b->fast_s = p.compute_s[SY_PULSE_STEPS / 4];
    b->median_s = p.compute_s[SY_PULSE_STEPS / 2];
    b->slow_s = p.compute_s[SY_PULSE_STEPS - SY_PULSE_STEPS / 4];
}

/* Along all ways until one is known to lead there. */
static void send_to_observer(const sy_watch *w, const sy__watch_observer *o, sy__watch_message *m)
{
    for (int32_t i = 0; i < o->n && o->found.port == 0; i++) {
        sy__watch_send(&w->wire, m, o->address[i]);
    }
    if (o->found.port != 0) {
        sy__watch_send(&w->wire, m, o->found);
    }
}

static void tell(sy_watch *w, sy__watch_kind kind)
{
    sy__watch_message m = {.kind = kind, .from = w->world->rank, .beat = w->own};
    for (int32_t o = 0; o < SY__WATCH_OBSERVERS; o++) {
        if (w->observer[o].rank != w->world->rank) {
            if (w->awake_s - w->acked_s[o] > w->table.timeout_s / 2) {
                w->observer[o].found.port = 0; /* another way may lead there */
            }
            send_to_observer(w, &w->observer[o], &m);
        }
    }
}

/* ---- listening ---- */

static void hear_observer(sy_watch *w, const sy__watch_message *m, sy__watch_address from)
{
    for (int32_t o = 0; o < SY__WATCH_OBSERVERS; o++) {
        if (w->observer[o].rank == m->from) {
            w->acked_s[o] = w->awake_s;
            w->left[o] = w->left[o] || m->kind == SY__WATCH_BYE;
            w->observer[o].found = from;
        }
    }
}

/* Another rank ends the job; should that fail, so do we, and take along what does not listen. */
static void end_with_others(sy_watch *w, int32_t status)
{
    sy_clock_sleep_s(OTHERS_END_S);
    if (w->look_pid > 0) {
        sy__watch_kill(w->look_pid, w->look_started);
    }
    sy__comm_end_job(w->world, status);
}

void sy__watch_handle(sy_watch *w, const sy__watch_message *m, sy__watch_address from)
{
    switch (m->kind) {
    case SY__WATCH_BEAT:
        sy__watch_hear(w, m, from);
        break;
    case SY__WATCH_BYE:
        sy__watch_hear(w, m, from);
        hear_observer(w, m, from);
        break;
    case SY__WATCH_ACK:
        hear_observer(w, m, from);
        break;
    case SY__WATCH_SHOW:
        sy__watch_stack_show(w->world->rank);
        break;
    case SY__WATCH_LOOK:
        w->look_pid = m->pid;
        w->look_started = m->started;
        sy__watch_look(m->rank, m->pid, m->started);
        break;
    case SY__WATCH_END:
        end_with_others(w, m->status);
        break;
    default:
        break;
    }
}

/* Both observers are silent: they end the job no more. A tick more than they get for each other. */
static void check_observers(sy_watch *w)
{
    int32_t n_silent = 0;
    for (int32_t o = 0; o < SY__WATCH_OBSERVERS; o++) {
        n_silent +=
            !w->left[o] && w->acked_s[o] >= 0 &&
            w->awake_s - w->acked_s[o] > w->table.timeout_s + 2 * w->tick_s + SY__WATCH_STACKS_S;
    }
    if (n_silent == SY__WATCH_OBSERVERS) {
        sy_log(SY_LOG_ERROR,
               "ranks %d and %d have stopped answering for %g s (parallel.timeout_s), and so no "
               "watchdog can tell why; the job ends",
               w->observer[0].rank, w->observer[1].rank, w->table.timeout_s);
        sy__watch_stack_show(w->world->rank);
        sy__comm_end_job(w->world, SY_EXIT_HUNG);
    }
}

/* The network of devices reports errors to nobody but who asks: the main thread may wait for ever.
 */
static void check_devices(const sy_watch *w)
{
    const sy_status st = sy__comm_device_check();
    if (st != SY_OK) {
        sy_log(SY_LOG_ERROR, "%s; the job ends", sy_error_message());
        sy__comm_end_job(w->world, sy_status_exit_code(st));
    }
}

/* ---- the thread ---- */

static void look_at_the_clock(sy_watch *w)
{
    const double now = sy_clock_s(), dt = now - w->now_s;
    const double most = w->table.timeout_s < 4 * GAP_S ? w->table.timeout_s / 4 : GAP_S;
    w->awake_s += dt < most ? dt : most;
    w->now_s = now;
}

/* What has come so far is heard before anybody is judged. */
static void listen_until(sy_watch *w, double until_s)
{
    sy__watch_message m;
    sy__watch_address from;
    int32_t n = 0;
    do {
        while (n++ < 8 * w->world->size + 64 && sy__watch_receive(&w->wire, until_s, &m, &from)) {
            look_at_the_clock(w);
            sy__watch_handle(w, &m, from);
        }
        look_at_the_clock(w);
    } while (w->now_s < until_s && n <= 8 * w->world->size + 64 && !atomic_load(&w->leaving));
}

static void *run_watch(void *arg)
{
    sy_watch *w = arg;
    double last_s = 0;
    while (!atomic_load(&w->leaving)) {
        w->table.timeout_s = atomic_load(&w->timeout_s);
        observe_self(w, w->awake_s - last_s);
        last_s = w->awake_s;
        check_devices(w);
        tell(w, SY__WATCH_BEAT);
        if (sy__watch_observes(w)) {
            sy__watch_observe(w);
        } else {
            check_observers(w);
        }
        listen_until(w, w->now_s + w->tick_s);
    }
    return NULL;
}

static void watch_free(sy_watch **watch)
{
    sy_watch *w = *watch;
    if (w != NULL) {
        sy__watch_wire_close(&w->wire);
        sy_free(&w->from);
        sy_free(&w->heard_s);
        sy_free(&w->table.blamed);
        sy_free(&w->table.figure);
        sy_free(&w->table.order);
        sy_free(&w->table.seen);
        sy_free(watch);
    }
}

sy_status sy_watch_open(sy_comm *world)
{
    sy_status st = SY_OK;
    sy_watch *w = NULL;
    bool all_have = false;
    world->timeout_s = SY_WATCH_TIMEOUT_S;
    if (world->size == 1) {
        return SY_OK;
    }
    SY_TRY(sy_agree(world, sy_alloc(1, sizeof *w, (void **)&w)));
    w->world = world;
    atomic_store(&w->timeout_s, world->timeout_s);
    w->wire.fd = w->wire.wake = w->candidate = w->named = w->slowest = -1;
    w->slowest_ppm = 1000000;
    w->own.pid = (int32_t)getpid();
    w->own.started = sy__watch_started(w->own.pid);
    w->tick_s = world->size > TICK_S * RANKS_PER_S ? (double)world->size / RANKS_PER_S : TICK_S;
    const bool has_wire = sy__watch_wire_open(&w->wire) == SY_OK;
    if (!has_wire) {
        sy_warn("%s", sy_error_message());
        sy_error_clear();
    }
    SY_TRY(meet(w, has_wire, &all_have));
    if (!all_have) {
        sy_info("the watchdog cannot be had on every rank: a hang will not be found");
        goto cleanup;
    }
    SY_TRY(sy_agree(world, sy__watch_stack_setup()));
    w->now_s = sy_clock_s();
    SY_TRY(sy_agree(world, sy_thread_start("sy-watch", run_watch, w, &w->thread)));
    sy__recorder_be_patient(4 * w->tick_s + SY__WATCH_STACKS_S + OTHERS_END_S);
    world->watch = w;
    w = NULL;
cleanup:
    watch_free(&w);
    return st;
}

void sy_watch_set_timeout(sy_comm *world, double timeout_s)
{
    world->timeout_s = timeout_s > 0 ? timeout_s : 0;
    if (timeout_s <= 0) {
        sy_watch_close(world);
    } else if (world->watch != NULL) {
        atomic_store(&world->watch->timeout_s, timeout_s);
    }
}

void sy_watch_close(sy_comm *world)
{
    sy_watch *w = world->watch;
    if (w != NULL) {
        atomic_store(&w->leaving, true);
        sy__watch_wake(&w->wire);
        pthread_join(w->thread, NULL);
        for (int i = 0; i < GOODBYES; i++) {
            tell(w, SY__WATCH_BYE);
        }
        sy__watch_message m = {.kind = SY__WATCH_BYE, .from = w->world->rank, .beat = w->own};
        for (int32_t r = 0; r < w->table.n && sy__watch_observes(w); r++) {
            if (w->from[r].port != 0) {
                sy__watch_send(&w->wire, &m, w->from[r]);
            }
        }
        sy__recorder_be_patient(0);
        watch_free(&world->watch);
    }
}

double sy_watch_slowest(const sy_comm *world, int32_t *rank)
{
    const sy_watch *w = world->watch;
    *rank = w != NULL ? atomic_load(&w->slowest) : -1;
    return w != NULL ? 1e-6 * (double)atomic_load(&w->slowest_ppm) : 1;
}

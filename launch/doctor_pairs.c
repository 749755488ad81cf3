/* doctor: the ranks of the job among each other: who is where, how far clocks are apart, and how
   fast each pair exchanges. A slow pair is one far beyond the fast quarter of its kind (same host,
   or two), so that one bad host does not become the measure. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/thread.h"
#include "launch/doctor_impl.h"
#include "parallel/agree.h"
#include "parallel/clock_offset.h"

enum { LARGEST = 1 << 20, SMALLEST = 1 << 16, N_SMALL = 20, N_LARGE = 6, N_NAMED = 5, N_AGAIN = 3 };
#define PAUSE_S 0.2
enum { SAME_HOST, TWO_HOSTS, N_KINDS };

void sy__doctor_hosts(sy__doctor *d)
{
    int32_t least = INT32_MAX, most = 0;
    if (d->env->world->rank != 0) {
        return;
    }
    for (int32_t h = 0; h < d->n_hosts; h++) {
        least = d->host[h].n_ranks < least ? d->host[h].n_ranks : least;
        most = d->host[h].n_ranks > most ? d->host[h].n_ranks : most;
    }
    if (least == most) {
        sy__doctor_say(d, "hosts", SY__FINE, NULL, "%d rank%s on %d host%s", d->env->world->size,
                       d->env->world->size == 1 ? "" : "s", d->n_hosts, d->n_hosts == 1 ? "" : "s");
    } else {
        sy__doctor_say(d, "hosts", SY__NOTE,
                       "give every host as many slots (hosts that differ wait for each other)",
                       "%d ranks on %d hosts, %d to %d on each", d->env->world->size, d->n_hosts,
                       least, most);
    }
    sy__doctor_of_job(d);
}

/* n bytes each way between this rank and another; -1: with nobody, as all ranks make the same
 * calls.
 */
static sy_status exchange(sy_comm *world, int32_t other, const void *send, void *recv, int64_t n)
{
    return sy_send_recv(world, &(sy_comm_args){.send = send,
                                               .recv = recv,
                                               .n = n,
                                               .row_bytes = 1,
                                               .root = other,
                                               .source = other,
                                               .what = "doctor",
                                               .layer = -1});
}

/* ---- clocks ---- */

static double wall_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Ranks' monotonic clocks are laid upon each other; what is left is how far those of the calendar
   are apart. */
static sy_status compare_clocks(const sy__doctor *d, double *ahead_s)
{
    sy_status st = SY_OK;
    double offset = 0;
    SY_TRY(sy_clock_offset(d->env->world, &offset));
    const double mine = wall_s() - sy_clock_s() - offset;
    SY_TRY(sy_host_all_gather(d->env->world, &mine, ahead_s, sizeof mine, "doctor clocks"));
cleanup:
    return st;
}

/* Ranks of one host have one clock; how far another rank's is ahead of rank 0's. */
static void tell_clocks(sy__doctor *d, const double *clock_s)
{
    int32_t who = 0;
    for (int32_t r = 1; r < d->env->world->size; r++) {
        if (fabs(clock_s[r] - clock_s[0]) > fabs(clock_s[who] - clock_s[0])) {
            who = r;
        }
    }
    const double worst = clock_s[who] - clock_s[0];
    if (fabs(worst) > 1) {
        sy__doctor_say(d, "clocks", SY__NOTE,
                       "let chrony or ntpd set the clocks; times in logs and files of hosts do not "
                       "agree, training does not depend on them",
                       "the clock of %s is %.1f s %s that of %s", d->host[d->host_of[who]].name,
                       fabs(worst), worst > 0 ? "ahead of" : "behind", d->host[0].name);
    } else {
        sy__doctor_say(d, "clocks", SY__FINE, NULL, "clocks of hosts are at most %.0f ms apart",
                       ceil(1e3 * fabs(worst)));
    }
    sy__doctor_of_job(d);
}

void sy__doctor_clocks(sy__doctor *d)
{
    sy_status st = SY_OK;
    double *clock_s = NULL;
    if (d->n_hosts == 1) {
        return;
    }
    SY_TRY(
        sy_agree(d->env->world, sy_alloc(d->env->world->size, sizeof *clock_s, (void **)&clock_s)));
    SY_TRY(compare_clocks(d, clock_s));
    if (d->env->world->rank == 0) {
        tell_clocks(d, clock_s);
    }
cleanup:
    d->st = d->st == SY_OK ? st : d->st;
    sy_free(&clock_s);
}

/* ---- pairs ---- */

/* What one rank measured with each other. */
typedef struct links {
    sy_comm *world;
    double *latency, *rate;   /* [size]; 0: itself, or not yet */
    double usual[N_KINDS][2]; /* latency and rate of good links, the same on all ranks */
    char *send, *recv;        /* [LARGEST] */
} links;

/* Round r of a tournament of n (even) in n-1 rounds: who plays `me`. */
static int32_t partner(int32_t me, int32_t r, int32_t n)
{
    if (me == n - 1) {
        return (int32_t)((int64_t)r * (n / 2) % (n - 1));
    }
    const int32_t other = (r - me + 2 * (n - 1)) % (n - 1);
    return other == me ? n - 1 : other;
}

/* There and back, in half. Only the lower rank's clock tells: the other's question is half an
   answer. */
static sy_status measure_latency(sy_comm *world, int32_t other, double *best)
{
    sy_status st = SY_OK;
    const bool asks = other >= 0 && world->rank < other;
    char byte = 0, got = 0;
    sy_comm_args there = {.send = &byte,
                          .recv = &got,
                          .n = 1,
                          .row_bytes = 1,
                          .root = asks ? other : -1,
                          .source = asks ? -1 : other,
                          .what = "doctor",
                          .layer = -1};
    sy_comm_args back = there;
    back.root = asks ? -1 : other;
    back.source = asks ? other : -1;
    *best = INFINITY;
    for (int32_t i = 0; i < N_SMALL; i++) {
        const double begun = sy_clock_s();
        SY_TRY(sy_send_recv(world, &there));
        SY_TRY(sy_send_recv(world, &back));
        *best = asks ? fmin(*best, (sy_clock_s() - begun) / 2) : 0;
    }
cleanup:
    return st;
}

/* The quickest of several exchanges of n bytes, each begun by both at once; what the slower of the
   two saw, because a sender may be done before anything has arrived. */
static sy_status measure_exchange(const links *l, int32_t other, int64_t n, int32_t times,
                                  double *seconds)
{
    sy_status st = SY_OK;
    double mine = INFINITY, theirs = 0;
    for (int32_t i = 0; i < times; i++) {
        SY_TRY(exchange(l->world, other, l->send, l->recv, 1));
        const double begun = sy_clock_s();
        SY_TRY(exchange(l->world, other, l->send, l->recv, n));
        mine = fmin(mine, sy_clock_s() - begun);
    }
    SY_TRY(exchange(l->world, other, &mine, &theirs, sizeof mine));
    *seconds = fmax(mine, theirs);
cleanup:
    return st;
}

/* The best of all times; a slow link is not made to carry more, which both ends know alike. */
static sy_status measure_pair(links *l, int32_t other)
{
    sy_status st = SY_OK;
    double mine = 0, theirs = 0, seconds = 0;
    SY_TRY(measure_latency(l->world, other, &mine));
    SY_TRY(exchange(l->world, other, &mine, &theirs, sizeof mine));
    SY_TRY(measure_exchange(l, other, SMALLEST, N_LARGE, &seconds));
    const bool fast = seconds < 5e-3;
    double large_s = 0;
    SY_TRY(measure_exchange(l, fast ? other : -1, LARGEST, N_LARGE, &large_s));
    if (other >= 0) {
        const double latency = fmax(mine, theirs);
        const double rate = fast ? LARGEST / large_s : SMALLEST / seconds;
        l->latency[other] = l->latency[other] > 0 ? fmin(l->latency[other], latency) : latency;
        l->rate[other] = fmax(l->rate[other], rate);
    }
cleanup:
    return st;
}

static bool is_slow(const sy__doctor *d, const links *l, int32_t other, double *times)
{
    const double *usual =
        l->usual[d->host_of[other] != d->host_of[l->world->rank] ? TWO_HOSTS : SAME_HOST];
    const double late = l->latency[other] > usual[0] + 200e-6 ? l->latency[other] / usual[0] : 0;
    const double low = l->rate[other] > 0 ? usual[1] / l->rate[other] : 0;
    *times = fmax(late, low);
    return late > 5 || low > 4;
}

/* All pairs, or those that looked slow, which both of a pair know alike. */
static sy_status measure_all(const sy__doctor *d, links *l, bool slow_ones)
{
    sy_status st = SY_OK;
    const int32_t size = l->world->size, n = size + size % 2;
    double times;
    for (int32_t r = 0; r < n - 1; r++) {
        int32_t other = partner(l->world->rank, r, n);
        if (other == size || (slow_ones && !is_slow(d, l, other, &times))) {
            other = -1;
        }
        SY_TRY(measure_pair(l, other));
        SY_TRY(sy_host_barrier(l->world, "doctor round"));
    }
cleanup:
    return st;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The fast quarter's end of what this rank measured on links of one kind, and how many these are.
 */
static int32_t quarter(const sy__doctor *d, const double *value, int32_t kind, bool high,
                       double *scratch, double *out)
{
    const int32_t me = d->env->world->rank;
    int32_t n = 0;
    for (int32_t r = 0; r < d->env->world->size; r++) {
        if (r != me && (d->host_of[r] != d->host_of[me]) == (kind == TWO_HOSTS)) {
            scratch[n++] = value[r];
        }
    }
    qsort(scratch, (size_t)n, sizeof *scratch, by_value);
    *out = n == 0 ? 0 : scratch[high ? n - 1 - n / 4 : n / 4];
    return n;
}

/* The same over all ranks. */
static sy_status reference(const sy__doctor *d, const double *value, int32_t kind, bool high,
                           double *out)
{
    sy_status st = SY_OK;
    const int32_t size = d->env->world->size;
    double *all = NULL, mine = 0;
    int32_t n = 0;
    SY_TRY(sy_agree(d->env->world, sy_alloc(size, sizeof *all, (void **)&all)));
    quarter(d, value, kind, high, all, &mine);
    SY_TRY(sy_host_all_gather(d->env->world, &mine, all, sizeof mine, "doctor links"));
    for (int32_t r = 0; r < size; r++) {
        if (all[r] > 0) {
            all[n++] = all[r];
        }
    }
    qsort(all, (size_t)n, sizeof *all, by_value);
    *out = n == 0 ? 0 : all[high ? n - 1 - n / 4 : n / 4];
cleanup:
    sy_free(&all);
    return st;
}

/* What a rank has to complain of. */
typedef struct complaint {
    int32_t n_slow, n_others, worst; /* worst: rank at the other end */
    double times, latency, rate;     /* how many times slower than the reference, and figures */
} complaint;

static void note_slow(complaint *c, int32_t other, double times, double latency, double rate)
{
    c->n_slow++;
    if (times > c->times) {
        c->worst = other;
        c->times = times;
        c->latency = latency;
        c->rate = rate;
    }
}

static complaint judge(const sy__doctor *d, const links *l)
{
    complaint c = {0};
    const int32_t me = l->world->rank;
    for (int32_t r = 0; r < l->world->size; r++) {
        double times = 0;
        c.n_others += r != me;
        if (r != me && is_slow(d, l, r, &times)) {
            note_slow(&c, r, times, l->latency[r], l->rate[r]);
        }
    }
    return c;
}

/* A machine that is busy for a moment makes any pair look slow. */
static sy_status measure_again(const sy__doctor *d, links *l)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < N_AGAIN; i++) {
        int32_t n_slow = judge(d, l).n_slow;
        SY_TRY(sy_host_all_reduce(l->world, &n_slow, 1, SY_I32, SY_SUM, "doctor slow links"));
        if (n_slow == 0) {
            break;
        }
        sy_clock_sleep_s(PAUSE_S);
        SY_TRY(measure_all(d, l, true));
    }
cleanup:
    return st;
}

static const char mend_slow[] =
    "look at its cable, switch port and driver, and at what else runs there; or leave the host out";

/* A rank most of whose links are slow is named itself; else the pair is. */
static void name_slow(sy__doctor *d, const complaint *all)
{
    const int32_t size = d->env->world->size;
    int32_t n = 0;
    for (int32_t r = 0; r < size && n < N_NAMED; r++) {
        const complaint *c = &all[r];
        const bool culprit = 2 * c->n_slow > c->n_others && size > 2;
        const bool other = c->n_slow > 0 && 2 * all[c->worst].n_slow > all[c->worst].n_others;
        if (c->n_slow == 0 || (!culprit && (other || (c->worst < r && all[c->worst].worst == r)))) {
            continue;
        }
        n++;
        if (culprit) {
            sy__doctor_say(d, "pairs", SY__NOTE, mend_slow,
                           "rank %d on %s is slow with %d of %d others: with rank %d %.0f us and "
                           "%.3f GB/s, %.0f times worse than usual",
                           r, d->host[d->host_of[r]].name, c->n_slow, c->n_others, c->worst,
                           1e6 * c->latency, c->rate / 1e9, c->times);
        } else {
            sy__doctor_say(d, "pairs", SY__NOTE, mend_slow,
                           "ranks %d on %s and %d on %s exchange slowly: %.0f us and %.3f GB/s, "
                           "%.0f times worse than usual",
                           r, d->host[d->host_of[r]].name, c->worst,
                           d->host[d->host_of[c->worst]].name, 1e6 * c->latency, c->rate / 1e9,
                           c->times);
        }
        sy__doctor_of_job(d);
    }
}

static void tell(sy__doctor *d, const links *l, const complaint *all)
{
    static const char *const where[] = {"on one host", "between hosts"};
    for (int32_t k = 0; k < N_KINDS; k++) {
        if (l->usual[k][1] > 0) {
            sy__doctor_say(d, "pairs", SY__FINE, NULL,
                           "%s: %.1f us and %.2f GB/s each way, all pairs at once", where[k],
                           1e6 * l->usual[k][0], l->usual[k][1] / 1e9);
            sy__doctor_of_job(d);
        }
    }
    if (d->env->local_size > sy_thread_cores() * (d->n_hosts > 1 ? d->env->local_size : 1)) {
        return; /* ranks that wait for a core look like slow links */
    }
    name_slow(d, all);
}

static sy_status look_at_pairs(sy__doctor *d)
{
    sy_status st = SY_OK;
    links l = {.world = d->env->world};
    const int32_t size = l.world->size;
    complaint mine, *all = NULL;
    st = sy_alloc(size, sizeof *l.latency, (void **)&l.latency);
    st = st == SY_OK ? sy_alloc(size, sizeof *l.rate, (void **)&l.rate) : st;
    st = st == SY_OK ? sy_alloc(LARGEST, 1, (void **)&l.send) : st;
    st = st == SY_OK ? sy_alloc(LARGEST, 1, (void **)&l.recv) : st;
    st = st == SY_OK ? sy_alloc(size, sizeof *all, (void **)&all) : st;
    SY_TRY(sy_agree(l.world, st));
    SY_TRY(measure_all(d, &l, false));
    for (int32_t k = 0; k < N_KINDS; k++) {
        SY_TRY(reference(d, l.latency, k, false, &l.usual[k][0]));
        SY_TRY(reference(d, l.rate, k, true, &l.usual[k][1]));
    }
    SY_TRY(measure_again(d, &l));
    mine = judge(d, &l);
    SY_TRY(sy_host_all_gather(l.world, &mine, all, sizeof mine, "doctor links"));
    if (l.world->rank == 0) {
        tell(d, &l, all);
    }
cleanup:
    sy_free(&all);
    sy_free(&l.recv);
    sy_free(&l.send);
    sy_free(&l.rate);
    sy_free(&l.latency);
    return st;
}

void sy__doctor_pairs(sy__doctor *d)
{
    if (d->env->world->size > 1 && d->st == SY_OK) {
        d->st = look_at_pairs(d);
    }
}

#include "parallel/watch_judge.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A straggler takes STRAGGLER times as long as the median of the others; its fast steps are slower
   than their slow ones by a margin; and steps of a few milliseconds say nothing. */
#define STRAGGLER 1.5
#define STRAGGLER_MARGIN 1.2
#define STRAGGLER_LEAST_S 0.01

static bool is_silent(const sy_watch_table *t, int32_t r)
{
    const sy_watch_seen *s = &t->seen[r];
    return s->heard && !s->gone && s->silent_s >= t->timeout_s;
}

static bool takes_part(const sy_watch_table *t, int32_t r)
{
    return t->seen[r].heard && !t->seen[r].gone && !is_silent(t, r);
}

/* ---- out of step ---- */

/* Calls are known by rank * SY_WATCH_CALLS + index. */
static const sy_comm_call *call_of(const sy_watch_seen *seen, int32_t at)
{
    return &seen[at / SY_WATCH_CALLS].beat.call[at % SY_WATCH_CALLS];
}

static int compare_in_lane(const void *a, const void *b, void *seen)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    const sy_comm_call *p = call_of(seen, x), *q = call_of(seen, y);
    if (p->lane != q->lane) {
        return p->lane < q->lane ? -1 : 1;
    }
    if (p->place != q->place) {
        return p->place < q->place ? -1 : 1;
    }
    if (p->digest != q->digest) {
        return p->digest < q->digest ? -1 : 1;
    }
    return x < y ? -1 : x > y;
}

/* Lane 0 is first among equals: the calls of others follow that of lane 0. */
static int compare_progress(const void *a, const void *b, void *seen)
{
    const sy_comm_call *p = call_of(seen, *(const int32_t *)a);
    const sy_comm_call *q = call_of(seen, *(const int32_t *)b);
    if (p->common != q->common) {
        return p->common < q->common ? -1 : 1;
    }
    return compare_in_lane(a, b, seen);
}

/* Put the calls of all ranks in order: the first of each, or all. Returns how many. */
static int32_t sort_calls(const sy_watch_table *t, int32_t n_each,
                          int (*compare)(const void *, const void *, void *))
{
    int32_t n = 0;
    for (int32_t r = 0; r < t->n; r++) {
        for (int32_t i = 0; i < n_each; i++) {
            t->order[n] = r * SY_WATCH_CALLS + i;
            n += call_of(t->seen, t->order[n])->place > 0;
        }
    }
    qsort_r(t->order, (size_t)n, sizeof *t->order, compare, t->seen);
    return n;
}

static bool at_one_place(const sy_comm_call *p, const sy_comm_call *q)
{
    return p->lane == q->lane && p->place == q->place;
}

/* Calls at the same place, to which their ranks came by the same calls: t->order[first .. end-1].
 */
static int32_t end_of_group(const sy_watch_table *t, int32_t first, int32_t n)
{
    const sy_comm_call *p = call_of(t->seen, t->order[first]);
    int32_t end = first + 1;
    while (end < n && at_one_place(p, call_of(t->seen, t->order[end])) &&
           p->digest == call_of(t->seen, t->order[end])->digest) {
        end++;
    }
    return end;
}

static void blame_group(sy_watch_table *t, int32_t first, int32_t end)
{
    for (int32_t i = first; i < end; i++) {
        t->blamed[t->order[i] / SY_WATCH_CALLS] = true;
    }
}

/* Is there anything to be sorted? Ranks stand near one another, so a table by place tells in one
   pass (two places in one slot hide each other, for a moment). */
static bool calls_differ(const sy_watch_table *t)
{
    const int32_t n = t->n * SY_WATCH_CALLS;
    for (int32_t i = 0; i < n; i++) {
        t->order[i] = -1;
    }
    for (int32_t i = 0; i < n; i++) {
        const sy_comm_call *c = call_of(t->seen, i);
        int32_t *slot = &t->order[((uint64_t)c->place + c->lane) % (uint64_t)n];
        if (c->place > 0 && *slot >= 0 && at_one_place(call_of(t->seen, *slot), c) &&
            call_of(t->seen, *slot)->digest != c->digest) {
            return true;
        }
        *slot = c->place > 0 ? i : *slot;
    }
    return false;
}

/* The earliest place counts, since all behind it differs too; the larger group is taken to be
 * right.
 */
static bool find_desync(sy_watch_table *t)
{
    if (!calls_differ(t)) {
        return false;
    }
    const int32_t n = sort_calls(t, SY_WATCH_CALLS, compare_in_lane);
    for (int32_t first = 0, end; first < n; first = end) {
        end = end_of_group(t, first, n);
        if (end < n &&
            at_one_place(call_of(t->seen, t->order[first]), call_of(t->seen, t->order[end]))) {
            const int32_t next = end_of_group(t, end, n);
            const bool first_is_usual = end - first >= next - end;
            t->usual = t->order[first_is_usual ? first : end];
            t->odd = t->order[first_is_usual ? end : first];
            blame_group(t, first_is_usual ? end : first, first_is_usual ? next : end);
            return true;
        }
    }
    return false;
}

/* ---- stuck ---- */

/* Somebody waits, and all wait or are quiet, and have done so for the whole time. Of a rank that
   was never heard nobody knows whether it works. */
static bool find_stuck(sy_watch_table *t)
{
    int32_t n_waiting = 0;
    for (int32_t r = 0; r < t->n; r++) {
        const sy_watch_beat *b = &t->seen[r].beat;
        if (!t->seen[r].heard ||
            (takes_part(t, r) && (b->waits ? b->wait_s : b->quiet_s) < t->timeout_s)) {
            return false;
        }
        n_waiting += takes_part(t, r) && b->waits;
    }
    for (int32_t r = 0; r < t->n && n_waiting > 0; r++) {
        t->blamed[r] = takes_part(t, r) && !t->seen[r].beat.waits;
    }
    return n_waiting > 0;
}

/* All wait, at different places: for those that are furthest behind. */
static void blame_the_last(sy_watch_table *t)
{
    const int32_t n = sort_calls(t, 1, compare_progress);
    const int32_t end = n > 0 ? end_of_group(t, 0, n) : 0;
    if (end < n) {
        blame_group(t, 0, end);
    }
}

static bool anybody_blamed(const sy_watch_table *t)
{
    for (int32_t r = 0; r < t->n; r++) {
        if (t->blamed[r]) {
            return true;
        }
    }
    return false;
}

sy_watch_verdict sy_watch_judge(sy_watch_table *t)
{
    memset(t->blamed, 0, (size_t)t->n * sizeof *t->blamed);
    for (int32_t r = 0; r < t->n; r++) {
        t->blamed[r] = is_silent(t, r);
    }
    if (anybody_blamed(t)) {
        return SY_WATCH_SILENT;
    }
    if (find_desync(t)) {
        return SY_WATCH_DESYNC;
    }
    if (find_stuck(t)) {
        if (!anybody_blamed(t)) {
            blame_the_last(t);
        }
        return SY_WATCH_STUCK;
    }
    return SY_WATCH_FINE;
}

/* ---- words ---- */

typedef struct text {
    char *buf;
    size_t bytes, used;
} text;

static void put(text *to, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(text *to, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(to->buf + to->used, to->bytes - to->used, format, args);
    va_end(args);
    size_t room = to->bytes - to->used - 1;
    to->used += n < 0 ? 0 : (size_t)n < room ? (size_t)n : room;
}

static void put_call(text *to, const sy_comm_call *c)
{
    char words[256];
    sy_comm_call_format(c, words, sizeof words);
    put(to, "%s", words);
}

static void put_place(text *to, const sy_watch_beat *b)
{
    if (b->waits) {
        put(to, "waiting in ");
        put_call(to, &b->call[0]);
    } else {
        put(to, "in %.*s", (int)sizeof b->phase, b->phase);
    }
    put(to, ", step %" PRId64, b->step);
    if (!b->waits && b->call[0].place > 0) {
        put(to, ", behind ");
        put_call(to, &b->call[0]);
    }
}

/* What a rank does, without how long: equal words make a group. */
static void format_state(const sy_watch_table *t, int32_t r, char *buf, size_t bytes)
{
    const sy_watch_seen *s = &t->seen[r];
    text to = {buf, bytes, 0};
    buf[0] = '\0';
    if (!s->heard) {
        put(&to, "not heard yet");
    } else if (s->gone) {
        put(&to, "since it has ended");
    } else {
        if (is_silent(t, r)) {
            put(&to, "no answer; last seen ");
        }
        put_place(&to, &s->beat);
    }
}

static double seconds_of(const sy_watch_table *t, int32_t r)
{
    const sy_watch_seen *s = &t->seen[r];
    return is_silent(t, r) ? s->silent_s : s->beat.waits ? s->beat.wait_s : s->beat.quiet_s;
}

/* "rank 3", "ranks 0-2, 5": those of a group, in at most so many ranges. */
static void put_ranks(text *to, const sy_watch_table *t, int32_t group)
{
    enum { RANGES = 24 };
    int32_t n_ranges = 0, n_ranks = 0;
    for (int32_t r = 0; r < t->n; r++) {
        n_ranks += t->order[r] == group;
    }
    put(to, n_ranks == 1 ? "rank " : "ranks ");
    for (int32_t r = 0, last; r < t->n; r = last + 1) {
        last = r;
        if (t->order[r] != group) {
            continue;
        }
        while (last + 1 < t->n && t->order[last + 1] == group) {
            last++;
        }
        if (++n_ranges > RANGES) {
            put(to, ", ... (%d in all)", n_ranks);
            return;
        }
        put(to, "%s%d", n_ranges == 1 ? "" : ", ", r);
        if (last > r) {
            put(to, "%s%d", last == r + 1 ? ", " : "-", last);
        }
    }
}

/* One line per group of ranks that do the same; t->order becomes the group of each. */
static void put_groups(text *to, const sy_watch_table *t)
{
    enum { GROUPS = 24, STATE_BYTES = 512 };
    int32_t n_groups = 0;
    for (int32_t r = 0; r < t->n; r++) {
        t->order[r] = -1;
    }
    for (int32_t r = 0; r < t->n; r++) {
        char state[STATE_BYTES], other[STATE_BYTES];
        double longest = 0;
        if (t->order[r] >= 0) {
            continue;
        }
        if (n_groups == GROUPS) {
            put(to, "\n  ... and others");
            return;
        }
        format_state(t, r, state, sizeof state);
        for (int32_t q = r; q < t->n; q++) {
            format_state(t, q, other, sizeof other);
            if (t->order[q] < 0 && strcmp(state, other) == 0) {
                t->order[q] = n_groups;
                longest = seconds_of(t, q) > longest ? seconds_of(t, q) : longest;
            }
        }
        put(to, "\n  ");
        put_ranks(to, t, n_groups++);
        put(to, ": %.1f s %s", longest, state);
    }
}

/* The hosts of those to blame, each once, as long as they are few. */
static void put_hosts(text *to, const sy_watch_table *t)
{
    enum { HOSTS = 8 };
    int32_t n_hosts = 0;
    uint64_t known[HOSTS];
    for (int32_t r = 0; r < t->n && n_hosts < HOSTS; r++) {
        const sy_watch_beat *b = &t->seen[r].beat;
        bool new = t->blamed[r];
        for (int32_t i = 0; i < n_hosts; i++) {
            new = new &&known[i] != b->host_id;
        }
        if (new) {
            put(to, "%s%.*s", n_hosts == 0 ? " (host " : ", ", (int)sizeof b->host, b->host);
            known[n_hosts++] = b->host_id;
        }
    }
    put(to, n_hosts > 0 ? ")" : "");
}

static void put_heading(text *to, const sy_watch_table *t, sy_watch_verdict verdict)
{
    static const char *const done[] = {[SY_WATCH_FINE] = "well",
                                       [SY_WATCH_SILENT] = "stopped answering",
                                       [SY_WATCH_STUCK] = "not come to where the others wait",
                                       [SY_WATCH_DESYNC] =
                                           "made other collective calls than the rest"};
    int32_t n = 0;
    for (int32_t r = 0; r < t->n; r++) {
        t->order[r] = t->blamed[r];
        n += t->blamed[r];
    }
    if (n == 0) {
        put(to, "all ranks wait in a collective that does not end");
    } else {
        put_ranks(to, t, 1);
        put_hosts(to, t);
        put(to, " %s %s", n == 1 ? "has" : "have", done[verdict]);
    }
    if (verdict == SY_WATCH_DESYNC) {
        put(to, ": ");
        put_call(to, call_of(t->seen, t->odd));
        put(to, " where rank %d called ", t->usual / SY_WATCH_CALLS);
        put_call(to, call_of(t->seen, t->usual));
    } else {
        put(to, " for %g s (parallel.timeout_s)", t->timeout_s);
    }
}

void sy_watch_describe(const sy_watch_table *t, sy_watch_verdict verdict, char *buf,
                       size_t buf_bytes)
{
    text to = {buf, buf_bytes, 0};
    buf[0] = '\0';
    put_heading(&to, t, verdict);
    put(&to, "; the job ends. What each rank was doing:");
    put_groups(&to, t);
}

/* ---- stragglers ---- */

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The median over the ranks of some quartile, without that of rank `but`. */
static double median_of_others(const sy_watch_table *t, size_t quartile, int32_t but)
{
    int32_t n = 0;
    for (int32_t r = 0; r < t->n; r++) {
        if (r != but) {
            memcpy(&t->figure[n++], (const char *)&t->seen[r].beat + quartile, sizeof *t->figure);
        }
    }
    qsort(t->figure, (size_t)n, sizeof *t->figure, compare_doubles);
    return n > 0 ? t->figure[n / 2] : 0;
}

int32_t sy_watch_straggler(const sy_watch_table *t, int32_t *slowest, double *ratio)
{
    int32_t s = 0;
    *slowest = -1;
    *ratio = 1;
    for (int32_t r = 0; r < t->n; r++) {
        if (!takes_part(t, r) || t->seen[r].beat.n_steps < SY_PULSE_STEPS) {
            return -1;
        }
        s = t->seen[r].beat.median_s > t->seen[s].beat.median_s ? r : s;
    }
    const sy_watch_beat *b = &t->seen[s].beat;
    const double median = median_of_others(t, offsetof(sy_watch_beat, median_s), s);
    const double slow = median_of_others(t, offsetof(sy_watch_beat, slow_s), s);
    if (t->n < 2 || median <= 0) {
        return -1;
    }
    *slowest = s;
    *ratio = b->median_s / median;
    bool stands_out = *ratio >= STRAGGLER && b->fast_s >= STRAGGLER_MARGIN * slow &&
                      b->median_s - median >= STRAGGLER_LEAST_S;
    return stands_out ? s : -1;
}

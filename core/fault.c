/* Fault points: parsed once at start, before threads exist; afterwards only the hit counters
 * change. */
#include "core/fault.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/rng.h"

enum { MAX_POINTS = 16, NAME_BYTES = 64 };

typedef struct fault_point {
    char name[NAME_BYTES];
    int64_t nth;
    sy_fault_action action;
    double sleep_s;
    int64_t bit;
    _Atomic int64_t n_hits;
} fault_point;

static fault_point points[MAX_POINTS];
static int32_t n_points;
static uint64_t jitter_seed, jitter_stream; /* of this rank, and of the text of SY_FAULT */

static const struct {
    const char *word;
    sy_fault_action action;
} actions[] = {
    {"fail", SY_FAULT_FAIL},   {"kill", SY_FAULT_KILL}, {"stop", SY_FAULT_STOP},
    {"nan", SY_FAULT_NAN},     {"skip", SY_FAULT_SKIP}, {"twice", SY_FAULT_TWICE},
    {"short", SY_FAULT_SHORT}, {"inf", SY_FAULT_INF},   {"exit", SY_FAULT_EXIT},
    {"crash", SY_FAULT_CRASH},
};

/* Actions that are followed by seconds. */
static const struct {
    const char *word;
    sy_fault_action action;
} timed[] = {
    {"sleep=", SY_FAULT_SLEEP},
    {"slow=", SY_FAULT_SLOW},
    {"jitter=", SY_FAULT_JITTER},
};

static bool parse_count(const char *text, int64_t *out)
{
    char *end = NULL;
    long long value = strtoll(text, &end, 10);
    *out = value;
    return end != text && *end == '\0' && value >= 0;
}

static bool parse_action(const char *text, fault_point *point)
{
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++) {
        if (strcmp(text, actions[i].word) == 0) {
            point->action = actions[i].action;
            return true;
        }
    }
    if (strncmp(text, "flip=", 5) == 0) {
        point->action = SY_FAULT_FLIP;
        return parse_count(text + 5, &point->bit) && point->bit < 64;
    }
    for (size_t i = 0; i < sizeof timed / sizeof timed[0]; i++) {
        const size_t n = strlen(timed[i].word);
        if (strncmp(text, timed[i].word, n) == 0) {
            char *end = NULL;
            point->sleep_s = strtod(text + n, &end);
            point->action = timed[i].action;
            return end != text + n && *end == '\0' && point->sleep_s >= 0;
        }
    }
    return false;
}

/* entry: "name:nth:action[:rank]", cut up in place. *mine: this rank is meant. */
static sy_status parse_point(char *entry, int32_t rank, fault_point *point, bool *mine)
{
    sy_status st = SY_OK;
    char *fields[4] = {NULL}, *rest = entry;
    int64_t only_rank = rank;
    for (int i = 0; i < 4 && rest; i++) {
        fields[i] = strsep(&rest, ":");
    }
    SY_REQUIRE(fields[2] && !rest && *fields[0] && strlen(fields[0]) < NAME_BYTES, SY_ERR_USAGE,
               "SY_FAULT: '%s': write name:nth:action[:rank]", entry);
    SY_REQUIRE(parse_count(fields[1], &point->nth) && point->nth >= 1, SY_ERR_USAGE,
               "SY_FAULT: %s: '%s' is not a count from 1", fields[0], fields[1]);
    SY_REQUIRE(
        parse_action(fields[2], point), SY_ERR_USAGE,
        "SY_FAULT: %s: unknown action '%s': write fail, kill, exit, crash, stop, "
        "sleep=SECONDS, slow=SECONDS, jitter=SECONDS, nan, inf, flip=BIT, skip, twice or short",
        fields[0], fields[2]);
    SY_REQUIRE(!fields[3] || parse_count(fields[3], &only_rank), SY_ERR_USAGE,
               "SY_FAULT: %s: '%s' is not a rank", fields[0], fields[3]);
    memcpy(point->name, fields[0], strlen(fields[0]) + 1);
    atomic_store(&point->n_hits, 0);
    *mine = only_rank == rank;
cleanup:
    return st;
}

sy_status sy_fault_setup(int32_t rank)
{
    sy_status st = SY_OK;
    const char *wanted = getenv("SY_FAULT");
    char text[1024], *rest = text;
    n_points = 0;
    if (!wanted || !*wanted) {
        return SY_OK;
    }
    SY_REQUIRE(strlen(wanted) < sizeof text, SY_ERR_USAGE, "SY_FAULT is longer than %zu characters",
               sizeof text - 1);
    memcpy(text, wanted, strlen(wanted) + 1);
    jitter_seed = (uint64_t)rank;
    jitter_stream = sy_rng_stream_of(wanted);
    int32_t n = 0;
    for (char *entry = strsep(&rest, ","); entry; entry = strsep(&rest, ",")) {
        bool mine = false;
        SY_REQUIRE(n < MAX_POINTS, SY_ERR_USAGE, "SY_FAULT has more than %d points", MAX_POINTS);
        SY_TRY(parse_point(entry, rank, &points[n], &mine));
        n += mine ? 1 : 0;
    }
    n_points = n;
cleanup:
    return st;
}

/* The point that fires at this passage, or NULL. Every armed point of that name counts it. */
static const fault_point *pass_point(const char *name)
{
    const fault_point *fires = NULL;
    for (int32_t i = 0; i < n_points; i++) {
        fault_point *p = &points[i];
        if (strcmp(p->name, name) == 0) {
            const int64_t hit = atomic_fetch_add(&p->n_hits, 1) + 1;
            const bool stays = p->action == SY_FAULT_JITTER || p->action == SY_FAULT_SLOW;
            fires = hit == p->nth || (stays && hit > p->nth) ? p : fires;
        }
    }
    return fires;
}

sy_fault_action sy_fault_hit_bit(const char *name, int32_t *bit)
{
    const fault_point *p = n_points ? pass_point(name) : NULL;
    if (p && bit) {
        *bit = (int32_t)p->bit;
    }
    return p ? p->action : SY_FAULT_NONE;
}

sy_fault_action sy_fault_hit(const char *name)
{
    return sy_fault_hit_bit(name, NULL);
}

static double random_part(const fault_point *p)
{
    return sy_rng_uniform(jitter_seed, jitter_stream, (uint64_t)atomic_load(&p->n_hits));
}

sy_status sy_fault_pass(const char *name, sy_fault_action *action)
{
    const fault_point *p = n_points ? pass_point(name) : NULL;
    *action = p ? p->action : SY_FAULT_NONE;
    switch (*action) {
    case SY_FAULT_FAIL:
        return sy_error(SY_ERR_IO, "fault point '%s' fails as SY_FAULT asks", name);
    case SY_FAULT_KILL:
        raise(SIGKILL);
        break;
    case SY_FAULT_EXIT:
        exit(0);
    case SY_FAULT_CRASH:
        raise(SIGSEGV);
        break;
    case SY_FAULT_STOP:
        raise(SIGSTOP); /* goes on here after SIGCONT */
        break;
    case SY_FAULT_SLEEP:
    case SY_FAULT_SLOW:
        sy_clock_sleep_s(p->sleep_s);
        break;
    case SY_FAULT_JITTER:
        sy_clock_sleep_s(p->sleep_s * random_part(p));
        break;
    default:
        break;
    }
    return SY_OK;
}

sy_status sy_fault(const char *name)
{
    sy_fault_action action;
    return n_points ? sy_fault_pass(name, &action) : SY_OK;
}

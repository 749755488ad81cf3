/* Which access is in order with which, by vector clocks (Mattern 1989): a lane knows, for every
   lane, up to which task it stands behind it. An event carries the clock of its lane, a wait joins
   it. Since everything is enqueued by the host in the order of the program, a missing wait is found
   when the second access is enqueued, with certainty and before anything goes wrong. */
#include <string.h>

#include "backend/check/check_impl.h"

void sy__clock_join(sy__clock *clock, const sy__clock *other)
{
    for (int32_t i = 0; i < SY__LANES; i++) {
        if (other->ticket[i] > clock->ticket[i]) {
            clock->ticket[i] = other->ticket[i];
        }
    }
}

static sy__access *access_at(const sy__lane *lane, int64_t i)
{
    return &lane->accesses[i % SY__ACCESSES];
}

void sy__order_host_saw(sy__check *check, const sy__clock *clock)
{
    sy__clock_join(&check->host_seen, clock);
    for (int32_t i = 0; i < SY__LANES; i++) {
        sy__lane *lane = &check->lanes[i];
        while (lane->n_forgotten < lane->n_accesses &&
               access_at(lane, lane->n_forgotten)->ticket <= check->host_seen.ticket[i]) {
            lane->n_forgotten++;
        }
    }
}

/* The newest access of `other` behind the ticket that meets this one, if one of the two writes. */
static const sy__access *find_rival(const sy__lane *other, const sy__access *access, int64_t ticket)
{
    for (int64_t i = other->n_accesses - 1; i >= other->n_forgotten; i--) {
        const sy__access *earlier = access_at(other, i);
        if (earlier->ticket <= ticket) {
            return NULL;
        }
        if ((earlier->writes || access->writes) &&
            sy__ranges_meet(&earlier->range, &access->range)) {
            return earlier;
        }
    }
    return NULL;
}

sy_status sy__order_verify(const sy__lane *lane, const sy__access *access)
{
    sy_status st = SY_OK;
    const sy__check *check = lane->check;
    for (int32_t i = 0; i < SY__LANES; i++) {
        const sy__lane *other = &check->lanes[i];
        int64_t ticket = lane->seen.ticket[i] > check->host_seen.ticket[i]
                             ? lane->seen.ticket[i]
                             : check->host_seen.ticket[i];
        const sy__access *rival = other == lane ? NULL : find_rival(other, access, ticket);
        SY_REQUIRE(!rival, SY_ERR_INTERNAL,
                   "%s%s on stream '%s' %s %s, which %s%s on stream '%s' %s as %s, and nothing "
                   "orders the two: a "
                   "sy_stream_wait is missing",
                   access->kind, access->what, lane->stream->name,
                   access->writes ? "writes" : "reads", access->operand, rival->kind, rival->what,
                   other->stream ? other->stream->name : "?", rival->writes ? "writes" : "reads",
                   rival->operand);
    }
cleanup:
    return st;
}

bool sy__order_pending(const sy__check *check, const sy__range *range)
{
    sy__access all = {.range = *range, .writes = true};
    for (int32_t i = 0; i < SY__LANES; i++) {
        if (find_rival(&check->lanes[i], &all, check->host_seen.ticket[i])) {
            return true;
        }
    }
    return false;
}

void sy__order_note(sy__lane *lane, const sy__access *access)
{
    if (lane->n_accesses - lane->n_forgotten == SY__ACCESSES) {
        lane->n_forgotten++; /* the oldest: a race with it would go unseen */
    }
    *access_at(lane, lane->n_accesses) = *access;
    access_at(lane, lane->n_accesses)->ticket = lane->n_queued + 1;
    lane->n_accesses++;
}

#include "parallel/clock_offset.h"

#include <math.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "parallel/agree.h"

enum { TRIALS = 8 };

/* One time from `from` to `to`; the other ranks only count the call. */
static sy_status pass_on(sy_comm *host, int32_t from, int32_t to, double *time_s)
{
    return sy_send_recv(host, &(sy_comm_args){.send = time_s,
                                              .recv = time_s,
                                              .n = 1,
                                              .row_bytes = sizeof *time_s,
                                              .root = host->rank == from ? to : -1,
                                              .source = host->rank == to ? from : -1,
                                              .what = "clock",
                                              .layer = -1});
}

/* Rank 0 learns how far it is ahead of a rank. */
static sy_status ask(sy_comm *host, int32_t rank, double *ahead_s)
{
    sy_status st = SY_OK;
    double quickest_s = INFINITY;
    for (int32_t i = 0; i < TRIALS; i++) {
        double t0 = sy_clock_s(), theirs = 0;
        SY_TRY(pass_on(host, 0, rank, &t0));
        theirs = sy_clock_s();
        SY_TRY(pass_on(host, rank, 0, &theirs));
        double t1 = sy_clock_s();
        if (t1 - t0 < quickest_s) {
            quickest_s = t1 - t0;
            *ahead_s = (t0 + t1) / 2 - theirs;
        }
    }
cleanup:
    return st;
}

sy_status sy_clock_offset(sy_comm *host, double *offset_s)
{
    sy_status st = SY_OK;
    double *ahead_s = NULL;
    SY_TRY(sy_agree(host, sy_alloc(host->size, sizeof *ahead_s, (void **)&ahead_s)));
    for (int32_t rank = 1; rank < host->size; rank++) {
        SY_TRY(ask(host, rank, &ahead_s[rank]));
    }
    SY_TRY(sy_host_broadcast(host, ahead_s, host->size * (int64_t)sizeof *ahead_s, 0, "clocks"));
    *offset_s = ahead_s[host->rank];
cleanup:
    sy_free(&ahead_s);
    return st;
}

/* The watchdog: one thread per rank that tells two observers (rank 0, and a rank of another host
   where there is one) what its rank is doing, by small UDP datagrams that share nothing with MPI:
   they pass while a main thread sits in a blocking call, or holds a lock of MPI for ever. An
   observer that finds a rank silent, stuck while others wait for it, or out of step says so in one
   message and ends the job. Only waiting for others counts, and only time in which the watchdog
   itself ran: long work that shows progress (core/pulse.h), a suspended machine and a paused job
   are no hang. */
#ifndef SY_PARALLEL_WATCH_H
#define SY_PARALLEL_WATCH_H

#include "parallel/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_watch sy_watch;

/* Start watching. timeout_s 0, or a world of one rank: *out is NULL, and nobody watches. Where no
   socket can be had the run goes on unwatched, with a warning. Communicators that are split from
   world from now on know the timeout (comm->timeout_s). Collective over world, which
   outlives the watch. */
sy_status sy_watch_open(sy_comm *world, double timeout_s, sy_watch **out);
/* This rank leaves, in peace. Not collective; NULL is fine. */
void sy_watch_close(sy_watch **watch);

/* How many times as long as the median of the others the slowest rank computes, in its last steps,
   and which it is; 1 and -1 while that is not known. Rank 0. Not collective; NULL is fine. */
double sy_watch_slowest(const sy_watch *watch, int32_t *rank);

#ifdef __cplusplus
}
#endif
#endif

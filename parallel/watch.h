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

/* The timeout until a configuration tells another: the default of parallel.timeout_s. */
#define SY_WATCH_TIMEOUT_S 600.0

/* Start watching, from the start of the job on: the watch is world->watch. In a world of one rank
   nobody watches; where no socket can be had the job goes on unwatched, with a warning. Collective
   over world. */
sy_status sy_watch_open(sy_comm *world);
/* The timeout from now on, the same on all ranks; 0: nobody watches any more. Communicators that
   are split from world from now on know it (comm->timeout_s). Not collective. */
void sy_watch_set_timeout(sy_comm *world, double timeout_s);
/* This rank leaves, in peace. Not collective; a world without a watch is fine. */
void sy_watch_close(sy_comm *world);

/* How many times as long as the median of the others the slowest rank computes, in its last steps,
   and which it is; 1 and -1 while that is not known. Rank 0. Not collective; a world without a
   watch is fine. */
double sy_watch_slowest(const sy_comm *world, int32_t *rank);

#ifdef __cplusplus
}
#endif
#endif

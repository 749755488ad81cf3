/* How far the clocks of the ranks lie apart: each node counts its monotonic seconds from a start of
   its own. */
#ifndef SY_PARALLEL_CLOCK_OFFSET_H
#define SY_PARALLEL_CLOCK_OFFSET_H

#include "parallel/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What this rank adds to sy_clock_s to get rank 0's, as well as messages can tell: rank 0 asks each
   rank for its time, and the quickest of several answers counts (Cristian 1989). Off by half of
   that round trip at most. Collective over host, which has dev NULL; every rank makes the same
   calls. */
sy_status sy_clock_offset(sy_comm *host, double *offset_s);

#ifdef __cplusplus
}
#endif
#endif

/* Which rank of a node takes which of its units (GPUs), and that no two take the same. */
#ifndef SY_PARALLEL_UNITS_H
#define SY_PARALLEL_UNITS_H

#include "parallel/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* This rank's number among the ranks of host on its node, and how many they are. Collective over
 * host. */
sy_status sy_units_place(sy_comm *host, int32_t *place, int32_t *n_places);
/* SY_ERR_USAGE on every rank where two ranks have different backends or models of GPU, or two of
   one node the same unit ("": does not matter): which. Collective over host. */
sy_status sy_units_apart(sy_comm *host, const sy_device *dev);

#ifdef __cplusplus
}
#endif
#endif

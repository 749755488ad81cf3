/* Which rank of ep owns which expert, and in which slot. Nobody computes e / E_loc: ask here. */
#ifndef SY_PARALLEL_PLACEMENT_H
#define SY_PARALLEL_PLACEMENT_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_placement {
    int32_t E, ep, E_loc;  /* E == ep * E_loc */
    int32_t *owner, *slot; /* [E] rank in ep, index on that rank */
    int32_t *wire;         /* [E] owner * E_loc + slot: place in wire order */
    int32_t *expert_at;    /* [E] inverse of wire */
} sy_placement;

/* Linear placement: consecutive experts on consecutive ranks. Not collective. E not divisible by
 * ep: SY_ERR_USAGE. E 0 is legal (dense). */
sy_status sy_placement_create(int32_t E, int32_t ep, sy_placement **out);
void sy_placement_destroy(sy_placement **placement);

#ifdef __cplusplus
}
#endif
#endif

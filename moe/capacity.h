/* How many rows an expert takes from one source rank in one micro-batch, and which choices it
 * keeps. */
#ifndef SY_MOE_CAPACITY_H
#define SY_MOE_CAPACITY_H

#include "moe/router.h"

#ifdef __cplusplus
extern "C" {
#endif

/* C = max(ceil(factor * T * K / E), min_capacity), at most T; -1: unlimited (factor null). The
   basis counts assignments (T * K), as Megatron and DeepSpeed do; docs/NUMERICS.md 2. Not
   collective. */
int64_t sy_capacity_slots(const sy_moe_config *config, bool eval, int64_t T);
/* The same for an expert whose fair share of the choices is `share`, not 1 / E (0: it is). Not
 * collective. */
int64_t sy_capacity_slots_of(const sy_moe_config *config, bool eval, int64_t T, double share);
/* Write c->kept for capacity C; C < 0: c->kept becomes absent (all are kept). Enqueued. Not
 * collective. */
sy_status sy_capacity_apply(const sy_moe_config *config, sy_pass *p, int64_t C, sy_choices *c);

#ifdef __cplusplus
}
#endif
#endif

/* Training that goes on from an upcycled model as from the dense one (Komatsuzaki et al. 2023,
   arXiv 2212.05055 section 3): moments and masters go through the recipe as the weights do, and the
   counters (steps, position in the data and in the schedule) stay as they are. */
#ifndef SY_UPCYCLE_CARRY_H
#define SY_UPCYCLE_CARRY_H

#include "upcycle/recipe.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_carry sy_carry;

/* What spec makes of the model of its one source, a checkpoint of kind training, for its moments
   and masters too; spec->freeze says which parameters have none. Everything that is new (routers,
   drawn units, added rows) begins with moments of zero; those of a matrix times s are over s, and
   over s^2. Collective over comm, which it borrows as it does spec and the recipe of the model.
   SY_ERR_USAGE where the source keeps no such state. */
sy_status sy_carry_create(const sy_recipe_spec *spec, sy_recipe *model, sy_comm *comm,
                          sy_carry **out);
void sy_carry_destroy(sy_carry **carry);
/* For sy_build_spec: the model's tree and the optimizer's, and the counters. Not collective. */
const sy_build_tree *sy_carry_trees(const sy_carry *carry, int32_t *n);
const sy_owner *sy_carry_counters(const sy_carry *carry);

#ifdef __cplusplus
}
#endif
#endif

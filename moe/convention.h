/* The losses of routing as other codes define them, beside ours: a coefficient pushes as hard as
   their convention says, and 0.01 is another push in each. docs/NUMERICS.md 3. Nothing here is
   collective. */
#ifndef SY_MOE_CONVENTION_H
#define SY_MOE_CONVENTION_H

#include "moe/moe_config.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_convention {
    const char *name, *title; /* "megatron", "Megatron-LM" */
    const char *balance;      /* what its coefficient multiplies, in the letters of the house */
    const char *z;            /* the same of the z-loss; NULL: it has none */
    bool k_times;             /* the balance loss is K at perfect balance, not 1 */
    bool layer_mean;          /* of both losses: the mean over layers, not the sum */
    bool z_per_choice;        /* the z-loss is divided by K besides */
    bool z_times_balance;     /* the z-loss's coefficient is multiplied by the balance loss's */
    bool pooled;              /* layers are pooled before f and P are multiplied: equal to ours only
                                 where layers are alike */
    int32_t first_up_to;      /* with K up to this only first choices are counted; 0: never */
    int32_t scope;            /* sy_aux_scope that comes nearest */
} sy_convention;

/* All of them, and their number. */
const sy_convention *sy_conventions(int32_t *n);
/* NULL if there is none of that name. */
const sy_convention *sy_convention_find(const char *name);
/* What its coefficient is to be multiplied with to push as hard here, in a model of L MoE layers
   and K choices; `balance`: its coefficient of the balance loss. 0: it has no z-loss. */
double sy_convention_balance_factor(const sy_convention *c, int32_t L, int32_t K);
double sy_convention_z_factor(const sy_convention *c, int32_t L, int32_t K, double balance);
/* Which choices it counts. */
sy_aux_counts sy_convention_counts(const sy_convention *c, int32_t K);

#ifdef __cplusplus
}
#endif
#endif

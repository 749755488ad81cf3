/* Several models that predict together (Branch-Train-Merge, Li et al. 2022, arXiv 2208.03306,
   section 3): p(x_t | x_<t) = sum_j P(j | x_<t) p_j(x_t | x_<t), where the weights P(j | x_<t)
   start at the prior with each text and follow Bayes' rule, token by token. One member is in memory
   at a time. */
#ifndef SY_TRAIN_ENSEMBLE_H
#define SY_TRAIN_ENSEMBLE_H

#include "train/eval.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_ensemble {
    char *path;    /* of the checkpoint */
    int32_t n;     /* members; 0: the checkpoint holds one model */
    double *prior; /* [n] positive, of sum 1 */
} sy_ensemble;

/* Members and prior of a checkpoint. Collective over world. A prior that is none: SY_ERR_DAMAGED.
 */
sy_status sy_ensemble_open(const char *path, sy_comm *world, sy_ensemble *out);
void sy_ensemble_free(sy_ensemble *ensemble);

/* What the mixture is told by one text: nll [n_members, T], member by member, of T tokens in a row;
   `begins` [T] where a text begins (the weights are the prior again). For each token: the
   mixture's nll into mixed [T], and the weight that each member had before it added to weight
   [n_members] where counted [T]. Not collective. */
typedef struct sy_mixture {
    int32_t n;
    const double *prior; /* [n] */
    const double *nll;   /* [n, T] */
    int64_t T;
    const bool *begins, *counted; /* [T] */
    double *mixed;                /* [T] */
    double *weight;               /* [n] */
    double *scratch;              /* [n] */
} sy_mixture;
void sy_mixture_run(const sy_mixture *m);

/* sy_evaluate, of the mixture: out->loss is its mean nll. loss [n] and weight [n]: of each member
   its own mean nll, and its mean weight over the tokens. A text is a sequence, or with masked
   documents a document in it. Loads the members into the engine, which is left with the last one.
   Collective over the engine's world. */
sy_status sy_evaluate_ensemble(sy_engine *engine, const sy_ensemble *ensemble, sy_eval_set *set,
                               int64_t n_batches, sy_eval_result *out, double *loss,
                               double *weight);

#ifdef __cplusplus
}
#endif
#endif

/* Evaluation in parts, with an eye on every token: for ensembles. */
#ifndef SY_TRAIN_EVAL_IMPL_H
#define SY_TRAIN_EVAL_IMPL_H

#include "train/eval.h"

/* The set from sequence `position` on. see, where given, is shown each micro-batch of this rank
   after its forward pass; the engine's stream has passed. *end: the sequence after the last one. */
typedef struct sy__eval_part {
    int64_t position, n_batches; /* 0: all that are left */
    sy_eval_stop *stop;          /* NULL: never asked */
    const void *stop_self;
    sy_status (*see)(void *self, const sy_batch *h_batch);
    void *self;
} sy__eval_part;

/* Collective over the engine's world. */
sy_status sy__evaluate_part(sy_engine *engine, sy_eval_set *set, const sy__eval_part *part,
                            sy_eval_result *out, int64_t *end);

#endif

/* Scoring of continuations: how likely a model finds the last tokens of a sequence, given those
   before them. What multiple-choice benchmarks ask. */
#ifndef SY_TRAIN_CHOICES_H
#define SY_TRAIN_CHOICES_H

#include "train/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_scored {
    const int32_t *ids; /* [n] */
    int64_t n;
    int64_t n_scored; /* the last of them; 1 .. min(n - 1, seq_len) */
} sy_scored;

/* out [n]: sum of log probabilities (nats) of the scored tokens of each sequence; of one that is
   longer than the model's seq_len the beginning is left out. The ranks share the sequences;
   dropless, so nothing depends on how. Collective over the engine's world: every rank gives the
   same sequences and gets all of out. Requires an engine for evaluation; an error in the midst of a
   pass ends the job. */
sy_status sy_score_sequences(sy_engine *engine, const sy_scored *sequences, int64_t n, double *out);

#ifdef __cplusplus
}
#endif
#endif

/* A probe: what a model says to random tokens. Two models that compute the same function say the
 * same. */
#ifndef SY_TESTS_ENGINE_PROBE_H
#define SY_TESTS_ENGINE_PROBE_H

#include "train/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_probe_spec {
    int32_t n_sequences, S; /* of each rank */
    int32_t vocab_size;     /* tokens and logits below this; 0: all of the model's */
    uint64_t seed;
} sy_probe_spec;

typedef struct sy_probe {
    int64_t n_nll, n_logits;
    double *nll;    /* [n_sequences * S] of random targets */
    double *logits; /* [n_sequences, vocab_size] after the last token of each */
} sy_probe;

/* Run the engine's model over random sequences, every rank over its own, in evaluation. Collective
   over the engine's world. Requires S <= the engine's largest micro-batch. Uses its statistics. An
   error in the midst of a pass ends the job. */
sy_status sy_probe_run(sy_engine *engine, const sy_probe_spec *spec, sy_probe *out);
void sy_probe_free(sy_probe *probe);

/* Over all ranks: largest difference, and the same as a part of the largest value. Not finite where
   a value is not. */
typedef struct sy_probe_gap {
    double logits_abs, logits_rel, nll_abs, nll_rel;
} sy_probe_gap;
/* Collective over host. Requires probes of one spec and vocab_size. */
sy_status sy_probe_compare(const sy_probe *a, const sy_probe *b, sy_comm *host, sy_probe_gap *out);

#ifdef __cplusplus
}
#endif
#endif

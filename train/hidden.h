/* What the feed-forward part of each layer of a dense model gets as its input, on average over the
   tokens of some text: what a router that tells texts apart may begin with. The model is run a
   layer at a time (train/compare.h) and is never whole in memory. */
#ifndef SY_TRAIN_HIDDEN_H
#define SY_TRAIN_HIDDEN_H

#include "train/compare.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_hidden_spec {
    sy_compare_model model; /* its settings may name experts: every layer is run as a dense one */
    int32_t vocab_size;     /* of the tokens */
    sy_comm *world;
    int32_t threads;         /* where the config says 0 */
    const char *precision;   /* device.precision */
    const char *const *path; /* [n_sets] prefixes of token files */
    int32_t n_sets;
    int64_t tokens; /* of each set at most, in sequences that lie evenly over it */
} sy_hidden_spec;

typedef struct sy_hidden {
    int64_t n_layers, n_sets, H;
    double *mean;    /* [n_layers, n_sets, H] of x, behind the norm */
    double *square;  /* [n_layers, n_sets] mean of |x|^2 */
    int64_t *tokens; /* [n_sets] that were read */
} sy_hidden;

/* The same bits for any number of ranks. Collective over spec->world; errors are agreed upon. */
sy_status sy_hidden_measure(const sy_hidden_spec *spec, sy_hidden *out);
void sy_hidden_free(sy_hidden *hidden);

#ifdef __cplusplus
}
#endif
#endif

/* The two parts below the loader: the source (which tokens are sequence k) and the step (which
 * sequences are this rank's). */
#ifndef SY_DATA_LOADER_IMPL_H
#define SY_DATA_LOADER_IMPL_H

#include "data/loader.h"
#include "data/megatron.h"
#include "data/sampler.h"

typedef struct sy__source {
    bool sequential, mask_documents;
    int32_t S, n, stride;
    sy_token_file **file; /* [n] */
    int64_t *n_sequences; /* [n] */
    int64_t *first, *end; /* [n] tokens of the part */
    double *weight;       /* [n] */
    sy_sampler *sampler;  /* one of the two, or sequential */
    sy_megatron *megatron;
    sy_objective_maker *objective; /* NULL: causal */
    uint64_t seed;
    int32_t *tokens; /* [S+1] scratch of the one thread that reads */
    uint8_t *fresh;  /* [S+1] the same: a document begins */
} sy__source;

/* One sequence's part of the batch arrays, each [S]. */
typedef struct sy__sequence {
    int32_t *ids, *targets, *pos, *doc;
    uint8_t *routed;
    int64_t *token_glb;
} sy__sequence;

sy_status sy__source_open(const sy_loader_spec *spec, sy__source *source);
void sy__source_close(sy__source *source);
int64_t sy__source_n_sequences(const sy__source *source);
/* See sy_loader_token_shares. Looks at the files alone: the thread may read meanwhile. */
sy_status sy__source_token_shares(const sy__source *source, int64_t vocab, double *share);
/* Are there sequences with padding, which must be marked? */
bool sy__source_pads(const sy__source *source);
/* Fill the arrays (all but token_glb) with sequence k of the order. */
sy_status sy__source_fill(sy__source *source, int64_t k, const sy__sequence *to,
                          sy_objective_counts *count);

/* Storage of one step of this rank, and what stands in it. */
typedef struct sy__step {
    sy_step_batch batch;
    sy_batch *micro;      /* [n_micro_max] */
    sy__sequence storage; /* [n_micro_max * B * S] */
} sy__step;

sy_status sy__step_alloc(const sy_loader_spec *spec, sy__step *step);
void sy__step_free(sy__step *step);
/* n: sequences of the step. */
sy_status sy__step_fill(const sy_loader_spec *spec, sy__source *source, int64_t position, int32_t n,
                        sy__step *step);

#endif

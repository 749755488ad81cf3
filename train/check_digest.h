/* A gradient in a few figures that do not depend on the layout: for every tensor of the file,
   experts one by one, its norm and its projections on random vectors. Norms alone would not see
   rows that changed places. Each element counts by its global index, once over all ranks. */
#ifndef SY_TRAIN_CHECK_DIGEST_H
#define SY_TRAIN_CHECK_DIGEST_H

#include "parallel/param.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SY_N_PROJECTIONS = 4 };

/* What a figure is of: one tensor, or one expert's part of one. The same list in every layout. */
typedef struct sy_digest_entry {
    char name[SY_PARAM_NAME]; /* path below /model */
    int32_t expert;           /* -1: none */
} sy_digest_entry;

/* The differences of projections estimate the norm of the difference (Johnson & Lindenstrauss
   1984): the vectors are independent, of mean 0 and variance 1. */
typedef struct sy_digest_figures {
    double norm, projection[SY_N_PROJECTIONS];
} sy_digest_figures;

typedef struct sy_digest {
    sy_digest_entry *entry;     /* [n] trainable parameters, in order of declaration */
    sy_digest_figures *figures; /* [n] */
    int32_t n;
} sy_digest;

/* Of gradients that are reduced (parallel/grad_sync.h), over all ranks; the same on each.
   Collective over the mesh's world; the stream is waited for. */
sy_status sy_digest_take(const sy_params *params, sy_stream *stream, sy_digest *out);
void sy_digest_free(sy_digest *digest);

/* How far apart two are: for entry i the norm of the difference, relative to the larger of the
   first's norm of that entry and `floor` times its norm of all. Returns the worst and where; a NaN
   is worst. Requires the same entries. Not collective. */
double sy_digest_gap(const sy_digest *a, const sy_digest *b, double floor, int32_t *at);
/* The same for one entry. Not collective. */
double sy_digest_entry_gap(const sy_digest *a, const sy_digest *b, double floor, int32_t i);

/* The elements of gradients that this rank answers for, on the host: [params->shard_n] wide, in
   the order of params->range, as sy_params_walk_shard takes them. Freed with sy_free. Not
   collective; the stream is waited for. */
sy_status sy_digest_gradients(const sy_params *params, sy_stream *stream, void **out);

#ifdef __cplusplus
}
#endif
#endif

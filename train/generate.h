/* Sampling text, with a key/value cache. Rank 0 holds the text; the others serve their experts. */
#ifndef SY_TRAIN_GENERATE_H
#define SY_TRAIN_GENERATE_H

#include "train/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_generate_spec {
    const int32_t *prompt; /* [n_prompt] token ids, rank 0; n_prompt >= 1 */
    int64_t n_prompt, max_tokens;
    double temperature; /* 0: always the likeliest token */
    double top_p;       /* sample among the likeliest tokens that together reach it; 1: all */
    uint64_t seed;
    int32_t eod_id;                           /* stop there; -1: never */
    sy_status (*emit)(void *arg, int32_t id); /* rank 0, for each new token */
    void *arg;
} sy_generate_spec;

/* Generate until max_tokens, the end-of-document token or the end of the cache. The engine was
   created for SY_USE_GENERATE. Collective over its world; spec->n_prompt and max_tokens are taken
   from rank 0. */
sy_status sy_generate(sy_engine *engine, const sy_generate_spec *spec);

/* Draw from logits [V] (changed in place) as spec says; draw i of the text. Not collective. Ties:
 * the lower id. Holtzman et al. 2020 (top-p). */
int32_t sy_sample(double *logits, int64_t V, double temperature, double top_p, uint64_t seed,
                  int64_t i);

#ifdef __cplusplus
}
#endif
#endif

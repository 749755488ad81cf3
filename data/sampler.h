/* The global order of the training sequences: sample k of the run is a function of (seed, k) alone,
   so no rank count, batch size or restart can change it. Everything is closed-form: sample k costs
   the same for any k. */
#ifndef SY_DATA_SAMPLER_H
#define SY_DATA_SAMPLER_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_sampler sy_sampler;

typedef struct sy_sample {
    int32_t dataset;
    int64_t epoch;    /* how often this dataset was gone through before */
    int64_t sequence; /* 0 .. n_sequences[dataset]-1 */
} sy_sample;

/* Shares are weight over the sum of weights, to one part in 2^20.
   Not collective. n_sequences [n] and weight [n] are copied. Ensures: after any multiple of
   SY_SAMPLER_BLOCK samples every dataset was drawn its share to within n draws; the i-th draw of a
   dataset is in epoch i / n_sequences, and an epoch visits each of its sequences once. Errors:
   SY_ERR_USAGE for a weight that is not positive or a share below 2^-20; datasets are named by
   number, from 0. */
sy_status sy_sampler_create(uint64_t seed, const int64_t *n_sequences, const double *weight,
                            int32_t n, sy_sampler **out);
/* NULL is fine. Not collective. */
void sy_sampler_destroy(sy_sampler **sampler);
/* Sample k = 0, 1, 2... since the start of the run. Not collective. Requires 0 <= k < 2^42. */
sy_sample sy_sampler_at(const sy_sampler *sampler, int64_t k);

enum { SY_SAMPLER_BLOCK = 64 };

#ifdef __cplusplus
}
#endif
#endif

/* Rates of a machine from what ops took there. Pure functions. */
#ifndef SY_TRAIN_FIT_H
#define SY_TRAIN_FIT_H

#include "train/cost.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_sample {
    sy_work work;
    double seconds; /* of one call */
    double calls;   /* how many are like it: its weight */
} sy_sample;

/* The rate whose seconds are nearest to those of the samples, of one kind and dtype: no term is
   negative, and the sum of calls * (difference)^2 / seconds is the least. *error: mean relative
   difference, weighted by time. n 0: all zero. Not collective. */
void sy_fit_rate(const sy_sample *samples, int32_t n, double near_bytes, sy_rate *out,
                 double *error);

#ifdef __cplusplus
}
#endif
#endif

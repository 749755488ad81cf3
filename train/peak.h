/* The matrix-product rate of this device, measured: the ceiling that MFU is a share of. */
#ifndef SY_TRAIN_PEAK_H
#define SY_TRAIN_PEAK_H

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One square product [n, n] x [n, n]^T by the device's own ops, random operands included. */
typedef struct sy_peak sy_peak;

/* n 0: large enough for this device, 8192 on one with memory of its own (4096 where little of it is
   free; 512 on one that would need more than a second), else 512. Not collective. */
sy_status sy_peak_create(sy_device *dev, sy_dtype dtype, int64_t n, sy_peak **out);
void sy_peak_destroy(sy_peak **peak);
int64_t sy_peak_n(const sy_peak *peak);
/* Multiply once, and wait; FLOP/s of it. Allocates nothing. Not collective. */
sy_status sy_peak_run(sy_peak *peak, double *flops_per_s);

/* The best of several runs within `seconds`, n 0; 0 on a dry device. Not collective. */
sy_status sy_measure_peak(sy_device *dev, sy_dtype dtype, double seconds, double *out);

#ifdef __cplusplus
}
#endif
#endif

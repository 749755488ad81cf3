/* The matrix-product rate of this device, measured: the ceiling that MFU is a share of. */
#ifndef SY_TRAIN_PEAK_H
#define SY_TRAIN_PEAK_H

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* FLOP/s of a square product of n (0: 1024) in dtype, the best of several within `seconds`. 0 on a
 * dry device. Not collective. */
sy_status sy_measure_peak(sy_device *dev, sy_dtype dtype, int64_t n, double seconds, double *out);

#ifdef __cplusplus
}
#endif
#endif

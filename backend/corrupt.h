/* Fault points that corrupt a value in device memory: one element becomes NaN or infinite, or one
   of its bits flips, as SY_FAULT asks (core/fault.h). Unarmed, a point costs what every fault point
   does. */
#ifndef SY_BACKEND_CORRUPT_H
#define SY_BACKEND_CORRUPT_H

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Pass the point: element `at` of a contiguous tensor, if it has so many. The stream is waited for
   where the point fires. */
sy_status sy_corrupt(sy_stream *stream, const char *point, const sy_tensor *x, int64_t at);

#ifdef __cplusplus
}
#endif
#endif

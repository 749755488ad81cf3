/* The objects of the CUDA runtime behind a device of the cuda backend, for those who hand them to
   another library: communicators (parallel/comm_nccl.c). Linked only where the backend was built.
   No CUDA header is needed to include this one. */
#ifndef SY_BACKEND_CUDA_NATIVE_H
#define SY_BACKEND_CUDA_NATIVE_H

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The cudaStream_t of a stream. Requires an open device of the cuda backend that is not dry. What
   is enqueued there directly keeps its place among the ops. */
void *sy_cuda_stream(sy_stream *stream);
/* The ordinal that cudaSetDevice takes, -1 for a device of another backend or a dry one. */
int32_t sy_cuda_ordinal(const sy_device *dev);
/* Make the device current for this thread: the runtime keeps that per thread. */
sy_status sy_cuda_enter(const sy_device *dev);

#ifdef __cplusplus
}
#endif
#endif

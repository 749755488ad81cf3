/* Device memory in pages of the driver's own, which NCCL may hand to other GPUs and to network
   cards as it is; what cudaMalloc gives it copies from and to. In the emulator of the tests
   (tests/emulator/runtime.c) it is other memory that is told apart. */
#ifndef SY_BACKEND_CUDA_PAGES_H
#define SY_BACKEND_CUDA_PAGES_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Whole pages for so many bytes, *taken of them, contents undefined. False, and nothing is changed:
   there are none, or one page would be more than is wanted; cudaMalloc may have memory still. */
bool sy_cuda_pages_take(int32_t ordinal, int64_t bytes, void **ptr, int64_t *taken);
/* Requires that nothing uses them any more. */
void sy_cuda_pages_give_back(void *ptr, int64_t taken);

#ifdef __cplusplus
}
#endif
#endif

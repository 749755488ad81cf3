/* What the files of the emulator share. */
#ifndef SY_TESTS_EMULATOR_EMULATOR_IMPL_H
#define SY_TESTS_EMULATOR_EMULATOR_IMPL_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* In which of three orders a stream's kernels run their blocks and threads. */
int32_t emulator_order(cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif

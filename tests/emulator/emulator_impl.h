/* What the files of the emulator share. */
#ifndef SY_TESTS_EMULATOR_EMULATOR_IMPL_H
#define SY_TESTS_EMULATOR_EMULATOR_IMPL_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* In which of three orders a stream's kernels run their blocks and threads. */
int32_t emulator_order(cudaStream_t stream);

/* Are there streams that run what they are given as late as they may (EMULATOR_ORDER)? */
bool emulator_is_late(void);
/* Run this with a copy of the args in the stream's order: at once, or late, on the stream's
 * thread. */
void emulator_enqueue(cudaStream_t stream, void (*run)(const void *args), const void *args,
                      size_t bytes);
/* Until all streams have run all they were given. */
void emulator_finish_all(void);

/* Is this thread in a function that cudaLaunchHostFunc runs? It may call nothing of the runtime. */
bool emulator_in_host_function(void);

/* Memory that others reach by its address, as network cards do: from here until it is taken back it
   may not be freed. False: it is not made of pages (backend/cuda/pages.h), or too much is. */
bool emulator_lend(const void *ptr);
void emulator_take_back(const void *ptr);

typedef struct emulator_call {
    cudaHostFn_t fn;
    void *arg;
} emulator_call;

#ifdef __cplusplus
}
#endif
#endif

/* The part of the CUDA driver's interface that backend/cuda uses, tensor maps, and what stands for
   Hopper's instructions (backend/cuda/hopper_impl.cuh). */
#ifndef SY_TESTS_EMULATOR_CUDA_H
#define SY_TESTS_EMULATOR_CUDA_H

#include <cuda_runtime.h>

typedef uint32_t cuuint32_t;
typedef uint64_t cuuint64_t;
typedef enum CUresult { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1 } CUresult;
typedef enum CUtensorMapDataType { CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9 } CUtensorMapDataType;
typedef enum CUtensorMapInterleave { CU_TENSOR_MAP_INTERLEAVE_NONE = 0 } CUtensorMapInterleave;
typedef enum CUtensorMapSwizzle {
    CU_TENSOR_MAP_SWIZZLE_NONE = 0,
    CU_TENSOR_MAP_SWIZZLE_128B = 3
} CUtensorMapSwizzle;
typedef enum CUtensorMapL2promotion {
    CU_TENSOR_MAP_L2_PROMOTION_L2_256B = 3
} CUtensorMapL2promotion;
typedef enum CUtensorMapFloatOOBfill {
    CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE = 0
} CUtensorMapFloatOOBfill;

/* Of three dimensions, numbers of two bytes. */
typedef struct CUtensorMap {
    const char *data;
    uint64_t extent[3], stride[3]; /* in bytes; stride[0] 2 */
    uint32_t box[3];
    CUtensorMapSwizzle swizzle;
} CUtensorMap;

extern "C" CUresult
cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *data,
                       const cuuint64_t *extent, const cuuint64_t *stride, const cuuint32_t *box,
                       const cuuint32_t *element_stride, CUtensorMapInterleave interleave,
                       CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                       CUtensorMapFloatOOBfill fill);

/* An address in the window of shared memory. */
unsigned emulator_shared_address(const void *ptr);

/* Barriers in shared memory; arrivals, bytes that are still to come, phase. */
void emulator_barrier_init(uint64_t *barrier, unsigned arrivals);
void emulator_barrier_arrive(uint64_t *barrier, unsigned more_bytes);
void emulator_barrier_wait(const uint64_t *barrier, unsigned parity, emulator_site site);

/* n threads of the block meet at barrier id. */
void emulator_meet(int id, int n, emulator_site site);

void emulator_copy_box(void *to, const CUtensorMap *map, int x, int y, int z, uint64_t *barrier);

/* d += a b, 64 x n, 16 deep, of the warpgroup: computed as late as it may be, by a wait for its
   group. Until then d and shared memory are what they were. */
void emulator_products_begin(); /* asked for before the first product after a wait */
void emulator_products(float *d, int n, uint64_t a, uint64_t b, bool mn_a, bool mn_b);
void emulator_products_commit();
void emulator_products_wait(int n_pending, emulator_site site);

#endif

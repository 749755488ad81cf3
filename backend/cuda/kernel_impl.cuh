/* What the kernels share: launching, numbers of the two compute types, sums over a warp and a
   block. Rules of the folder: a result never depends on which thread or block came first, so no
   float is added atomically and sums run in an order that shapes alone decide; whole warps take
   part in every exchange; a block has whole warps. */
#ifndef SY_BACKEND_CUDA_KERNEL_IMPL_CUH
#define SY_BACKEND_CUDA_KERNEL_IMPL_CUH

#include <cuda_runtime.h>

#include "backend/cuda/cuda_impl.h"

/* Shared memory whose size the launch gives. */
#ifdef __CUDACC__
#define SY__DYNAMIC_SHARED(type, name)                                                             \
    extern __shared__ __align__(16) unsigned char sy__shared_bytes[];                              \
    type *name = reinterpret_cast<type *>(sy__shared_bytes)
#else
#define SY__DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(emulator_dynamic_shared())
#endif

namespace
{

/* ---- launching ---- */

/* A kernel gets 48 KiB of shared memory unasked, for its own arrays too: SHARED_OWN at most. */
enum { SHARED_OWN = 12 << 10, SHARED_UNASKED = (48 << 10) - SHARED_OWN };

/* Every kernel is started here. A grid without blocks starts nothing. */
template <class... P, class... A>
sy_status launch(sy_stream *stream, const char *name, dim3 grid, int32_t threads,
                 size_t shared_bytes, void (*kernel)(P...), A... args)
{
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) {
        return SY_OK;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3((unsigned)threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = sy__cuda_stream_of(stream)->stream;
    cudaError_t error = cudaSuccess;
    if (shared_bytes > SHARED_UNASKED) {
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)shared_bytes);
    }
    error = error == cudaSuccess ? cudaLaunchKernelEx(&config, kernel, P(args)...) : error;
    return sy__cuda_try(error, name);
}

inline unsigned blocks_for(int64_t n, int64_t each)
{
    return (unsigned)((n + each - 1) / each);
}

/* ---- numbers ---- */

struct bf16 {
    uint16_t bits;
};

__device__ inline float wide(float x)
{
    return x;
}
__device__ inline float wide(bf16 x)
{
    return __uint_as_float((unsigned)x.bits << 16);
}

template <class T> __device__ T narrow(float x);
template <> __device__ inline float narrow<float>(float x)
{
    return x;
}
/* Round to nearest, ties to even; a NaN stays one. */
template <> __device__ inline bf16 narrow<bf16>(float x)
{
    bf16 y;
#ifdef __CUDACC__
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
    const unsigned bits = __float_as_uint(x);
    y.bits = (bits & 0x7fffffffu) > 0x7f800000u
                 ? (uint16_t)(bits >> 16 | 0x40u)
                 : (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
#endif
    return y;
}

/* 16 bytes at once. */
template <class T> struct alignas(16) pack {
    enum { N = 16 / sizeof(T) };
    T x[N];
};

inline bool aligned16(const void *ptr)
{
    return (uintptr_t)ptr % 16 == 0;
}

/* May rows of n elements, `stride` apart, be read 16 bytes at a time? */
template <class T> bool packs(const void *ptr, int64_t n, int64_t stride)
{
    return aligned16(ptr) && n % pack<T>::N == 0 && stride % pack<T>::N == 0;
}

__device__ inline float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* ---- sums and maxima over a warp and a block, the same in every lane ---- */

template <class T> __device__ T warp_sum(T x)
{
    for (int i = 16; i > 0; i /= 2) {
        x += __shfl_xor_sync(~0u, x, i);
    }
    return x;
}

__device__ inline float warp_max(float x)
{
    for (int i = 16; i > 0; i /= 2) {
        x = fmaxf(x, __shfl_xor_sync(~0u, x, i));
    }
    return x;
}

/* The sum over the block, in every thread. All threads call it. */
template <class T> __device__ T block_sum(T x)
{
    __shared__ T part[32];
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int n_warps = (int)blockDim.x / 32;
    x = warp_sum(x);
    __syncthreads(); /* the last use of part is over */
    if (lane == 0) {
        part[warp] = x;
    }
    __syncthreads();
    return warp_sum(lane < n_warps ? part[lane] : T(0));
}

__device__ inline float block_max(float x)
{
    __shared__ float part[32];
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int n_warps = (int)blockDim.x / 32;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) {
        part[warp] = x;
    }
    __syncthreads();
    return warp_max(lane < n_warps ? part[lane] : -INFINITY);
}

/* Element i of a grid of one-dimensional blocks. */
__device__ inline int64_t grid_index()
{
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

/* ---- the host's side ---- */

/* f(float()) or f(bf16()) by dtype. */
template <class F> sy_status by_type(sy_dtype dtype, F f)
{
    return dtype == SY_BF16 ? f(bf16()) : f(float());
}

template <class T> T *data(const sy_tensor &t)
{
    return static_cast<T *>(t.data);
}

inline sy_status require_workspace(const char *op, int64_t bytes)
{
    return bytes <= SY_WORKSPACE_BYTES
               ? SY_OK
               : sy_error(SY_ERR_UNSUPPORTED,
                          "op %s on cuda needs %lld bytes of workspace, there are %d; use smaller "
                          "micro-batches",
                          op, (long long)bytes, (int)SY_WORKSPACE_BYTES);
}

} // namespace

#endif

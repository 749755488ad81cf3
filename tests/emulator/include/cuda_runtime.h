/* The CUDA execution model on the host, as far as the kernels of backend/cuda use it. A block's
   threads are fibers of one thread, and blocks run one after the other, in an order that differs
   from stream to stream: a kernel whose result depends on it is caught by comparing the results of
   two streams. Every wait names its line, and threads that wait at different lines for each other
   end the program. */
#ifndef SY_TESTS_EMULATOR_CUDA_RUNTIME_H
#define SY_TESTS_EMULATOR_CUDA_RUNTIME_H

#include <cmath>
#include <cstring>
#include <tuple>
#include <type_traits>

#include <cuda_runtime_api.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned nx = 1, unsigned ny = 1, unsigned nz = 1) : x(nx), y(ny), z(nz)
    {
    }
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

/* Of the thread that runs now. */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
enum { warpSize = 32 };

/* ---- waiting ---- */

/* What a lane puts into an exchange of its warp, and where a wait stands. */
enum { EMULATOR_LANE_BYTES = 32 };
struct emulator_site {
    const char *file;
    int line;
};
void emulator_barrier(emulator_site site);
int32_t emulator_running_order(); /* that of the kernel's stream: 0, 1 or 2 */
/* Give `bytes` bytes, get those of all 32 lanes, one after the other in steps of
 * EMULATOR_LANE_BYTES; valid until the next exchange. */
const char *emulator_exchange(const void *mine, size_t bytes, emulator_site site);
void *emulator_dynamic_shared();
/* Wait until ready(about), which other threads of the block bring about. */
void emulator_wait(bool (*ready)(const void *about), const void *about, emulator_site site);

/* What a GPU does with 16 bytes at once wants them at a multiple of 16. */
void emulator_require_aligned(const void *ptr, emulator_site site);

#define EMULATOR_SITE                                                                              \
    emulator_site                                                                                  \
    {                                                                                              \
        __FILE__, __LINE__                                                                         \
    }
#define __syncthreads() emulator_barrier(EMULATOR_SITE)
#define __syncwarp(...) ((void)emulator_exchange("", 1, EMULATOR_SITE))

template <class T> T emulator_lane(const char *all, unsigned lane)
{
    T value;
    memcpy(&value, all + (lane & 31) * EMULATOR_LANE_BYTES, sizeof value);
    return value;
}

template <class T> T emulator_shuffle(T value, unsigned from, emulator_site site)
{
    static_assert(sizeof(T) <= 8, "a shuffle takes 4 or 8 bytes");
    return emulator_lane<T>(emulator_exchange(&value, sizeof value, site), from);
}

/* All 32 lanes take part: the mask says nothing else in these kernels. */
#define __shfl_sync(mask, value, from) emulator_shuffle((value), (unsigned)(from), EMULATOR_SITE)
#define __shfl_xor_sync(mask, value, bits)                                                         \
    emulator_shuffle((value), (threadIdx.x & 31) ^ (unsigned)(bits), EMULATOR_SITE)
#define __shfl_up_sync(mask, value, by) emulator_shuffle_up((value), (by), EMULATOR_SITE)
#define __ballot_sync(mask, yes) emulator_ballot((yes) != 0, EMULATOR_SITE)
#define __any_sync(mask, yes) (emulator_ballot((yes) != 0, EMULATOR_SITE) != 0)
#define __match_any_sync(mask, value) emulator_match((value), EMULATOR_SITE)

template <class T> T emulator_shuffle_up(T value, unsigned by, emulator_site site)
{
    const unsigned lane = threadIdx.x & 31;
    return emulator_shuffle(value, lane >= by ? lane - by : lane, site);
}

static inline unsigned emulator_ballot(bool yes, emulator_site site)
{
    const char *all = emulator_exchange(&yes, sizeof yes, site);
    unsigned mask = 0;
    for (unsigned lane = 0; lane < 32; lane++) {
        mask |= (unsigned)emulator_lane<bool>(all, lane) << lane;
    }
    return mask;
}

template <class T> unsigned emulator_match(T value, emulator_site site)
{
    const char *all = emulator_exchange(&value, sizeof value, site);
    unsigned mask = 0;
    for (unsigned lane = 0; lane < 32; lane++) {
        mask |= (unsigned)(emulator_lane<T>(all, lane) == value) << lane;
    }
    return mask;
}

/* ---- arithmetic ---- */

template <class T, class U> T atomicAdd(T *at, U more)
{
    static_assert(std::is_integral<T>::value, "a float atomic has no fixed order");
    const T old = *at;
    *at = (T)(old + more);
    return old;
}
static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline float __uint_as_float(unsigned x)
{
    float f;
    memcpy(&f, &x, sizeof f);
    return f;
}
static inline unsigned __float_as_uint(float f)
{
    unsigned x;
    memcpy(&x, &f, sizeof x);
    return x;
}
static inline float rsqrtf(float x)
{
    return 1 / sqrtf(x);
}
template <class T> const T &min(const T &a, const T &b)
{
    return b < a ? b : a;
}
template <class T> const T &max(const T &a, const T &b)
{
    return a < b ? b : a;
}

/* ---- launching ---- */

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    void *attrs;
    unsigned numAttrs;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
cudaError_t emulator_allow_shared(void (*kernel)(), int bytes);
template <class... P>
cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute, int bytes)
{
    return emulator_allow_shared(reinterpret_cast<void (*)()>(kernel), bytes);
}
struct cudaFuncAttributes {
    int numRegs;
};
template <class... P> cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *, void (*)(P...))
{
    return cudaSuccess;
}

/* A kernel's pointers are to memory that a GPU sees. */
template <class T> void emulator_check_argument(const T &arg)
{
    if constexpr (std::is_pointer<T>::value) {
        emulator_require_visible((const void *)arg, "a kernel");
    }
}

/* The closure is copied, byte by byte. */
cudaError_t emulator_launch(const cudaLaunchConfig_t *config, void (*kernel)(),
                            void (*thread)(const void *), const void *closure, size_t bytes);

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...), A &&...args)
{
    struct closure {
        void (*kernel)(P...);
        std::tuple<P...> args;
    } c = {kernel, std::tuple<P...>(args...)};
    (emulator_check_argument<P>(args), ...);
    return emulator_launch(
        config, reinterpret_cast<void (*)()>(kernel),
        [](const void *about) {
            const closure *mine = (const closure *)about;
            std::apply(mine->kernel, mine->args);
        },
        &c, sizeof c);
}

#endif

/* What Hopper (sm_90a) adds for matrix products, as small functions: the instruction on a GPU, the
   emulator's account of it elsewhere (tests/emulator/hopper.cpp). Barriers in shared memory that
   count arrivals and bytes; copies of tiles by the copy engine; products of a warpgroup, which is 4
   warps. What they mean is defined in the PTX manual: mbarrier, cp.async.bulk.tensor,
   wgmma.mma_async with its "matrix descriptor" and "canonical layouts". */
#ifndef SY_BACKEND_CUDA_HOPPER_IMPL_CUH
#define SY_BACKEND_CUDA_HOPPER_IMPL_CUH

#include <cuda.h>

#include "backend/cuda/kernel_impl.cuh"

namespace
{

/* Where shared memory stands in its own address space. */
__device__ inline unsigned shared_address(const void *ptr)
{
#ifdef __CUDACC__
    return (unsigned)__cvta_generic_to_shared(ptr);
#else
    return emulator_shared_address(ptr);
#endif
}

/* ---- barriers: a phase is over when all have arrived and all bytes are there ---- */

__device__ inline void barrier_init(uint64_t *barrier, unsigned arrivals)
{
#ifdef __CUDACC__
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(arrivals)
                 : "memory");
#else
    emulator_barrier_init(barrier, arrivals);
#endif
}

/* After the last barrier_init: the copy engine sees the barriers too. */
__device__ inline void barriers_made()
{
#ifdef __CUDACC__
    asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async.shared::cta;" ::
                     : "memory");
#endif
}

__device__ inline void barrier_arrive(uint64_t *barrier)
{
#ifdef __CUDACC__
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
                 : "memory");
#else
    emulator_barrier_arrive(barrier, 0);
#endif
}

/* Arrive, and have the phase wait for so many bytes more. */
__device__ inline void barrier_expect(uint64_t *barrier, unsigned bytes)
{
#ifdef __CUDACC__
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
        "r"(bytes)
        : "memory");
#else
    emulator_barrier_arrive(barrier, bytes);
#endif
}

/* Until the phase of this parity is over. Before the first phase that of parity 1 is. */
__device__ inline void barrier_wait(uint64_t *barrier, unsigned parity)
{
#ifdef __CUDACC__
    unsigned done = 0;
    while (!done) {
        asm volatile("{\n\t.reg .pred p;\n\t"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(done)
                     : "r"(shared_address(barrier)), "r"(parity)
                     : "memory");
    }
#else
    emulator_barrier_wait(barrier, parity, EMULATOR_SITE);
#endif
}

/* N_THREADS threads, whole warps, meet; ID 1 .. 15. */
template <int ID, int N_THREADS> __device__ void some_threads_meet()
{
#ifdef __CUDACC__
    asm volatile("bar.sync %0, %1;" ::"n"(ID), "n"(N_THREADS) : "memory");
#else
    emulator_meet(ID, N_THREADS, EMULATOR_SITE);
#endif
}

/* What this thread has stored in shared memory is seen by copy engine and tensor cores. */
__device__ inline void show_stores()
{
#ifdef __CUDACC__
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/* ---- copies ---- */

/* Start a copy of the map's box at (x, y, z) into shared memory; what lies outside of the tensor is
   0. The bytes of the whole box count at the barrier. */
__device__ inline void copy_box(void *to_shared, const CUtensorMap *map, int x, int y, int z,
                                uint64_t *barrier)
{
#ifdef __CUDACC__
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(to_shared)),
                 "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z)
                 : "memory");
#else
    emulator_copy_box(to_shared, map, x, y, z, barrier);
#endif
}

__device__ inline void fetch_map(const CUtensorMap *map)
{
#ifdef __CUDACC__
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
#else
    (void)map;
#endif
}

/* ---- products ---- */

/* Registers of each thread of the warpgroup from here on; all of its warps say so. */
template <int N> __device__ void fewer_registers()
{
#ifdef __CUDACC__
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
#endif
}
template <int N> __device__ void more_registers()
{
#ifdef __CUDACC__
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

/* A matrix of bf16 in shared memory, swizzled by 128 bytes: bits 0-13 its address, 16-29 and 32-45
   two strides, 62-63 the mode, all in 16 bytes. In the inner dimension 64 numbers, 128 bytes, lie
   in a row; 8 rows make a pattern of 1024 bytes, which begins at a multiple of that. K inside:
   `stride` leads from 8 rows to the next 8. K outside (MN): a row is one k; `stride` leads from 8 k
   to the next 8, `leading` from 64 rows or columns to the next 64. */
template <bool MN>
__device__ uint64_t describe_matrix(unsigned address, unsigned leading, unsigned stride)
{
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)(MN ? leading >> 4 : 1) << 16 |
           (uint64_t)(stride >> 4) << 32 | (uint64_t)1 << 62;
}

enum { SUMS = 128 }; /* of a thread, for 64 x 256 */

/* Registers are what was written to them before this line. */
__device__ inline void settle(float (&d)[SUMS])
{
#ifdef __CUDACC__
#pragma unroll
    for (int i = 0; i < SUMS; i++) {
        asm volatile("" : "+f"(d[i])::"memory");
    }
#else
    (void)d;
#endif
}

__device__ inline void products_begin()
{
#ifdef __CUDACC__
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
    emulator_products_begin();
#endif
}

__device__ inline void products_commit()
{
#ifdef __CUDACC__
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
    emulator_products_commit();
#endif
}

/* All groups but the last N are done, for this warp. */
template <int N> __device__ void products_wait()
{
#ifdef __CUDACC__
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#else
    emulator_products_wait(N, EMULATOR_SITE);
#endif
}

#define SY__SUMS8(d, i)                                                                            \
    "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3]), "+f"(d[(i) + 4]),            \
        "+f"(d[(i) + 5]), "+f"(d[(i) + 6]), "+f"(d[(i) + 7])
#define SY__SUMS64(d, i)                                                                           \
    SY__SUMS8(d, i), SY__SUMS8(d, (i) + 8), SY__SUMS8(d, (i) + 16), SY__SUMS8(d, (i) + 24),        \
        SY__SUMS8(d, (i) + 32), SY__SUMS8(d, (i) + 40), SY__SUMS8(d, (i) + 48),                    \
        SY__SUMS8(d, (i) + 56)

/* d += a b for a 64 x 16, b 16 x 256. Thread 32 w + 4 g + t of the warpgroup has of d, for j < 32,
   (16 w + g, 8 j + 2 t), that + (0, 1), + (8, 0), + (8, 1). */
template <bool MN_A, bool MN_B>
__device__ void products(float (&d)[SUMS], uint64_t matrix_a, uint64_t matrix_b)
{
#ifdef __CUDACC__
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, "
        "%111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, "
        "%125, %126, %127}, %128, %129, 1, 1, 1, %130, %131;"
        : SY__SUMS64(d, 0), SY__SUMS64(d, 64)
        : "l"(matrix_a), "l"(matrix_b), "n"(MN_A ? 1 : 0), "n"(MN_B ? 1 : 0));
#else
    emulator_products(d, 256, matrix_a, matrix_b, MN_A, MN_B);
#endif
}

} // namespace

#endif

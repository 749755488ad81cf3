/* Tensor cores and asynchronous copies, as small functions: the instruction on a GPU, the same
   said in plain words elsewhere. Layouts of the fragments are those of the PTX manual for
   mma.m16n8k16 with bf16: lane l has g = l / 4 and t = l % 4; an accumulator holds (g, 2t), (g, 2t
   + 1), (g + 8, 2t), (g + 8, 2t + 1). */
#ifndef SY_BACKEND_CUDA_MMA_IMPL_CUH
#define SY_BACKEND_CUDA_MMA_IMPL_CUH

#include "backend/cuda/kernel_impl.cuh"

namespace
{

/* 16 bytes from global to shared memory, of which the first `valid` are read and the rest are 0. */
__device__ inline void copy16_async(void *to_shared, const void *from, int valid)
{
#ifdef __CUDACC__
    const unsigned to = (unsigned)__cvta_generic_to_shared(to_shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid)
                 : "memory");
#else
    emulator_require_aligned(to_shared, EMULATOR_SITE);
    emulator_require_aligned(from, EMULATOR_SITE);
    memset(to_shared, 0, 16);
    memcpy(to_shared, from, (size_t)valid);
#endif
}

__device__ inline void copies_commit()
{
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* All groups but the last N have arrived, for this thread. */
template <int N> __device__ void copies_wait()
{
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

/* Four 8 x 8 matrices of bf16; lane l gives the address of row l % 8 of matrix l / 8. Lane l gets
   of each the elements (g, 2t), (g, 2t + 1), or (2t, g), (2t + 1, g) where TRANSPOSED. */
template <bool TRANSPOSED> __device__ void load_matrices(unsigned out[4], const bf16 *row_in_shared)
{
#ifdef __CUDACC__
    const unsigned at = (unsigned)__cvta_generic_to_shared(row_in_shared);
    if (TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(at)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(at)
                     : "memory");
    }
#else
    emulator_require_aligned(row_in_shared, EMULATOR_SITE);
    const char *rows = emulator_exchange(&row_in_shared, sizeof row_in_shared, EMULATOR_SITE);
    const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (unsigned j = 0; j < 4; j++) {
        unsigned half[2];
        for (unsigned i = 0; i < 2; i++) {
            const unsigned row = TRANSPOSED ? 2 * t + i : g, col = TRANSPOSED ? g : 2 * t + i;
            half[i] = emulator_lane<const bf16 *>(rows, 8 * j + row)[col].bits;
        }
        out[j] = half[0] | half[1] << 16;
    }
#endif
}

/* c += a b for a 16 x 16 (rows g and g + 8), b 16 x 8, c 16 x 8. */
__device__ inline void mma(float c[4], const unsigned a[4], const unsigned b[2])
{
#ifdef __CUDACC__
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    struct fragments {
        unsigned a[4], b[2];
    } mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const char *all = emulator_exchange(&mine, sizeof mine, EMULATOR_SITE);
    const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (unsigned k2 = 0; k2 < 8; k2++) { /* k = 2 k2 and 2 k2 + 1 */
        const unsigned of = k2 % 4, high = k2 / 4;
        const fragments row = emulator_lane<fragments>(all, 4 * g + of);
        for (unsigned n = 0; n < 2; n++) {
            const unsigned y = emulator_lane<fragments>(all, 4 * (2 * t + n) + of).b[high];
            for (unsigned m = 0; m < 2; m++) {
                const unsigned x = row.a[2 * high + m];
                c[2 * m + n] += __uint_as_float(x << 16) * __uint_as_float(y << 16) +
                                __uint_as_float(x & 0xffff0000u) * __uint_as_float(y & 0xffff0000u);
            }
        }
    }
#endif
}

} // namespace

#endif

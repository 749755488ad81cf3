/* From the registers of wgmma to memory: a warp's 16 x 256 sums, of which a thread has two of every
   8 columns. Four lanes trade, so that each has 8 columns side by side. */
#ifndef SY_BACKEND_CUDA_SUMS_IMPL_CUH
#define SY_BACKEND_CUDA_SUMS_IMPL_CUH

#include "backend/cuda/hopper_impl.cuh"

namespace
{

/* Where the sums go: from c on, `rows` (perhaps none) by `columns` (a multiple of 8) that are
   wanted; `adds`: to what is there. */
template <class C> struct target {
    C *c;
    int64_t ld, rows, columns;
    bool adds;
};

/* Lane t of four has x[i], two columns of block i; afterwards it has block t, x[i] of lane i. */
[[maybe_unused]] __device__ inline void trade(float (&x)[4][2])
{
    const int lane = (int)threadIdx.x % 4;
#pragma unroll
    for (int bit = 1; bit < 4; bit *= 2) {
        const bool high = lane & bit;
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < 2 && !(i & bit); j++) {
                float &low = x[i][j], &up = x[i | bit][j];
                const float got = __shfl_xor_sync(~0u, high ? low : up, bit);
                low = high ? got : low;
                up = high ? up : got;
            }
        }
    }
}

/* What a thread loads and stores at a time: 8 columns, in rows aligned to 16 bytes. */
struct strip {
    float x[8];
};

template <class C> __device__ strip load_strip(const C *c)
{
    enum { N = pack<C>::N };
    strip s;
#pragma unroll
    for (int i = 0; i < 8; i += N) {
        const pack<C> part = *(const pack<C> *)(c + i);
#pragma unroll
        for (int j = 0; j < N; j++) {
            s.x[i + j] = wide(part.x[j]);
        }
    }
    return s;
}

template <class C> __device__ void store_strip(C *c, const strip &s)
{
    enum { N = pack<C>::N };
#pragma unroll
    for (int i = 0; i < 8; i += N) {
        pack<C> part;
#pragma unroll
        for (int j = 0; j < N; j++) {
            part.x[j] = narrow<C>(s.x[i + j]);
        }
        *(pack<C> *)(c + i) = part;
    }
}

/* A quarter of them at a time: so much of what c held arrives in one go, and registers suffice. All
   lanes call it. */
template <class C> __device__ void store_sums(const target<C> &to, const float (&d)[SUMS])
{
    enum { AT_ONCE = 2 };
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int j0 = 0; j0 < SUMS / 4; j0 += 4 * AT_ONCE) {
        strip old[2 * AT_ONCE];
        if (to.rows <= 0 || 8 * j0 >= to.columns) {
            break;
        }
#pragma unroll
        for (int i = 0; i < 2 * AT_ONCE; i++) {
            const int m = lane / 4 + i % 2 * 8, n = 8 * (j0 + i / 2 * 4 + lane % 4);
            const bool in = m < to.rows && n < to.columns && to.adds;
            old[i] = in ? load_strip(to.c + m * to.ld + n) : strip{};
        }
#pragma unroll
        for (int i = 0; i < 2 * AT_ONCE; i++) {
            const int m = lane / 4 + i % 2 * 8, n = 8 * (j0 + i / 2 * 4 + lane % 4);
            float x[4][2];
#pragma unroll
            for (int j = 0; j < 8; j++) {
                x[j / 2][j % 2] = d[4 * (j0 + i / 2 * 4 + j / 2) + i % 2 * 2 + j % 2];
            }
            trade(x);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                old[i].x[j] += x[j / 2][j % 2];
            }
            if (m < to.rows && n < to.columns) {
                store_strip(to.c + m * to.ld + n, old[i]);
            }
        }
    }
}

} // namespace

#endif

/* Our own matrix product. A block makes a tile of c; the depth goes by in steps of 32, three steps
   under way at once. bf16 runs on tensor cores, fp32 on plain multiply-adds. An element of c is one
   sum over k ascending, in whatever tile it lies: its bits do not depend on M. */
#include "backend/cuda/mma_impl.cuh"
#include "backend/cuda/product_impl.h"

namespace
{

enum { DEPTH = 32, STAGES = 3, PAD = 8 };

struct product {
    sy__product p;
    bool vectors; /* rows of a and b can be read 16 bytes at a time */
};

/* Where a block works. */
struct place {
    int64_t group, first_k, n_k, m0, n0, end_m, end_n;
    bool any;
};

/* What a group has of a side, where groups differ. */
__device__ inline int64_t side_of(const sy__product &p, int64_t group, int which, int64_t all)
{
    return p.width && p.width_of == which ? p.width[group] : all;
}

/* The group of row tile `tile`, found by walking the borders: they are few, and read from a cache.
 */
template <int TILE> __device__ place find_place(const sy__product &p)
{
    place at = {};
    int64_t tile = blockIdx.x, first = 0, end = p.M;
    at.n0 = (int64_t)blockIdx.y * TILE;
    at.n_k = p.K;
    if (p.by_depth) {
        at.group = blockIdx.z;
        at.first_k = p.start ? p.start[at.group] : 0;
        at.n_k = p.start ? p.start[at.group + 1] - at.first_k : p.K;
        at.m0 = tile * TILE;
        at.end_m = side_of(p, at.group, SY__WIDTH_M, p.M);
        at.end_n = side_of(p, at.group, SY__WIDTH_N, p.N);
        at.any = at.n_k > 0 && at.m0 < at.end_m && at.n0 < at.end_n;
        return at;
    }
    for (at.group = 0; p.start && at.group < p.n_groups; at.group++) {
        first = p.start[at.group];
        end = p.start[at.group + 1];
        const int64_t tiles = (end - first + TILE - 1) / TILE;
        if (tile < tiles) {
            break;
        }
        tile -= tiles;
    }
    at.m0 = first + tile * TILE;
    at.end_m = end;
    at.any = p.start ? at.group < p.n_groups : at.m0 < end;
    at.end_n = at.any ? side_of(p, at.group, SY__WIDTH_N, p.N) : p.N;
    at.n_k = at.any ? side_of(p, at.group, SY__WIDTH_K, p.K) : p.K;
    at.n_k = at.n0 < at.end_n ? at.n_k : 0; /* columns that nobody has: sums of nothing */
    return at;
}

/* A tile of an operand in shared memory, stored as it lies in global memory: [TILE][DEPTH] where k
   is the inner dimension, else [DEPTH][TILE]. */
template <int TILE, bool K_INNER> struct tile {
    enum { OUTER = K_INNER ? TILE : DEPTH, INNER = K_INNER ? DEPTH : TILE, PITCH = INNER + PAD };
    enum { ELEMS = OUTER * PITCH };
};

/* Fill a tile from rows outer0 .., columns inner0 .. of x; outside of end_* it is 0. */
template <int TILE, bool K_INNER, int THREADS>
__device__ void fill_tile(bf16 *to, const bf16 *x, int64_t ld, int64_t outer0, int64_t end_outer,
                          int64_t inner0, int64_t end_inner, bool vectors)
{
    using shape = tile<TILE, K_INNER>;
    if (vectors) {
        for (int i = (int)threadIdx.x; i < shape::OUTER * shape::INNER / 8; i += THREADS) {
            const int outer = i / (shape::INNER / 8), inner = i % (shape::INNER / 8) * 8;
            const int64_t left = end_inner - (inner0 + inner);
            const bool in = outer0 + outer < end_outer && left > 0;
            const int valid = in ? (int)(left < 8 ? 2 * left : 16) : 0;
            copy16_async(to + outer * shape::PITCH + inner,
                         in ? x + (outer0 + outer) * ld + inner0 + inner : x, valid);
        }
        return;
    }
    for (int i = (int)threadIdx.x; i < shape::OUTER * shape::INNER; i += THREADS) {
        const int outer = i / shape::INNER, inner = i % shape::INNER;
        const bool in = outer0 + outer < end_outer && inner0 + inner < end_inner;
        to[outer * shape::PITCH + inner] = in ? x[(outer0 + outer) * ld + inner0 + inner] : bf16{0};
    }
}

/* a's fragment of rows m.. and depth k..: from [m][k] as it is, from [k][m] transposed. */
template <int TILE, bool K_INNER>
__device__ void load_a(unsigned out[4], const bf16 *from, int m, int k)
{
    const int lane = (int)threadIdx.x % 32, j = lane / 8, i = lane % 8;
    if (K_INNER) {
        load_matrices<false>(out,
                             from + (m + j % 2 * 8 + i) * tile<TILE, true>::PITCH + k + j / 2 * 8);
    } else {
        load_matrices<true>(out,
                            from + (k + j / 2 * 8 + i) * tile<TILE, false>::PITCH + m + j % 2 * 8);
    }
}

/* b's fragments of columns n.. and n + 8.., two registers each. */
template <int TILE, bool K_INNER>
__device__ void load_b(unsigned out[4], const bf16 *from, int n, int k)
{
    const int lane = (int)threadIdx.x % 32, j = lane / 8, i = lane % 8;
    if (K_INNER) {
        load_matrices<false>(out,
                             from + (n + j / 2 * 8 + i) * tile<TILE, true>::PITCH + k + j % 2 * 8);
    } else {
        load_matrices<true>(out,
                            from + (k + j % 2 * 8 + i) * tile<TILE, false>::PITCH + n + j / 2 * 8);
    }
}

template <class C>
__device__ void store(const sy__product &p, const place &at, int64_t m, int64_t n, float sum)
{
    if (m < at.end_m && n < (p.by_depth ? at.end_n : p.N)) {
        C *c = (C *)p.c + at.group * p.c_group + m * p.ldc + n;
        *c = narrow<C>(p.alpha * sum + (p.beta != 0 ? p.beta * wide(*c) : 0));
    }
}

/* TILE x TILE of c by TILE * TILE / 64 threads; a warp has 32 columns and 32 (64 of the large tile)
   rows. */
template <class C, int TILE, bool TRANS_A, bool TRANS_B>
__global__ void __launch_bounds__(TILE *TILE / 64 > 128 ? 256 : 128)
    tensor_product_kernel(product about)
{
    enum { THREADS = TILE == 128 ? 256 : 128, WARPS_N = TILE / 32, WARP_M = TILE / 2 };
    using tile_a = tile<TILE, !TRANS_A>;
    using tile_b = tile<TILE, TRANS_B>;
    SY__DYNAMIC_SHARED(bf16, shared);
    const sy__product &p = about.p;
    const place at = find_place<TILE>(p);
    if (!at.any) {
        return;
    }
    const bf16 *a = (const bf16 *)p.a, *b = (const bf16 *)p.b + at.group * p.b_group;
    const int64_t end_k = at.first_k + at.n_k;
    const int64_t n_steps = (at.n_k + DEPTH - 1) / DEPTH;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int warp_m = warp / WARPS_N * WARP_M, warp_n = warp % WARPS_N * 32;
    float sum[WARP_M / 16][4][4] = {};

    auto fetch = [&](int64_t step) {
        bf16 *to_a = shared + step % STAGES * (tile_a::ELEMS + tile_b::ELEMS);
        bf16 *to_b = to_a + tile_a::ELEMS;
        const int64_t k = at.first_k + step * DEPTH;
        if (step < n_steps) {
            fill_tile<TILE, !TRANS_A, THREADS>(to_a, a, p.lda, TRANS_A ? k : at.m0,
                                               TRANS_A ? end_k : at.end_m, TRANS_A ? at.m0 : k,
                                               TRANS_A ? at.end_m : end_k, about.vectors);
            fill_tile<TILE, TRANS_B, THREADS>(to_b, b, p.ldb, TRANS_B ? at.n0 : k,
                                              TRANS_B ? at.end_n : end_k, TRANS_B ? k : at.n0,
                                              TRANS_B ? end_k : at.end_n, about.vectors);
        }
        copies_commit();
    };
    for (int64_t step = 0; step < STAGES - 1; step++) {
        fetch(step);
    }
    for (int64_t step = 0; step < n_steps; step++) {
        copies_wait<STAGES - 2>();
        __syncthreads(); /* the step has arrived for all, and all are done with the one before */
        fetch(step + STAGES - 1);
        const bf16 *from_a = shared + step % STAGES * (tile_a::ELEMS + tile_b::ELEMS);
        const bf16 *from_b = from_a + tile_a::ELEMS;
#pragma unroll
        for (int k = 0; k < DEPTH; k += 16) {
            unsigned fa[WARP_M / 16][4], fb[2][4];
#pragma unroll
            for (int i = 0; i < WARP_M / 16; i++) {
                load_a<TILE, !TRANS_A>(fa[i], from_a, warp_m + 16 * i, k);
            }
#pragma unroll
            for (int j = 0; j < 2; j++) {
                load_b<TILE, TRANS_B>(fb[j], from_b, warp_n + 16 * j, k);
            }
#pragma unroll
            for (int i = 0; i < WARP_M / 16; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    mma(sum[i][j], fa[i], fb[j / 2] + j % 2 * 2);
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < WARP_M / 16; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int r = 0; r < 4; r++) {
                store<C>(p, at, at.m0 + warp_m + 16 * i + lane / 4 + r / 2 * 8,
                         at.n0 + warp_n + 8 * j + lane % 4 * 2 + r % 2, sum[i][j][r]);
            }
        }
    }
}

/* fp32: 64 x 64 by 256 threads, 4 x 4 each. */
template <bool TRANS_A, bool TRANS_B>
__global__ void __launch_bounds__(256) plain_product_kernel(product about)
{
    enum { TILE = 64, STEP = 16 };
    __shared__ float from_a[STEP][TILE + 1], from_b[STEP][TILE + 1];
    const sy__product &p = about.p;
    const place at = find_place<TILE>(p);
    if (!at.any) {
        return;
    }
    const float *a = (const float *)p.a, *b = (const float *)p.b + at.group * p.b_group;
    const int64_t end_k = at.first_k + at.n_k;
    const int me_m = (int)threadIdx.x / 16, me_n = (int)threadIdx.x % 16;
    float sum[4][4] = {};
    for (int64_t k0 = at.first_k; k0 < end_k; k0 += STEP) {
        for (int i = (int)threadIdx.x; i < TILE * STEP; i += 256) {
            const int am = TRANS_A ? i % TILE : i / STEP, ak = TRANS_A ? i / TILE : i % STEP;
            const int bn = TRANS_B ? i / STEP : i % TILE, bk = TRANS_B ? i % STEP : i / TILE;
            const int64_t m = at.m0 + am, n = at.n0 + bn;
            from_a[ak][am] = m < at.end_m && k0 + ak < end_k
                                 ? a[TRANS_A ? (k0 + ak) * p.lda + m : m * p.lda + k0 + ak]
                                 : 0;
            from_b[bk][bn] = n < at.end_n && k0 + bk < end_k
                                 ? b[TRANS_B ? n * p.ldb + k0 + bk : (k0 + bk) * p.ldb + n]
                                 : 0;
        }
        __syncthreads();
        for (int k = 0; k < STEP; k++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    sum[i][j] += from_a[k][me_m + 16 * i] * from_b[k][me_n + 16 * j];
                }
            }
        }
        __syncthreads();
    }
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            store<float>(p, at, at.m0 + me_m + 16 * i, at.n0 + me_n + 16 * j, sum[i][j]);
        }
    }
}

dim3 grid_of(const sy__product &p, int64_t tile_size)
{
    const unsigned more = p.start && !p.by_depth ? (unsigned)p.n_groups : 0; /* ragged ends */
    return dim3(p.M > 0 ? blocks_for(p.M, tile_size) + more : 0, blocks_for(p.N, tile_size),
                p.by_depth ? (unsigned)p.n_groups : 1);
}

template <class C, int TILE, bool TRANS_A, bool TRANS_B>
sy_status run_tensor(sy_stream *stream, const product &about)
{
    const size_t shared_bytes =
        STAGES * (tile<TILE, !TRANS_A>::ELEMS + tile<TILE, TRANS_B>::ELEMS) * sizeof(bf16);
    return launch(stream, "product", grid_of(about.p, TILE), TILE == 128 ? 256 : 128, shared_bytes,
                  tensor_product_kernel<C, TILE, TRANS_A, TRANS_B>, about);
}

/* Large tiles where they still keep every multiprocessor busy. */
template <bool TRANS_A, bool TRANS_B> sy_status run(sy_stream *stream, const product &about)
{
    const sy__product &p = about.p;
    if (p.in == SY_F32) {
        return launch(stream, "product", grid_of(p, 64), 256, 0,
                      plain_product_kernel<TRANS_A, TRANS_B>, about);
    }
    const dim3 large = grid_of(p, 128);
    const int64_t n_large = (int64_t)large.x * large.y * large.z;
    const bool fill = n_large >= 2 * sy__cuda_device_of(stream->dev)->n_sms;
    if (p.out == SY_F32) {
        return fill ? run_tensor<float, 128, TRANS_A, TRANS_B>(stream, about)
                    : run_tensor<float, 64, TRANS_A, TRANS_B>(stream, about);
    }
    return fill ? run_tensor<bf16, 128, TRANS_A, TRANS_B>(stream, about)
                : run_tensor<bf16, 64, TRANS_A, TRANS_B>(stream, about);
}

} // namespace

sy_status sy__cuda_product(sy_stream *stream, const sy__product *p)
{
    product about = {*p, false};
    bool done = false;
    const sy_status st = sy__hopper_product(stream, p, &done);
    if (st != SY_OK || done) {
        return st;
    }
    about.vectors = aligned16(p->a) && aligned16(p->b) && p->lda % 8 == 0 && p->ldb % 8 == 0 &&
                    p->b_group % 8 == 0;
    if (p->trans_a) {
        return p->trans_b ? run<true, true>(stream, about) : run<true, false>(stream, about);
    }
    return p->trans_b ? run<false, true>(stream, about) : run<false, false>(stream, about);
}

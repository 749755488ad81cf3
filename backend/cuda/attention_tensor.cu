/* Attention in bf16 on tensor cores (Dao et al. 2022/2023). A block has four warps; a warp has 16
   rows of scores and keeps them, and what it sums, in registers. Forward and dq: rows are queries,
   and the keys go by in tiles. dk and dv: rows are keys, and the queries go by. So every sum has
   one owner and one order. Heads are padded with zeros to 64 or 128. */
#include "backend/cuda/attention_impl.cuh"
#include "backend/cuda/mma_impl.cuh"

namespace
{

enum { OWN = 64, FORWARD_KEYS = 64, BACKWARD_TILE = 32, TENSOR_PAD = 8 };

template <int D> struct tensor_tile {
    enum { PITCH = D + TENSOR_PAD };
};

/* N rows of one sequence and head into shared memory; zeros from row `end` and column x.D on. */
template <int D, int N>
__device__ void fetch_rows(bf16 *to, const heads<bf16> &x, int64_t sequence_row, int64_t head,
                           int64_t first, int64_t end)
{
    for (int i = (int)threadIdx.x; i < N * D / 8; i += THREADS) {
        const int row = i / (D / 8), d = i % (D / 8) * 8;
        const bool in = first + row < end && d < x.D;
        copy16_async(to + row * tensor_tile<D>::PITCH + d,
                     in ? x.data + (sequence_row + first + row) * x.s_row + head * x.s_head + d
                        : x.data,
                     in ? 16 : 0);
    }
}

/* The fragment of 16 rows from `row` on, depth d .. d + 15. */
template <int D> __device__ void load_rows_a(unsigned out[4], const bf16 *from, int row, int d)
{
    const int lane = (int)threadIdx.x % 32, j = lane / 8, i = lane % 8;
    load_matrices<false>(out, from + (row + j % 2 * 8 + i) * tensor_tile<D>::PITCH + d + j / 2 * 8);
}

/* The fragments of columns `row` .. and `row` + 8 .. where a column is a row in memory. */
template <int D> __device__ void load_rows_b(unsigned out[4], const bf16 *from, int row, int d)
{
    const int lane = (int)threadIdx.x % 32, j = lane / 8, i = lane % 8;
    load_matrices<false>(out, from + (row + j / 2 * 8 + i) * tensor_tile<D>::PITCH + d + j % 2 * 8);
}

/* The fragments of columns d .. and d + 8 .., depth along the rows in memory. */
template <int D> __device__ void load_columns_b(unsigned out[4], const bf16 *from, int row, int d)
{
    const int lane = (int)threadIdx.x % 32, j = lane / 8, i = lane % 8;
    load_matrices<true>(out, from + (row + j % 2 * 8 + i) * tensor_tile<D>::PITCH + d + j / 2 * 8);
}

__device__ inline unsigned two(float low, float high)
{
    return (unsigned)narrow<bf16>(low).bits | (unsigned)narrow<bf16>(high).bits << 16;
}

/* out [16, N] = a b^T over the depth D; N / 8 tiles. */
template <int D, int N>
__device__ void scores(float (*out)[4], const bf16 *a, int row, const bf16 *b)
{
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
        for (int r = 0; r < 4; r++) {
            out[n][r] = 0;
        }
    }
#pragma unroll
    for (int d = 0; d < D; d += 16) {
        unsigned fa[4];
        load_rows_a<D>(fa, a, row, d);
#pragma unroll
        for (int n = 0; n < N; n += 16) {
            unsigned fb[4];
            load_rows_b<D>(fb, b, n, d);
            mma(out[n / 8], fa, fb);
            mma(out[n / 8 + 1], fa, fb + 2);
        }
    }
}

/* out [16, D] += x [16, N] b, x rounded to bf16; b has a row per element of the depth. */
template <int D, int N>
__device__ void accumulate(float (*out)[4], const float (*x)[4], const bf16 *b)
{
#pragma unroll
    for (int k = 0; k < N; k += 16) {
        const float *low = x[k / 8], *high = x[k / 8 + 1];
        const unsigned fa[4] = {two(low[0], low[1]), two(low[2], low[3]), two(high[0], high[1]),
                                two(high[2], high[3])};
#pragma unroll
        for (int d = 0; d < D; d += 16) {
            unsigned fb[4];
            load_columns_b<D>(fb, b, k, d);
            mma(out[d / 8], fa, fb);
            mma(out[d / 8 + 1], fa, fb + 2);
        }
    }
}

/* Rows g and g + 8 of the warp's 16, times a factor each. */
template <int D>
__device__ void store_tile(const float (*from)[4], const heads<bf16> &y, int64_t sequence_row,
                           int64_t head, int64_t first, int64_t end, const float factor[2])
{
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        const int d = 8 * n + lane % 4 * 2;
        for (int r = 0; r < 2; r++) {
            const int64_t row = first + lane / 4 + 8 * r;
            if (row < end && d < y.D) {
                bf16 *to = y.data + (sequence_row + row) * y.s_row + head * y.s_head + d;
                *(unsigned *)to = two(factor[r] * from[n][2 * r], factor[r] * from[n][2 * r + 1]);
            }
        }
    }
}

__device__ inline float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

__device__ inline float quad_sum(float x)
{
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

/* ---- forward ---- */

template <int D>
__global__ void __launch_bounds__(THREADS)
    tensor_forward_kernel(heads<bf16> q, heads<bf16> k, heads<bf16> v, heads<bf16> o, float *lse,
                          attention_shape s)
{
    SY__DYNAMIC_SHARED(bf16, shared);
    enum { N = FORWARD_KEYS };
    bf16 *tq = shared, *tk = tq + OWN * tensor_tile<D>::PITCH, *tv = tk + N * tensor_tile<D>::PITCH;
    const int64_t b = blockIdx.z, head = blockIdx.y, n_heads = gridDim.y;
    const int64_t first = (int64_t)(gridDim.x - 1 - blockIdx.x) * OWN; /* the longest first */
    const int lane = (int)threadIdx.x % 32, warp_row = (int)threadIdx.x / 32 * 16;
    const int64_t row = first + warp_row + lane / 4; /* and row + 8 */
    float out[D / 8][4] = {}, max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    fetch_rows<D, OWN>(tq, q, b * s.Sq, head, first, s.Sq);
    for (int64_t j0 = 0; j0 < end_of_keys(s, b, first + OWN); j0 += N) {
        float x[N / 8][4];
        __syncthreads();
        fetch_rows<D, N>(tk, k, b * s.Skv, head / s.group, j0, s.Skv);
        fetch_rows<D, N>(tv, v, b * s.Skv, head / s.group, j0, s.Skv);
        copies_commit();
        copies_wait<0>();
        __syncthreads();
        scores<D, N>(x, tq, warp_row, tk);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float tile_max = max[r], tile_sum = 0;
#pragma unroll
            for (int n = 0; n < N / 8; n++) {
                for (int c = 2 * r; c < 2 * r + 2; c++) {
                    const bool seen =
                        sees(s, b, row + 8 * r, j0 + 8 * n + lane % 4 * 2 + c - 2 * r);
                    x[n][c] = seen ? s.scale * x[n][c] : -INFINITY;
                    tile_max = fmaxf(tile_max, x[n][c]);
                }
            }
            tile_max = quad_max(tile_max);
            /* A row of which nothing is seen yet keeps zeros. */
            const bool any = tile_max > -INFINITY;
            const float keep = any ? expf(max[r] - tile_max) : 1;
#pragma unroll
            for (int n = 0; n < N / 8; n++) {
                for (int c = 2 * r; c < 2 * r + 2; c++) {
                    x[n][c] = any ? expf(x[n][c] - tile_max) : 0;
                    tile_sum += x[n][c];
                }
            }
            sum[r] = sum[r] * keep + quad_sum(tile_sum);
            max[r] = tile_max;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                out[n][2 * r] *= keep;
                out[n][2 * r + 1] *= keep;
            }
        }
        accumulate<D, N>(out, x, tv);
    }
    const float factor[2] = {sum[0] > 0 ? 1 / sum[0] : 0, sum[1] > 0 ? 1 / sum[1] : 0};
    for (int r = 0; r < 2; r++) {
        if (lane % 4 == 0 && row + 8 * r < s.Sq) {
            lse[(b * s.Sq + row + 8 * r) * n_heads + head] = max[r] + logf(sum[r]);
        }
    }
    store_tile<D>(out, o, b * s.Sq, head, first + warp_row, s.Sq, factor);
}

/* ---- backward ---- */

/* lse and delta of the queries of a tile, beside it in shared memory. */
struct query_facts {
    float lse, delta;
};

template <int N>
__device__ void fetch_facts(query_facts *to, const float *lse, const float *delta, int64_t n_heads,
                            int64_t sequence_row, int64_t head, int64_t first, int64_t end)
{
    for (int i = (int)threadIdx.x; i < N; i += THREADS) {
        const int64_t at = (sequence_row + first + i) * n_heads + head;
        to[i] = first + i < end ? query_facts{lse[at], delta[at]} : query_facts{0, 0};
    }
}

/* x: q k in, p out; y: dout v in, ds out. */
__device__ inline void turn(float *x, float *y, bool seen, const query_facts &of, float scale)
{
    *x = seen ? expf(scale * *x - of.lse) : 0;
    *y = scale * *x * (*y - of.delta);
}

template <int D>
__global__ void __launch_bounds__(THREADS)
    tensor_query_grad_kernel(heads<bf16> q, heads<bf16> k, heads<bf16> v, heads<bf16> dout,
                             heads<bf16> dq, const float *lse, const float *delta,
                             attention_shape s)
{
    SY__DYNAMIC_SHARED(bf16, shared);
    __shared__ query_facts facts[OWN];
    enum { N = BACKWARD_TILE, P = tensor_tile<D>::PITCH };
    bf16 *tq = shared, *tdo = tq + OWN * P, *tk = tdo + OWN * P, *tv = tk + N * P;
    const int64_t b = blockIdx.z, head = blockIdx.y, n_heads = gridDim.y;
    const int64_t first = (int64_t)(gridDim.x - 1 - blockIdx.x) * OWN;
    const int lane = (int)threadIdx.x % 32, warp_row = (int)threadIdx.x / 32 * 16;
    const float one[2] = {1, 1};
    float out[D / 8][4] = {};
    fetch_rows<D, OWN>(tq, q, b * s.Sq, head, first, s.Sq);
    fetch_rows<D, OWN>(tdo, dout, b * s.Sq, head, first, s.Sq);
    fetch_facts<OWN>(facts, lse, delta, n_heads, b * s.Sq, head, first, s.Sq);
    for (int64_t j0 = 0; j0 < end_of_keys(s, b, first + OWN); j0 += N) {
        float x[N / 8][4], y[N / 8][4];
        __syncthreads();
        fetch_rows<D, N>(tk, k, b * s.Skv, head / s.group, j0, s.Skv);
        fetch_rows<D, N>(tv, v, b * s.Skv, head / s.group, j0, s.Skv);
        copies_commit();
        copies_wait<0>();
        __syncthreads();
        scores<D, N>(x, tq, warp_row, tk);
        scores<D, N>(y, tdo, warp_row, tv);
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
#pragma unroll
            for (int c = 0; c < 4; c++) {
                const int i = warp_row + lane / 4 + c / 2 * 8, j = 8 * n + lane % 4 * 2 + c % 2;
                turn(&x[n][c], &y[n][c], sees(s, b, first + i, j0 + j), facts[i], s.scale);
            }
        }
        accumulate<D, N>(out, y, tk);
    }
    store_tile<D>(out, dq, b * s.Sq, head, first + warp_row, s.Sq, one);
}

template <int D>
__global__ void __launch_bounds__(THREADS)
    tensor_key_grad_kernel(heads<bf16> q, heads<bf16> k, heads<bf16> v, heads<bf16> dout,
                           heads<bf16> dk, heads<bf16> dv, const float *lse, const float *delta,
                           int64_t n_heads, attention_shape s)
{
    SY__DYNAMIC_SHARED(bf16, shared);
    __shared__ query_facts facts[BACKWARD_TILE];
    enum { N = BACKWARD_TILE, P = tensor_tile<D>::PITCH };
    bf16 *tk = shared, *tv = tk + OWN * P, *tq = tv + OWN * P, *tdo = tq + N * P;
    const int64_t b = blockIdx.z, kv = blockIdx.y, first = (int64_t)blockIdx.x * OWN;
    const int lane = (int)threadIdx.x % 32, warp_row = (int)threadIdx.x / 32 * 16;
    const float one[2] = {1, 1};
    float out_k[D / 8][4] = {}, out_v[D / 8][4] = {};
    fetch_rows<D, OWN>(tk, k, b * s.Skv, kv, first, s.Skv);
    fetch_rows<D, OWN>(tv, v, b * s.Skv, kv, first, s.Skv);
    for (int64_t head = kv * s.group; head < (kv + 1) * s.group; head++) {
        for (int64_t i0 = first; i0 < s.Sq; i0 += N) { /* queries before see none of the keys */
            float x[N / 8][4], y[N / 8][4];
            __syncthreads();
            fetch_rows<D, N>(tq, q, b * s.Sq, head, i0, s.Sq);
            fetch_rows<D, N>(tdo, dout, b * s.Sq, head, i0, s.Sq);
            fetch_facts<N>(facts, lse, delta, n_heads, b * s.Sq, head, i0, s.Sq);
            copies_commit();
            copies_wait<0>();
            __syncthreads();
            scores<D, N>(x, tk, warp_row, tq);
            scores<D, N>(y, tv, warp_row, tdo);
#pragma unroll
            for (int n = 0; n < N / 8; n++) {
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    const int j = warp_row + lane / 4 + c / 2 * 8, i = 8 * n + lane % 4 * 2 + c % 2;
                    turn(&x[n][c], &y[n][c], sees(s, b, i0 + i, first + j), facts[i], s.scale);
                }
            }
            accumulate<D, N>(out_v, x, tdo);
            accumulate<D, N>(out_k, y, tq);
        }
    }
    store_tile<D>(out_k, dk, b * s.Skv, kv, first + warp_row, s.Skv, one);
    store_tile<D>(out_v, dv, b * s.Skv, kv, first + warp_row, s.Skv, one);
}

/* ---- the host's side ---- */

bool fits(const sy_tensor &t)
{
    return t.dtype == SY_BF16 && aligned16(t.data) && t.shape[2] % 8 == 0 && t.shape[2] <= 128 &&
           t.stride[0] % 8 == 0 && t.stride[1] % 8 == 0;
}

template <int D> size_t tensor_bytes(int rows)
{
    return (size_t)rows * tensor_tile<D>::PITCH * sizeof(bf16);
}

template <int D>
sy_status forward(sy_stream *stream, const sy_attention_args *args, const attention_shape &s)
{
    return launch(stream, "attention",
                  dim3(blocks_for(s.Sq, OWN), (unsigned)args->q.shape[1], (unsigned)args->B),
                  THREADS, tensor_bytes<D>(OWN + 2 * FORWARD_KEYS), tensor_forward_kernel<D>,
                  heads_of<bf16>(args->q), heads_of<bf16>(args->k), heads_of<bf16>(args->v),
                  heads_of<bf16>(args->o), data<float>(args->lse), s);
}

template <int D>
sy_status backward(sy_stream *stream, const sy_attention_backward_args *args, const float *delta,
                   const attention_shape &s)
{
    sy_status st = SY_OK;
    const unsigned tiles = blocks_for(s.Sq, OWN), B = (unsigned)args->B;
    const size_t bytes = tensor_bytes<D>(2 * OWN + 2 * BACKWARD_TILE);
    const heads<bf16> q = heads_of<bf16>(args->q), k = heads_of<bf16>(args->k);
    const heads<bf16> v = heads_of<bf16>(args->v), dout = heads_of<bf16>(args->dout);
    const float *lse = data<float>(args->lse);
    SY_TRY(launch(stream, "attention_backward", dim3(tiles, (unsigned)args->q.shape[1], B), THREADS,
                  bytes, tensor_query_grad_kernel<D>, q, k, v, dout, heads_of<bf16>(args->dq), lse,
                  delta, s));
    SY_TRY(launch(stream, "attention_backward", dim3(tiles, (unsigned)args->k.shape[1], B), THREADS,
                  bytes, tensor_key_grad_kernel<D>, q, k, v, dout, heads_of<bf16>(args->dk),
                  heads_of<bf16>(args->dv), lse, delta, args->q.shape[1], s));
cleanup:
    return st;
}

} // namespace

bool sy__cuda_attention_fits(const sy_attention_args *args)
{
    return fits(args->q) && fits(args->k) && fits(args->v) && fits(args->o);
}

sy_status sy__cuda_attention_tensor(sy_stream *stream, const sy_attention_args *args)
{
    const attention_shape s = shape_of_attention(args->q, args->k, args->v, args->doc, args->B,
                                                 args->scale, data<int32_t>(args->q_start));
    return widest(s) <= 64 ? forward<64>(stream, args, s) : forward<128>(stream, args, s);
}

bool sy__cuda_attention_backward_fits(const sy_attention_backward_args *args)
{
    return fits(args->q) && fits(args->k) && fits(args->v) && fits(args->dout) && fits(args->dq) &&
           fits(args->dk) && fits(args->dv);
}

sy_status sy__cuda_attention_tensor_backward(sy_stream *stream,
                                             const sy_attention_backward_args *args,
                                             const float *delta)
{
    const attention_shape s =
        shape_of_attention(args->q, args->k, args->v, args->doc, args->B, args->scale, nullptr);
    return widest(s) <= 64 ? backward<64>(stream, args, delta, s)
                           : backward<128>(stream, args, delta, s);
}

/* RMSNorm (Zhang & Sennrich 2019), rotary positions (Su et al. 2021) and the embedding. A row of a
   norm belongs to one warp where it is short, to one block where it is long. */
#include "backend/cuda/kernel_impl.cuh"

namespace
{

enum { THREADS = 256, SHORT_ROW = 1024, PARTS = 512 };

struct view3 {
    int64_t G, s0, s1; /* row (t, g) begins at t * s0 + g * s1 */
};

view3 view(const sy_tensor &t)
{
    return {t.shape[1], t.stride[0], t.stride[1]};
}

__device__ inline int64_t row_of(const view3 &v, int64_t row)
{
    return row / v.G * v.s0 + row % v.G * v.s1;
}

template <bool SHORT> __device__ float row_sum(float x)
{
    return SHORT ? warp_sum(x) : block_sum(x);
}

/* ---- forward ---- */

template <class T, bool SHORT>
__global__ void rmsnorm_kernel(const T *x, view3 vx, const T *w, T *y, view3 vy, float *rstd,
                               int64_t n_rows, int64_t D, float eps)
{
    const int64_t row = SHORT ? grid_index() / 32 : blockIdx.x;
    const int step = SHORT ? 32 : (int)blockDim.x;
    if (row >= n_rows) {
        return; /* a whole warp */
    }
    const int64_t me = SHORT ? threadIdx.x % 32 : threadIdx.x;
    const T *from = x + row_of(vx, row);
    T *to = y + row_of(vy, row);
    float sum = 0;
    for (int64_t d = me; d < D; d += step) {
        const float v = wide(from[d]);
        sum += v * v;
    }
    const float scale = 1 / sqrtf(row_sum<SHORT>(sum) / (float)D + eps);
    if (me == 0) {
        rstd[row] = scale;
    }
    for (int64_t d = me; d < D; d += step) {
        to[d] = narrow<T>(wide(from[d]) * scale * wide(w[d]));
    }
}

/* ---- backward ---- */

/* With n = x * rstd: dx = rstd * (w dy - n * mean(n w dy)), dw += n dy. A block takes `each` rows
   and leaves its part of dw. */
template <class T>
__global__ void rmsnorm_backward_kernel(const T *x, view3 vx, const T *w, const float *rstd,
                                        const T *dy, view3 vdy, T *dx, view3 vdx, float *part,
                                        int64_t n_rows, int64_t each, int64_t D, float beta)
{
    const int64_t first = (int64_t)blockIdx.x * each;
    const int64_t end = first + each < n_rows ? first + each : n_rows;
    float *mine = part ? part + (int64_t)blockIdx.x * D : nullptr;
    for (int64_t row = first; row < end; row++) {
        const T *from = x + row_of(vx, row), *grad = dy + row_of(vdy, row);
        T *to = dx + row_of(vdx, row);
        const float scale = rstd[row];
        float dot = 0;
        for (int64_t d = threadIdx.x; d < D; d += blockDim.x) {
            dot += wide(from[d]) * scale * wide(w[d]) * wide(grad[d]);
        }
        const float mean = block_sum(dot) / (float)D;
        for (int64_t d = threadIdx.x; d < D; d += blockDim.x) {
            const float n = wide(from[d]) * scale, g = wide(grad[d]);
            const float value = scale * (wide(w[d]) * g - n * mean);
            if (mine) {
                mine[d] = (row == first ? 0 : mine[d]) + n * g;
            }
            to[d] = narrow<T>(beta == 0 ? value : wide(to[d]) + value);
        }
    }
}

/* ---- rope ---- */

template <class T>
__global__ void rope_kernel(T *x, view3 v, const int32_t *pos, const float *table, int64_t n,
                            int64_t half, bool inverse, bool interleaved)
{
    const int64_t i = grid_index();
    if (i >= n) {
        return;
    }
    const int64_t row = i / half, d = i % half;
    const float *angle = table + (int64_t)pos[row / v.G] * 2 * half;
    const float c = angle[d], s = inverse ? -angle[half + d] : angle[half + d];
    T *at = x + row_of(v, row);
    const int64_t first = interleaved ? 2 * d : d, second = interleaved ? 2 * d + 1 : d + half;
    const float lo = wide(at[first]), hi = wide(at[second]);
    at[first] = narrow<T>(lo * c - hi * s);
    at[second] = narrow<T>(hi * c + lo * s);
}

/* ---- embedding ---- */

template <class T>
__global__ void embed_kernel(const T *w, const int32_t *ids, T *y, int64_t n, int64_t H)
{
    const int64_t i = grid_index();
    if (i < n) {
        y[i] = w[(int64_t)ids[i / H] * H + i % H];
    }
}

/* A block of the first token with an id adds the rows of all tokens with it, in their order; the
   others leave. */
template <class T>
__global__ void embed_backward_kernel(const int32_t *ids, const T *dy, float *dw, int64_t n_tokens,
                                      int64_t H)
{
    __shared__ unsigned mine[THREADS / 32];
    const int64_t token = blockIdx.x;
    const int32_t id = ids[token];
    const int64_t h = (int64_t)blockIdx.y * blockDim.x + threadIdx.x;
    int earlier = 0;
    for (int64_t t = threadIdx.x; t < token; t += blockDim.x) {
        earlier += ids[t] == id;
    }
    if (block_sum(earlier) > 0) {
        return; /* the whole block */
    }
    float sum = h < H ? dw[(int64_t)id * H + h] : 0;
    for (int64_t t0 = token; t0 < n_tokens; t0 += blockDim.x) {
        const int64_t t = t0 + threadIdx.x;
        const unsigned same = __ballot_sync(~0u, t < n_tokens && ids[t < n_tokens ? t : 0] == id);
        if (threadIdx.x % 32 == 0) {
            mine[threadIdx.x / 32] = same;
        }
        __syncthreads();
        for (int w = 0; w < THREADS / 32; w++) {
            for (unsigned left = mine[w]; left != 0; left &= left - 1) {
                const int64_t from = t0 + 32 * w + __ffs((int)left) - 1;
                sum += h < H ? wide(dy[from * H + h]) : 0;
            }
        }
        __syncthreads();
    }
    if (h < H) {
        dw[(int64_t)id * H + h] = sum;
    }
}

} // namespace

sy_status sy__cuda_rmsnorm(sy_stream *stream, const sy_rmsnorm_args *args)
{
    return by_type(args->x.dtype, [&](auto zero) {
        using T = decltype(zero);
        const int64_t D = args->x.shape[2], n_rows = args->x.shape[0] * args->x.shape[1];
        const bool is_short = D <= SHORT_ROW;
        return launch(stream, "rmsnorm",
                      is_short ? blocks_for(n_rows, THREADS / 32) : (unsigned)n_rows, THREADS, 0,
                      is_short ? rmsnorm_kernel<T, true> : rmsnorm_kernel<T, false>,
                      data<T>(args->x), view(args->x), data<T>(args->w), data<T>(args->y),
                      view(args->y), data<float>(args->rstd), n_rows, D, (float)args->eps);
    });
}

sy_status sy__cuda_rmsnorm_backward(sy_stream *stream, const sy_rmsnorm_backward_args *args)
{
    sy_status st = SY_OK;
    const int64_t D = args->x.shape[2], n_rows = args->x.shape[0] * args->x.shape[1];
    const int64_t each = n_rows / PARTS + 1, n_parts = blocks_for(n_rows, each);
    float *part = args->dw.data ? (float *)stream->workspace : nullptr;
    SY_TRY(require_workspace("rmsnorm_backward", part ? n_parts * D * (int64_t)sizeof *part : 0));
    SY_TRY(by_type(args->x.dtype, [&](auto zero) {
        using T = decltype(zero);
        return launch(stream, "rmsnorm_backward", (unsigned)n_parts, THREADS, 0,
                      rmsnorm_backward_kernel<T>, data<T>(args->x), view(args->x), data<T>(args->w),
                      data<float>(args->rstd), data<T>(args->dy), view(args->dy), data<T>(args->dx),
                      view(args->dx), part, n_rows, each, D, (float)args->beta);
    }));
    if (part) {
        SY_TRY(sy__cuda_total_columns(stream, part, n_parts, D, data<float>(args->dw)));
    }
cleanup:
    return st;
}

sy_status sy__cuda_rope(sy_stream *stream, const sy_rope_args *args)
{
    return by_type(args->x.dtype, [&](auto zero) {
        using T = decltype(zero);
        const int64_t half = args->x.shape[2] / 2;
        const int64_t n = args->x.shape[0] * args->x.shape[1] * half;
        return launch(stream, "rope", blocks_for(n, THREADS), THREADS, 0, rope_kernel<T>,
                      data<T>(args->x), view(args->x), data<int32_t>(args->pos),
                      data<float>(args->table), n, half, args->inverse, args->interleaved);
    });
}

sy_status sy__cuda_embed(sy_stream *stream, const sy_embed_args *args)
{
    return by_type(args->y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const int64_t n = sy_tensor_numel(&args->y);
        return launch(stream, "embed", blocks_for(n, THREADS), THREADS, 0, embed_kernel<T>,
                      data<T>(args->w), data<int32_t>(args->ids), data<T>(args->y), n,
                      args->y.shape[1]);
    });
}

sy_status sy__cuda_embed_backward(sy_stream *stream, const sy_embed_backward_args *args)
{
    return by_type(args->dy.dtype, [&](auto zero) {
        using T = decltype(zero);
        const int64_t n_tokens = args->dy.shape[0], H = args->dy.shape[1];
        return launch(stream, "embed_backward", dim3((unsigned)n_tokens, blocks_for(H, THREADS)),
                      THREADS, 0, embed_backward_kernel<T>, data<int32_t>(args->ids),
                      data<T>(args->dy), data<float>(args->dw), n_tokens, H);
    });
}

/* RMSNorm (Zhang & Sennrich 2019), rotary positions (Su et al. 2021) and the embedding. A row of a
   norm belongs to one warp where it is short, to one block where it is long. */
#include "backend/cuda/kernel_impl.cuh"

namespace
{

enum {
    THREADS = 256,
    MOST_THREADS = 1024,
    BACK_THREADS = 896,
    SHORT_ROW = 1024,
    PARTS = 512,
    SHORT_PARTS = 2048
};

struct view3 {
    unsigned G;
    int64_t s0, s1; /* row (t, g) begins at t * s0 + g * s1 */
};

view3 view(const sy_tensor &t)
{
    return {(unsigned)t.shape[1], t.stride[0], t.stride[1]};
}

struct place {
    unsigned t, g;
};

/* There are fewer rows than blocks in a grid. */
__device__ inline place place_of(unsigned row, unsigned G)
{
    return {row / G, row % G};
}

__device__ inline int64_t offset(const view3 &v, const place &at)
{
    return at.t * v.s0 + at.g * v.s1;
}

/* N elements at once: 16 bytes, or one where rows do not begin and end at 16 or are longer than
   what a block has threads for: in bf16 8192, backward 7168 (with its sums in registers). */
template <class T, int N> struct alignas(N * sizeof(T)) group {
    T x[N];
};

template <int N, class T> __device__ group<T, N> load(const T *row, int i)
{
    return reinterpret_cast<const group<T, N> *>(row)[i];
}

template <class T, int N> __device__ void store(T *row, int i, const group<T, N> &v)
{
    reinterpret_cast<group<T, N> *>(row)[i] = v;
}

template <class T> bool rows_pack(const sy_tensor &t)
{
    return !t.data || (packs<T>(t.data, t.shape[2], t.stride[0]) && t.stride[1] % pack<T>::N == 0);
}

/* A row belongs to a warp (SHORT) or a block. */
template <bool SHORT> __device__ float row_sum(float x)
{
    return SHORT ? warp_sum(x) : block_sum(x);
}

/* ---- forward ---- */

template <class T> struct norm_operands {
    const T *x, *add, *w; /* add: null, nothing to add */
    T *sum, *y;
    float *rstd;
    view3 vx, vadd, vsum, vy;
    unsigned n_rows;
    int D;
    float eps, factor;
};

/* Group i of what is normed: x, or the sum, which is stored and goes on as it is stored. */
template <int N, class T>
__device__ group<T, N> take(const T *x, const T *add, T *sum, float factor, int i)
{
    group<T, N> v = load<N>(x, i);
    if (add) {
        const group<T, N> more = load<N>(add, i);
#pragma unroll
        for (int k = 0; k < N; k++) {
            v.x[k] = narrow<T>(wide(v.x[k]) + factor * wide(more.x[k]));
        }
        store(sum, i, v);
    }
    return v;
}

template <class T, int N> __device__ float squares(const group<T, N> &v)
{
    float sum = 0;
#pragma unroll
    for (int k = 0; k < N; k++) {
        sum += wide(v.x[k]) * wide(v.x[k]);
    }
    return sum;
}

template <class T, int N>
__device__ void give(T *y, const T *weight, int i, group<T, N> v, float scale)
{
    const group<T, N> w = load<N>(weight, i);
#pragma unroll
    for (int k = 0; k < N; k++) {
        v.x[k] = narrow<T>(wide(v.x[k]) * scale * wide(w.x[k]));
    }
    store(y, i, v);
}

/* A thread has one group of a row, which stays in its registers between the two passes. Single
   elements may be more than there are threads: those beyond are read again. */
template <class T, int N, bool SHORT>
__global__ void __launch_bounds__(SHORT ? THREADS : MOST_THREADS) rmsnorm_kernel(norm_operands<T> a)
{
    const unsigned row = SHORT ? (unsigned)(grid_index() / 32) : blockIdx.x;
    if (row >= a.n_rows) {
        return; /* a whole warp */
    }
    const int me = (int)(SHORT ? threadIdx.x % 32 : threadIdx.x), step = (int)blockDim.x;
    const int n = a.D / N;
    constexpr bool LOOPS = N == 1 && !SHORT;
    const place at = place_of(row, a.vx.G);
    const T *x = a.x + offset(a.vx, at), *add = a.add ? a.add + offset(a.vadd, at) : nullptr;
    T *sum = a.add ? a.sum + offset(a.vsum, at) : nullptr, *y = a.y + offset(a.vy, at);
    group<T, N> kept = {};
    if (me < n) {
        kept = take<N>(x, add, sum, a.factor, me);
    }
    float total = squares(kept);
    for (int i = me + step; LOOPS && i < n; i += step) {
        total += squares(take<N>(x, add, sum, a.factor, i));
    }
    const float scale = 1 / sqrtf(row_sum<SHORT>(total) / (float)a.D + a.eps);
    if (me == 0) {
        a.rstd[row] = scale;
    }
    if (me < n) {
        give(y, a.w, me, kept, scale);
    }
    for (int i = me + step; LOOPS && i < n; i += step) {
        give(y, a.w, i, load<N>(add ? sum : x, i), scale);
    }
}

/* ---- backward ---- */

template <class T> struct norm_backward_operands {
    const T *x, *w;
    const float *rstd;
    const T *dy;
    T *dx;
    float *part; /* [pieces, D]; null: no dw is wanted */
    view3 vx, vdy, vdx;
    unsigned n_rows, each;
    int D;
    float beta;
};

/* Sum of n w dy, n = x * scale. */
template <class T, int N>
__device__ float slope(const group<T, N> &x, const group<T, N> &w, const group<T, N> &dy,
                       float scale)
{
    float sum = 0;
#pragma unroll
    for (int k = 0; k < N; k++) {
        sum += wide(x.x[k]) * scale * wide(w.x[k]) * wide(dy.x[k]);
    }
    return sum;
}

/* Group i of dx = beta dx + scale * (w dy - n * mean); dw += n dy. */
template <class T, int N>
__device__ void finish(T *dx, int i, const group<T, N> &x, const group<T, N> &w,
                       const group<T, N> &dy, float scale, float mean, float beta, float *dw)
{
    group<T, N> v = {};
    if (beta != 0) {
        v = load<N>(dx, i);
    }
#pragma unroll
    for (int k = 0; k < N; k++) {
        const float n = wide(x.x[k]) * scale, g = wide(dy.x[k]);
        const float value = scale * (wide(w.x[k]) * g - n * mean);
        dw[k] += n * g;
        v.x[k] = narrow<T>(beta == 0 ? value : wide(v.x[k]) + value);
    }
    store(dx, i, v);
}

/* With n = x * rstd: dx = rstd * (w dy - n * mean(n w dy)), dw += n dy. A warp or block takes
   `each` rows and leaves its part of dw, which lies in registers like the row. */
template <class T, int N, bool SHORT>
__global__ void __launch_bounds__(SHORT ? THREADS : BACK_THREADS)
    rmsnorm_backward_kernel(norm_backward_operands<T> a)
{
    const unsigned piece = SHORT ? (unsigned)(grid_index() / 32) : blockIdx.x;
    const unsigned first = piece * a.each;
    const unsigned end = first + a.each < a.n_rows ? first + a.each : a.n_rows;
    const int me = (int)(SHORT ? threadIdx.x % 32 : threadIdx.x), step = (int)blockDim.x;
    const int n = a.D / N;
    constexpr bool LOOPS = N == 1 && !SHORT;
    float *part = a.part ? a.part + (int64_t)piece * a.D : nullptr;
    group<T, N> x = {}, w = {}, dy = {};
    group<float, N> dw = {};
    if (me < n) {
        w = load<N>(a.w, me);
    }
    for (unsigned row = first; row < end; row++) {
        const place at = place_of(row, a.vx.G);
        const T *from = a.x + offset(a.vx, at), *grad = a.dy + offset(a.vdy, at);
        T *to = a.dx + offset(a.vdx, at);
        const float scale = a.rstd[row];
        if (me < n) {
            x = load<N>(from, me);
            dy = load<N>(grad, me);
        }
        float dot = slope(x, w, dy, scale);
        for (int i = me + step; LOOPS && i < n; i += step) {
            dot += slope(load<N>(from, i), load<N>(a.w, i), load<N>(grad, i), scale);
        }
        const float mean = row_sum<SHORT>(dot) / (float)a.D;
        if (me < n) {
            finish(to, me, x, w, dy, scale, mean, a.beta, dw.x);
        }
        for (int i = me + step; LOOPS && i < n; i += step) {
            group<float, N> sum = {};
            if (part && row > first) {
                sum = load<N>(part, i);
            }
            finish(to, i, load<N>(from, i), load<N>(a.w, i), load<N>(grad, i), scale, mean, a.beta,
                   sum.x);
            if (part) {
                store(part, i, sum);
            }
        }
    }
    if (part && first < end && me < n) {
        store(part, me, dw);
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
    T *at = x + offset(v, place_of((unsigned)row, v.G));
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

/* One warp for each of n rows whose groups it has lanes for, else a block as wide as a row. */
template <int N> struct norm_grid {
    bool is_short;
    int32_t threads;
    unsigned blocks;
    norm_grid(int64_t n, int64_t D, int64_t most)
    {
        const int64_t wanted = (D / N + 31) / 32 * 32;
        is_short = wanted <= 32;
        threads = is_short ? THREADS : (int32_t)(wanted < most ? wanted : most);
        blocks = is_short ? blocks_for(n, THREADS / 32) : (unsigned)n;
    }
};

template <class T, int N> sy_status norm(sy_stream *stream, const sy_rmsnorm_args *args)
{
    const int64_t D = args->x.shape[2], n_rows = args->x.shape[0] * args->x.shape[1];
    const norm_grid<N> grid(n_rows, D, MOST_THREADS);
    const norm_operands<T> a = {data<T>(args->x),   data<T>(args->add), data<T>(args->w),
                                data<T>(args->sum), data<T>(args->y),   data<float>(args->rstd),
                                view(args->x),      view(args->add),    view(args->sum),
                                view(args->y),      (unsigned)n_rows,   (int)D,
                                (float)args->eps,   (float)args->factor};
    return launch(stream, "rmsnorm", grid.blocks, grid.threads, 0,
                  grid.is_short ? rmsnorm_kernel<T, N, true> : rmsnorm_kernel<T, N, false>, a);
}

template <class T, int N>
sy_status norm_backward(sy_stream *stream, const sy_rmsnorm_backward_args *args, float *part,
                        int64_t n_parts, int64_t each)
{
    const int64_t D = args->x.shape[2], n_rows = args->x.shape[0] * args->x.shape[1];
    const norm_grid<N> grid(n_parts, D, BACK_THREADS);
    const norm_backward_operands<T> a = {
        data<T>(args->x),  data<T>(args->w),  data<float>(args->rstd),
        data<T>(args->dy), data<T>(args->dx), part,
        view(args->x),     view(args->dy),    view(args->dx),
        (unsigned)n_rows,  (unsigned)each,    (int)D,
        (float)args->beta};
    return launch(stream, "rmsnorm_backward", grid.blocks, grid.threads, 0,
                  grid.is_short ? rmsnorm_backward_kernel<T, N, true>
                                : rmsnorm_backward_kernel<T, N, false>,
                  a);
}

} // namespace

sy_status sy__cuda_rmsnorm(sy_stream *stream, const sy_rmsnorm_args *args)
{
    return by_type(args->x.dtype, [&](auto zero) {
        using T = decltype(zero);
        const bool fits = args->x.shape[2] <= MOST_THREADS * pack<T>::N &&
                          aligned16(args->w.data) && rows_pack<T>(args->x) &&
                          rows_pack<T>(args->add) && rows_pack<T>(args->sum) &&
                          rows_pack<T>(args->y);
        return fits ? norm<T, pack<T>::N>(stream, args) : norm<T, 1>(stream, args);
    });
}

sy_status sy__cuda_rmsnorm_backward(sy_stream *stream, const sy_rmsnorm_backward_args *args)
{
    sy_status st = SY_OK;
    const int64_t D = args->x.shape[2], n_rows = args->x.shape[0] * args->x.shape[1];
    const int64_t most = D <= SHORT_ROW ? SHORT_PARTS : PARTS;
    const int64_t room = SY_WORKSPACE_BYTES / (int64_t)sizeof(float) / (D > 0 ? D : 1);
    const int64_t each = n_rows / (most < room ? most : room > 0 ? room : 1) + 1;
    const int64_t n_parts = blocks_for(n_rows, each);
    float *part = args->dw.data ? (float *)stream->workspace : nullptr;
    SY_TRY(require_workspace("rmsnorm_backward", part ? n_parts * D * (int64_t)sizeof *part : 0));
    SY_TRY(by_type(args->x.dtype, [&](auto zero) {
        using T = decltype(zero);
        const bool fits = args->x.shape[2] <= BACK_THREADS * pack<T>::N &&
                          aligned16(args->w.data) && rows_pack<T>(args->x) &&
                          rows_pack<T>(args->dy) && rows_pack<T>(args->dx);
        return fits ? norm_backward<T, pack<T>::N>(stream, args, part, n_parts, each)
                    : norm_backward<T, 1>(stream, args, part, n_parts, each);
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

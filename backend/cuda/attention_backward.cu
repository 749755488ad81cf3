/* Attention backward (Dao et al. 2022): with p = exp(score - lse) and delta = <dout, o>, ds = scale
   * p (<dout, v> - delta). Two kernels, so that every sum has one owner and one order: a block has
   32 queries and walks the keys for dq, or 32 keys and walks heads and queries for dk and dv. */
#include "backend/cuda/attention_impl.cuh"

namespace
{

/* delta[row, head], one warp each. */
template <class T>
__global__ void delta_kernel(heads<T> o, heads<T> dout, float *delta, int64_t n, int64_t n_heads,
                             int64_t D)
{
    const int64_t i = grid_index() / 32;
    float sum = 0;
    for (int64_t d = threadIdx.x % 32; i < n && d < D; d += 32) {
        const int64_t row = i / n_heads, head = i % n_heads;
        sum += wide(o.data[row * o.s_row + head * o.s_head + d]) *
               wide(dout.data[row * dout.s_row + head * dout.s_head + d]);
    }
    sum = warp_sum(sum);
    if (i < n && threadIdx.x % 32 == 0) {
        delta[i] = sum;
    }
}

struct of_queries {
    const float *lse, *delta; /* [rows, n_heads] */
    int64_t n_heads;
};

/* p and ds of one query and key, from their rows. */
struct score_grad {
    float p, ds;
};

__device__ inline score_grad grad_of(const attention_shape &s, const of_queries &of, int64_t b,
                                     int64_t head, int64_t i, int64_t j, const float *q,
                                     const float *k, const float *dout, const float *v)
{
    if (!sees(s, b, i, j)) {
        return {0, 0};
    }
    const int64_t at = (b * s.Sq + i) * of.n_heads + head;
    const float p = expf(s.scale * dot_rows(q, k, s.D) - of.lse[at]);
    return {p, s.scale * p * (dot_rows(dout, v, s.D_v) - of.delta[at])};
}

/* to[row] += sum over j of weight[row][j] x[j], or weight[j][row], rows of D; each thread has its
 * columns. */
template <bool TRANSPOSED>
__device__ void add_products(float *to, const float (*weight)[ROWS + 1], const float *x, int64_t D,
                             int64_t P)
{
    const int row = (int)threadIdx.x / PER_ROW, part = (int)threadIdx.x % PER_ROW;
    for (int64_t d = part; d < D; d += PER_ROW) {
        float sum = to[row * P + d];
        for (int j = 0; j < ROWS; j++) {
            sum += (TRANSPOSED ? weight[j][row] : weight[row][j]) * x[j * P + d];
        }
        to[row * P + d] = sum;
    }
}

template <class T>
__global__ void __launch_bounds__(THREADS)
    query_grad_kernel(heads<T> q, heads<T> k, heads<T> v, heads<T> dout, heads<T> dq, of_queries of,
                      attention_shape s)
{
    SY__DYNAMIC_SHARED(float, shared);
    __shared__ float ds[ROWS][ROWS + 1];
    const int64_t b = blockIdx.z, head = blockIdx.y, first = (int64_t)blockIdx.x * ROWS;
    const int64_t P = pitch(s);
    float *tq = shared, *tdo = tq + ROWS * P, *tk = tdo + ROWS * P, *tv = tk + ROWS * P;
    float *out = tv + ROWS * P;
    load_rows(tq, q, b * s.Sq, head, first, s.Sq, s);
    load_rows(tdo, dout, b * s.Sq, head, first, s.Sq, s);
    clear_rows(out, s);
    for (int64_t j0 = 0; j0 < end_of_keys(s, b, first + ROWS); j0 += ROWS) {
        __syncthreads();
        load_rows(tk, k, b * s.Skv, head / s.group, j0, s.Skv, s);
        load_rows(tv, v, b * s.Skv, head / s.group, j0, s.Skv, s);
        __syncthreads();
        for (int n = (int)threadIdx.x; n < ROWS * ROWS; n += THREADS) {
            const int i = n / ROWS, j = n % ROWS;
            ds[i][j] = grad_of(s, of, b, head, first + i, j0 + j, tq + i * P, tk + j * P,
                               tdo + i * P, tv + j * P)
                           .ds;
        }
        __syncthreads();
        add_products<false>(out, ds, tk, s.D, P);
    }
    __syncthreads();
    store_rows(out, dq, b * s.Sq, head, first, s.Sq, s);
}

template <class T>
__global__ void __launch_bounds__(THREADS)
    key_grad_kernel(heads<T> q, heads<T> k, heads<T> v, heads<T> dout, heads<T> dk, heads<T> dv,
                    of_queries of, attention_shape s)
{
    SY__DYNAMIC_SHARED(float, shared);
    __shared__ float p[ROWS][ROWS + 1], ds[ROWS][ROWS + 1];
    const int64_t b = blockIdx.z, kv = blockIdx.y, first = (int64_t)blockIdx.x * ROWS;
    const int64_t P = pitch(s);
    float *tk = shared, *tv = tk + ROWS * P, *tq = tv + ROWS * P, *tdo = tq + ROWS * P;
    float *out_k = tdo + ROWS * P, *out_v = out_k + ROWS * P;
    load_rows(tk, k, b * s.Skv, kv, first, s.Skv, s);
    load_rows(tv, v, b * s.Skv, kv, first, s.Skv, s);
    clear_rows(out_k, s);
    clear_rows(out_v, s);
    for (int64_t head = kv * s.group; head < (kv + 1) * s.group; head++) {
        for (int64_t i0 = first; i0 < s.Sq; i0 += ROWS) { /* queries before see none of the keys */
            __syncthreads();
            load_rows(tq, q, b * s.Sq, head, i0, s.Sq, s);
            load_rows(tdo, dout, b * s.Sq, head, i0, s.Sq, s);
            __syncthreads();
            for (int n = (int)threadIdx.x; n < ROWS * ROWS; n += THREADS) {
                const int i = n / ROWS, j = n % ROWS;
                const score_grad g = grad_of(s, of, b, head, i0 + i, first + j, tq + i * P,
                                             tk + j * P, tdo + i * P, tv + j * P);
                p[i][j] = g.p;
                ds[i][j] = g.ds;
            }
            __syncthreads();
            add_products<true>(out_v, p, tdo, s.D_v, P);
            add_products<true>(out_k, ds, tq, s.D, P);
        }
    }
    __syncthreads();
    store_rows(out_k, dk, b * s.Skv, kv, first, s.Skv, s);
    store_rows(out_v, dv, b * s.Skv, kv, first, s.Skv, s);
}

template <class T>
sy_status backward(sy_stream *stream, const sy_attention_backward_args *args,
                   const attention_shape &s)
{
    sy_status st = SY_OK;
    const int64_t n_heads = args->q.shape[1], n = args->q.shape[0] * n_heads, D = widest(s);
    const unsigned tiles = blocks_for(s.Sq, ROWS), B = (unsigned)args->B;
    const heads<T> q = heads_of<T>(args->q), k = heads_of<T>(args->k), v = heads_of<T>(args->v);
    const heads<T> dout = heads_of<T>(args->dout);
    float *delta = (float *)stream->workspace;
    const of_queries of = {data<float>(args->lse), delta, n_heads};
    SY_TRY(require_workspace("attention_backward", n * (int64_t)sizeof *delta));
    SY_TRY(launch(stream, "attention_backward", blocks_for(n, THREADS / 32), THREADS, 0,
                  delta_kernel<T>, heads_of<T>(args->o), dout, delta, n, n_heads, s.D_v));
    if (sy__cuda_attention_backward_fits(args)) {
        SY_TRY(sy__cuda_attention_tensor_backward(stream, args, delta));
        goto cleanup;
    }
    SY_TRY(require_shared("attention_backward", stream, 6 * tile_bytes(D), D));
    SY_TRY(launch(stream, "attention_backward", dim3(tiles, (unsigned)n_heads, B), THREADS,
                  5 * tile_bytes(D), query_grad_kernel<T>, q, k, v, dout, heads_of<T>(args->dq), of,
                  s));
    SY_TRY(launch(stream, "attention_backward", dim3(tiles, (unsigned)args->k.shape[1], B), THREADS,
                  6 * tile_bytes(D), key_grad_kernel<T>, q, k, v, dout, heads_of<T>(args->dk),
                  heads_of<T>(args->dv), of, s));
cleanup:
    return st;
}

} // namespace

sy_status sy__cuda_attention_backward(sy_stream *stream, const sy_attention_backward_args *args)
{
    sy_status st = SY_OK;
    bool done = false;
    if (args->q.shape[0] == 0) {
        return SY_OK;
    }
    SY_TRY(sy__cudnn_attention_backward(stream, args, &done));
    if (done) {
        return SY_OK;
    }
    SY_TRY(by_type(args->q.dtype, [&](auto zero) {
        using T = decltype(zero);
        const attention_shape s =
            shape_of_attention(args->q, args->k, args->v, args->doc, args->B, args->scale, nullptr);
        return backward<T>(stream, args, s);
    }));
cleanup:
    return st;
}

/* Causal grouped-query attention, forward (Dao et al. 2022), in fp32 and for what the tensor-core
   kernels do not take: a block has 32 queries of one head and
   walks the keys in tiles of 32, keeping the running maximum and sum of each query. */
#include "backend/cuda/attention_impl.cuh"

namespace
{

template <class T>
__global__ void __launch_bounds__(THREADS)
    attention_kernel(heads<T> q, heads<T> k, heads<T> v, heads<T> o, float *lse, attention_shape s)
{
    SY__DYNAMIC_SHARED(float, shared);
    __shared__ float score[ROWS][ROWS + 1];
    const int64_t b = blockIdx.z, head = blockIdx.y, first = (int64_t)blockIdx.x * ROWS;
    const int64_t n_heads = gridDim.y, P = pitch(s);
    float *tq = shared, *tk = tq + ROWS * P, *tv = tk + ROWS * P, *out = tv + ROWS * P;
    const int row = (int)threadIdx.x / PER_ROW, part = (int)threadIdx.x % PER_ROW;
    float max = -INFINITY, sum = 0;
    load_rows(tq, q, b * s.Sq, head, first, s.Sq, s);
    clear_rows(out, s);
    for (int64_t j0 = 0; j0 < end_of_keys(s, b, first + ROWS); j0 += ROWS) {
        __syncthreads();
        load_rows(tk, k, b * s.Skv, head / s.group, j0, s.Skv, s);
        load_rows(tv, v, b * s.Skv, head / s.group, j0, s.Skv, s);
        __syncthreads();
        float tile_max = max;
        for (int j = part; j < ROWS; j += PER_ROW) {
            const bool seen = sees(s, b, first + row, j0 + j);
            const float x = seen ? s.scale * dot_rows(tq + row * P, tk + j * P, s.D) : -INFINITY;
            score[row][j] = x;
            tile_max = fmaxf(tile_max, x);
        }
        for (int by = 1; by < PER_ROW; by *= 2) {
            tile_max = fmaxf(tile_max, __shfl_xor_sync(~0u, tile_max, by));
        }
        /* A row of which nothing is seen yet keeps zeros. */
        const float keep = tile_max > -INFINITY ? expf(max - tile_max) : 1;
        float tile_sum = 0;
        for (int j = part; j < ROWS; j += PER_ROW) {
            const float p = tile_max > -INFINITY ? expf(score[row][j] - tile_max) : 0;
            score[row][j] = p;
            tile_sum += p;
        }
        for (int by = 1; by < PER_ROW; by *= 2) {
            tile_sum += __shfl_xor_sync(~0u, tile_sum, by);
        }
        __syncwarp(); /* the row's scores are those of four lanes of one warp */
        sum = sum * keep + tile_sum;
        max = tile_max;
        for (int64_t d = part; d < s.D_v; d += PER_ROW) {
            float x = out[row * P + d] * keep;
            for (int j = 0; j < ROWS; j++) {
                x += score[row][j] * tv[j * P + d];
            }
            out[row * P + d] = x;
        }
    }
    for (int64_t d = part; d < s.D_v; d += PER_ROW) {
        out[row * P + d] = sum > 0 ? out[row * P + d] / sum : 0;
    }
    if (part == 0 && first + row < s.Sq) {
        lse[(b * s.Sq + first + row) * n_heads + head] = max + logf(sum);
    }
    __syncthreads();
    store_rows(out, o, b * s.Sq, head, first, s.Sq, s);
}

} // namespace

sy_status sy__cuda_attention(sy_stream *stream, const sy_attention_args *args)
{
    const int64_t B = args->B, n_heads = args->q.shape[1];
    const int64_t D = args->q.shape[2] > args->v.shape[2] ? args->q.shape[2] : args->v.shape[2];
    const size_t shared_bytes = 4 * tile_bytes(D);
    sy_status st = SY_OK;
    if (sy_tensor_numel(&args->q) == 0) {
        return SY_OK;
    }
    bool done = false;
    SY_TRY(sy__cudnn_attention(stream, args, &done));
    if (done) {
        return SY_OK;
    }
    if (sy__cuda_attention_fits(args)) {
        return sy__cuda_attention_tensor(stream, args);
    }
    SY_TRY(require_shared("attention", stream, shared_bytes, D));
    SY_TRY(by_type(args->q.dtype, [&](auto zero) {
        using T = decltype(zero);
        const attention_shape s = shape_of_attention(args->q, args->k, args->v, args->doc, args->B,
                                                     args->scale, data<int32_t>(args->q_start));
        return launch(stream, "attention",
                      dim3(blocks_for(s.Sq, ROWS), (unsigned)n_heads, (unsigned)B), THREADS,
                      shared_bytes, attention_kernel<T>, heads_of<T>(args->q), heads_of<T>(args->k),
                      heads_of<T>(args->v), heads_of<T>(args->o), data<float>(args->lse), s);
    }));
cleanup:
    return st;
}

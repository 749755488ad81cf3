/* Row permutations: copies, 16 bytes at a time where rows allow it, and the weighted sum of a
   token's rows. */
#include "backend/cuda/kernel_impl.cuh"

namespace
{

enum { THREADS = 256 };

/* Rows of n_units units of 1 to 16 bytes; a stride in units. */
template <class U>
__global__ void gather_kernel(const U *x, int64_t stride, const int32_t *idx, U *y, int64_t n,
                              int64_t n_units)
{
    const int64_t i = grid_index();
    if (i < n) {
        const int32_t from = idx[i / n_units];
        y[i] = from < 0 ? U() : x[from * stride + i % n_units];
    }
}

template <class U>
sy_status gather(sy_stream *stream, const sy_gather_rows_args *args, int64_t row_bytes,
                 int64_t stride_bytes)
{
    const int64_t n_units = row_bytes / (int64_t)sizeof(U), n = args->y.shape[0] * n_units;
    return launch(stream, "gather_rows", blocks_for(n, THREADS), THREADS, 0, gather_kernel<U>,
                  data<U>(args->x), stride_bytes / (int64_t)sizeof(U), data<int32_t>(args->idx),
                  data<U>(args->y), n, n_units);
}

/* N elements of one token per thread. */
template <class T, int N>
__global__ void combine_kernel(const T *rows, const float *weight, const int32_t *token_start,
                               const int32_t *token_row, T *y, int64_t n_groups, int64_t H,
                               bool add)
{
    struct alignas(N * sizeof(T)) group {
        T x[N];
    };
    const int64_t i = grid_index() * N;
    if (i >= n_groups * N) {
        return;
    }
    const int64_t t = i / H, h = i % H;
    float sum[N] = {};
    if (add) {
        const group old = *reinterpret_cast<const group *>(y + i);
#pragma unroll
        for (int k = 0; k < N; k++) {
            sum[k] = wide(old.x[k]);
        }
    }
    const int32_t end = token_start[t + 1];
    for (int32_t j = token_start[t]; j < end; j++) {
        const int64_t row = token_row[j];
        const float w = weight ? weight[row] : 1;
        const group from = *reinterpret_cast<const group *>(rows + row * H + h);
#pragma unroll
        for (int k = 0; k < N; k++) {
            sum[k] += w * wide(from.x[k]);
        }
    }
    group out;
#pragma unroll
    for (int k = 0; k < N; k++) {
        out.x[k] = narrow<T>(sum[k]);
    }
    *reinterpret_cast<group *>(y + i) = out;
}

} // namespace

sy_status sy__cuda_gather_rows(sy_stream *stream, const sy_gather_rows_args *args)
{
    const int64_t elem = (int64_t)sy_dtype_bytes(args->x.dtype);
    const int64_t row = args->y.shape[1] * elem, stride = args->x.stride[0] * elem;
    const uintptr_t all =
        (uintptr_t)args->x.data | (uintptr_t)args->y.data | (uintptr_t)row | (uintptr_t)stride;
    if (row == 0) {
        return SY_OK;
    }
    if (all % 16 == 0) {
        return gather<uint4>(stream, args, row, stride);
    }
    if (all % 8 == 0) {
        return gather<uint64_t>(stream, args, row, stride);
    }
    if (all % 4 == 0) {
        return gather<uint32_t>(stream, args, row, stride);
    }
    return all % 2 == 0 ? gather<uint16_t>(stream, args, row, stride)
                        : gather<uint8_t>(stream, args, row, stride);
}

sy_status sy__cuda_combine_rows(sy_stream *stream, const sy_combine_rows_args *args)
{
    return by_type(args->y.dtype, [&](auto zero) {
        using T = decltype(zero);
        enum { N = pack<T>::N };
        const int64_t H = args->y.shape[1], n = sy_tensor_numel(&args->y);
        const T *rows = data<T>(args->rows);
        T *y = data<T>(args->y);
        const bool packed = packs<T>(rows, H, H) && packs<T>(y, H, H);
        const int64_t n_groups = packed ? n / N : n;
        return launch(stream, "combine_rows", blocks_for(n_groups, THREADS), THREADS, 0,
                      packed ? combine_kernel<T, N> : combine_kernel<T, 1>, rows,
                      data<float>(args->weight), data<int32_t>(args->token_start),
                      data<int32_t>(args->token_row), y, n_groups, H, args->beta != 0);
    });
}

/* Sums over elements and over rows: partial sums over pieces whose borders depend on the shape
   alone, then the partials in order. */
#include "backend/cuda/kernel_impl.cuh"

namespace
{

enum { THREADS = 256, MAX_PARTS = 1024, SHARES = 16 };

/* ---- one sum ---- */

template <class T, bool SQUARES>
__global__ void partial_sum_kernel(const T *x, int64_t n, int64_t each, double *part)
{
    const int64_t first = (int64_t)blockIdx.x * each;
    const int64_t end = first + each < n ? first + each : n;
    double sum = 0;
    for (int64_t i = first + threadIdx.x; i < end; i += blockDim.x) {
        const double v = (double)x[i];
        sum += SQUARES ? v * v : v;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        part[blockIdx.x] = sum;
    }
}

/* A block has `each` rows; rows NULL: all count. */
template <class T>
__global__ void partial_squares_kernel(const T *x, int64_t stride, const uint8_t *rows,
                                       int64_t n_rows, int64_t H, int64_t each, double *part)
{
    const int64_t first = (int64_t)blockIdx.x * each;
    const int64_t end = first + each < n_rows ? first + each : n_rows;
    double sum = 0;
    for (int64_t t = first; t < end; t++) {
        for (int64_t h = threadIdx.x; h < H && (!rows || rows[t]); h += blockDim.x) {
            const double v = (double)wide(x[t * stride + h]);
            sum += v * v;
        }
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        part[blockIdx.x] = sum;
    }
}

/* out += scale * the sum of the parts; one block. */
__global__ void total_kernel(const double *part, int32_t n_parts, double scale, double *out)
{
    double sum = 0;
    for (int32_t i = (int32_t)threadIdx.x; i < n_parts; i += (int32_t)blockDim.x) {
        sum += part[i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        *out += scale * sum;
    }
}

template <class T, bool SQUARES>
sy_status add_up(sy_stream *stream, const sy_tensor &x, const sy_tensor &out, double scale)
{
    sy_status st = SY_OK;
    const int64_t n = sy_tensor_numel(&x);
    const int64_t each = n / MAX_PARTS + THREADS * 8;
    const unsigned n_parts = blocks_for(n, each);
    double *part = (double *)stream->workspace;
    SY_TRY(launch(stream, "sum", n_parts, THREADS, 0, partial_sum_kernel<T, SQUARES>, data<T>(x), n,
                  each, part));
    SY_TRY(launch(stream, "sum", n_parts > 0, THREADS, 0, total_kernel, part, (int32_t)n_parts,
                  scale, data<double>(out)));
cleanup:
    return st;
}

/* ---- columns ---- */

/* A thread has a column; a block a piece of the rows. */
template <class T>
__global__ void partial_columns_kernel(const T *x, int64_t stride, int64_t n_rows, int64_t N,
                                       int64_t each, float *part)
{
    const int64_t n = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int64_t first = blockIdx.y * each;
    const int64_t end = first + each < n_rows ? first + each : n_rows;
    if (n < N) {
        float sum = 0;
        for (int64_t t = first; t < end; t++) {
            sum += wide(x[t * stride + n]);
        }
        part[blockIdx.y * N + n] = sum;
    }
}

/* A block has 32 columns; each of its warps adds up a share of the partials. */
__global__ void total_columns_kernel(const float *part, int64_t n_parts, int64_t N, float *out)
{
    __shared__ float share[SHARES][32];
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int64_t n = (int64_t)blockIdx.x * 32 + lane;
    float sum = 0;
    for (int64_t p = warp; p < n_parts && n < N; p += SHARES) {
        sum += part[p * N + n];
    }
    share[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && n < N) {
        for (int w = 1; w < SHARES; w++) {
            sum += share[w][lane];
        }
        out[n] += sum;
    }
}

} // namespace

sy_status sy__cuda_sum(sy_stream *stream, const sy_sum_args *args)
{
    return args->x.dtype == SY_F64 ? add_up<double, false>(stream, args->x, args->out, args->scale)
                                   : add_up<float, false>(stream, args->x, args->out, args->scale);
}

sy_status sy__cuda_sum_squares(sy_stream *stream, const sy_sum_squares_args *args)
{
    return add_up<float, true>(stream, args->x, args->out, 1);
}

sy_status sy__cuda_row_squares(sy_stream *stream, const sy_row_squares_args *args)
{
    sy_status st = SY_OK;
    const int64_t n_rows = args->x.shape[0], H = args->x.shape[1];
    const int64_t each = n_rows / MAX_PARTS + 1;
    const unsigned n_parts = blocks_for(n_rows, each);
    double *part = (double *)stream->workspace;
    SY_TRY(by_type(args->x.dtype, [&](auto zero) {
        using T = decltype(zero);
        return launch(stream, "row_squares", n_parts, THREADS, 0, partial_squares_kernel<T>,
                      data<T>(args->x), args->x.stride[0], data<uint8_t>(args->rows), n_rows, H,
                      each, part);
    }));
    SY_TRY(launch(stream, "row_squares", n_parts > 0, THREADS, 0, total_kernel, part,
                  (int32_t)n_parts, 1.0, data<double>(args->out)));
cleanup:
    return st;
}

sy_status sy__cuda_total_columns(sy_stream *stream, const float *part, int64_t n_parts, int64_t N,
                                 float *out)
{
    return launch(stream, "column_sum", blocks_for(N, 32), 32 * SHARES, 0, total_columns_kernel,
                  part, n_parts, N, out);
}

sy_status sy__cuda_column_sum(sy_stream *stream, const sy_column_sum_args *args)
{
    sy_status st = SY_OK;
    const int64_t n_rows = args->x.shape[0], N = args->x.shape[1];
    const int64_t each = n_rows / 128 + 64;
    const int64_t n_parts = blocks_for(n_rows, each);
    float *part = (float *)stream->workspace;
    SY_TRY(require_workspace("column_sum", n_parts * N * (int64_t)sizeof *part));
    SY_TRY(by_type(args->x.dtype, [&](auto zero) {
        using T = decltype(zero);
        return launch(stream, "column_sum", dim3(blocks_for(N, THREADS), (unsigned)n_parts),
                      THREADS, 0, partial_columns_kernel<T>, data<T>(args->x), args->x.stride[0],
                      n_rows, N, each, part);
    }));
    SY_TRY(sy__cuda_total_columns(stream, part, n_parts, N, data<float>(args->out)));
cleanup:
    return st;
}

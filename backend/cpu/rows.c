/* Rows moved and rows summed: the permutations of dispatch and combine. */
#include "backend/cpu/tile_impl.h"

sy_status sy__cpu_gather_rows(sy_stream *stream, const sy_gather_rows_args *args)
{
    const int64_t M = args->y.shape[0], D = args->y.shape[1];
    const size_t element = sy_dtype_bytes(args->x.dtype), row_bytes = (size_t)D * element;
    const size_t stride_bytes = (size_t)args->x.stride[0] * element;
    const int32_t *idx = args->idx.data;
    const char *x = args->x.data;
    char *y = args->y.data;
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (M * D > SY_CPU_PARALLEL_MIN)
    for (int64_t i = 0; i < M; i++) {
        if (idx[i] < 0) {
            memset(y + (size_t)i * row_bytes, 0, row_bytes);
        } else {
            memcpy(y + (size_t)i * row_bytes, x + (size_t)idx[i] * stride_bytes, row_bytes);
        }
    }
    return SY_OK;
}

/* Elements h .. h+n-1 of token t. */
static void combine_tile(const sy_combine_rows_args *args, int64_t t, int64_t h, int64_t n)
{
    const int64_t H = args->y.shape[1], at = t * H + h;
    const int32_t *start = args->token_start.data, *token_row = args->token_row.data;
    const float *weight = args->weight.data;
    float sum_buf[SY_CPU_TILE], row_buf[SY_CPU_TILE];
    float *sum = sy__tile_target(&args->y, at, sum_buf);
    bool empty = args->beta == 0;
    if (!empty) {
        (void)sy__tile_read(&args->y, at, n, sum_buf);
    }
    for (int32_t j = start[t]; j < start[t + 1]; j++) {
        const int64_t r = token_row[j];
        const float *row = sy__tile_read(&args->rows, r * H + h, n, row_buf);
        const float w = weight == NULL ? 1.0F : weight[r];
        if (empty) {
            sy__cpu_scale_run(sum, w, row, n);
        } else {
            sy__cpu_axpy_run(sum, w, row, n);
        }
        empty = false;
    }
    if (empty) {
        memset(sum, 0, (size_t)n * sizeof *sum);
    }
    sy__tile_write(&args->y, at, n, sum_buf);
}

sy_status sy__cpu_combine_rows(sy_stream *stream, const sy_combine_rows_args *args)
{
    const int64_t T = args->y.shape[0], H = args->y.shape[1];
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (T * H > SY_CPU_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) {
        for (int64_t h = 0; h < H; h += SY_CPU_TILE) {
            combine_tile(args, t, h, sy__cpu_min(SY_CPU_TILE, H - h));
        }
    }
    return SY_OK;
}

/* Sums. Blocks whose borders depend on the size alone, added in ascending order. */
#include "backend/cpu/tile_impl.h"

#include "backend/cpu/vmath_impl.h"

sy_status sy__cpu_column_sum(sy_stream *stream, const sy_column_sum_args *args)
{
    const int64_t T = args->x.shape[0], N = args->x.shape[1];
    sy__partials sums =
        sy__partials_begin(T, N, args->out.data, sy_stream_workspace(stream), SY_WORKSPACE_BYTES);
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (T * N > SY_CPU_PARALLEL_MIN)
    for (int64_t b = 0; b < sums.n_blocks; b++) {
        float buf[SY_CPU_TILE], *out = sy__partials_of(&sums, b);
        const int64_t end = sy__cpu_min(T, (b + 1) * sums.block_rows);
        for (int64_t t = b * sums.block_rows; t < end; t++) {
            for (int64_t n = 0; n < N; n += SY_CPU_TILE) {
                const int64_t len = sy__cpu_min(SY_CPU_TILE, N - n);
                const float *x = sy__tile_read(&args->x, t * args->x.stride[0] + n, len, buf);
                sy__cpu_axpy_run(out + n, 1.0F, x, len);
            }
        }
    }
    sy__partials_end(stream, &sums);
    return SY_OK;
}

typedef double sum_block(const void *x, int64_t n);

static inline double fold_double(const double lane[SY_CPU_LANES])
{
    double sum = 0;
    for (int l = 0; l < SY_CPU_LANES; l++) {
        sum += lane[l];
    }
    return sum;
}

SY_CPU_CLONES static double sum_f32(const void *data, int64_t n)
{
    const float *x = data;
    double lane[SY_CPU_LANES] = {0};
    int64_t i = 0;
    for (; i + SY_CPU_LANES <= n; i += SY_CPU_LANES) {
        for (int l = 0; l < SY_CPU_LANES; l++) {
            lane[l] += (double)x[i + l];
        }
    }
    for (int l = 0; i + l < n; l++) {
        lane[l] += (double)x[i + l];
    }
    return fold_double(lane);
}

SY_CPU_CLONES static double sum_f64(const void *data, int64_t n)
{
    const double *x = data;
    double lane[SY_CPU_LANES] = {0};
    int64_t i = 0;
    for (; i + SY_CPU_LANES <= n; i += SY_CPU_LANES) {
        for (int l = 0; l < SY_CPU_LANES; l++) {
            lane[l] += x[i + l];
        }
    }
    for (int l = 0; i + l < n; l++) {
        lane[l] += x[i + l];
    }
    return fold_double(lane);
}

SY_CPU_CLONES static double sum_squares_f32(const void *data, int64_t n)
{
    const float *x = data;
    double lane[SY_CPU_LANES] = {0};
    int64_t i = 0;
    for (; i + SY_CPU_LANES <= n; i += SY_CPU_LANES) {
        for (int l = 0; l < SY_CPU_LANES; l++) {
            lane[l] += (double)x[i + l] * (double)x[i + l];
        }
    }
    for (int l = 0; i + l < n; l++) {
        lane[l] += (double)x[i + l] * (double)x[i + l];
    }
    return fold_double(lane);
}

/* Sum of all blocks of x. The workspace holds a round of block sums; a longer x takes several
 * rounds. */
static double sum_all(sy_stream *stream, const sy_tensor *x, sum_block *block_sum)
{
    enum { BLOCK = 16 * 1024, ROUND = SY_WORKSPACE_BYTES / (int)sizeof(double) };
    const int64_t n = sy_tensor_numel(x), n_blocks = sy__cpu_blocks(n, BLOCK);
    const size_t element = sy_dtype_bytes(x->dtype);
    const int threads = sy__cpu_threads(stream);
    double *sums = sy_stream_workspace(stream), total = 0;
    for (int64_t first = 0; first < n_blocks; first += ROUND) {
        const int64_t n_sums = sy__cpu_min(ROUND, n_blocks - first);
#pragma omp parallel for num_threads(threads) schedule(static) if (n > SY_CPU_PARALLEL_MIN)
        for (int64_t b = 0; b < n_sums; b++) {
            const int64_t at = (first + b) * BLOCK;
            sums[b] =
                block_sum((const char *)x->data + (size_t)at * element, sy__cpu_min(BLOCK, n - at));
        }
        for (int64_t b = 0; b < n_sums; b++) {
            total += sums[b];
        }
    }
    return total;
}

sy_status sy__cpu_sum(sy_stream *stream, const sy_sum_args *args)
{
    double *out = args->out.data;
    out[0] += args->scale * sum_all(stream, &args->x, args->x.dtype == SY_F64 ? sum_f64 : sum_f32);
    return SY_OK;
}

sy_status sy__cpu_sum_squares(sy_stream *stream, const sy_sum_squares_args *args)
{
    double *out = args->out.data;
    out[0] += sum_all(stream, &args->x, sum_squares_f32);
    return SY_OK;
}

/* Rows first .. end-1, tile by tile. */
static double squares_of_rows(const sy_row_squares_args *args, int64_t first, int64_t end)
{
    const int64_t H = args->x.shape[1];
    const uint8_t *rows = args->rows.data;
    float buf[SY_CPU_TILE];
    double sum = 0;
    for (int64_t t = first; t < end; t++) {
        for (int64_t h = 0; h < H && (rows == NULL || rows[t] != 0); h += SY_CPU_TILE) {
            const int64_t n = sy__cpu_min(SY_CPU_TILE, H - h);
            sum += sum_squares_f32(sy__tile_read(&args->x, t * args->x.stride[0] + h, n, buf), n);
        }
    }
    return sum;
}

sy_status sy__cpu_row_squares(sy_stream *stream, const sy_row_squares_args *args)
{
    enum { MAX_BLOCKS = SY_WORKSPACE_BYTES / (int)sizeof(double), FEWEST_ROWS = 64 };
    const int64_t T = args->x.shape[0], least = sy__cpu_blocks(T, MAX_BLOCKS);
    const int64_t block_rows = least > FEWEST_ROWS ? least : FEWEST_ROWS;
    const int64_t n_blocks = sy__cpu_blocks(T, block_rows);
    const int threads = sy__cpu_threads(stream);
    double *sums = sy_stream_workspace(stream), total = 0;
#pragma omp parallel for num_threads(threads)                                                      \
    schedule(static) if (T * args->x.shape[1] > SY_CPU_PARALLEL_MIN)
    for (int64_t b = 0; b < n_blocks; b++) {
        sums[b] = squares_of_rows(args, b * block_rows, sy__cpu_min(T, (b + 1) * block_rows));
    }
    for (int64_t b = 0; b < n_blocks; b++) {
        total += sums[b];
    }
    *(double *)args->out.data += total;
    return SY_OK;
}

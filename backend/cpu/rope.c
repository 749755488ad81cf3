/* Rotary positions: element d of a head turns with element d + D/2, or 2d with 2d + 1. */
#include "backend/cpu/tile_impl.h"

/* (a, b) turned by the angle whose cosine and sine are given; turn -1: backwards. */
SY_CPU_CLONES static void rotate_run(float *a, float *b, const float *cosine, const float *sine,
                                     float turn, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        const float s = turn * sine[i], first = a[i], second = b[i];
        a[i] = first * cosine[i] - second * s;
        b[i] = second * cosine[i] + first * s;
    }
}

static void rotate_head(const sy_tensor *x, int64_t at, const float *table_row, float turn)
{
    const int64_t half = x->shape[2] / 2;
    float a_buf[SY_CPU_TILE], b_buf[SY_CPU_TILE];
    for (int64_t d = 0; d < half; d += SY_CPU_TILE) {
        const int64_t n = sy__cpu_min(SY_CPU_TILE, half - d), first = at + d, second = first + half;
        float *a = sy__tile_target(x, first, a_buf), *b = sy__tile_target(x, second, b_buf);
        (void)sy__tile_read(x, first, n, a_buf);
        (void)sy__tile_read(x, second, n, b_buf);
        rotate_run(a, b, table_row + d, table_row + half + d, turn, n);
        sy__tile_write(x, first, n, a_buf);
        sy__tile_write(x, second, n, b_buf);
    }
}

/* Neighbours: both of a pair lie in one run. */
SY_CPU_CLONES static void rotate_pairs(float *x, const float *cosine, const float *sine, float turn,
                                       int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        const float s = turn * sine[i], first = x[2 * i], second = x[2 * i + 1];
        x[2 * i] = first * cosine[i] - second * s;
        x[2 * i + 1] = second * cosine[i] + first * s;
    }
}

static void rotate_interleaved(const sy_tensor *x, int64_t at, const float *table_row, float turn)
{
    const int64_t half = x->shape[2] / 2, step = SY_CPU_TILE / 2;
    float buf[SY_CPU_TILE];
    for (int64_t d = 0; d < half; d += step) {
        const int64_t n = sy__cpu_min(step, half - d), first = at + 2 * d;
        float *to = sy__tile_target(x, first, buf);
        (void)sy__tile_read(x, first, 2 * n, buf);
        rotate_pairs(to, table_row + d, table_row + half + d, turn, n);
        sy__tile_write(x, first, 2 * n, buf);
    }
}

sy_status sy__cpu_rope(sy_stream *stream, const sy_rope_args *args)
{
    const sy_tensor *x = &args->x;
    const int64_t T = x->shape[0], N = x->shape[1], D = x->shape[2];
    const int32_t *pos = args->pos.data;
    const float *table = args->table.data, turn = args->inverse ? -1.0F : 1.0F;
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (T * N * D > SY_CPU_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) {
        for (int64_t n = 0; n < N; n++) {
            const int64_t at = t * x->stride[0] + n * x->stride[1];
            if (args->interleaved) {
                rotate_interleaved(x, at, table + pos[t] * D, turn);
            } else {
                rotate_head(x, at, table + pos[t] * D, turn);
            }
        }
    }
    return SY_OK;
}

/* The inner loops that several ops share, and sums over rows in a fixed order. */
#include "backend/cpu/tile_impl.h"

#include <math.h>

#include "backend/cpu/vmath_impl.h"

SY_CPU_CLONES void sy__cpu_widen(float *dst, const sy_bf16 *src, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        dst[i] = sy_bf16_to_f32(src[i]);
    }
}

SY_CPU_CLONES void sy__cpu_narrow(sy_bf16 *dst, const float *src, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        dst[i] = sy_bf16_from_f32(src[i]);
    }
}

SY_CPU_CLONES void sy__cpu_add_run(float *y, const float *a, const float *b, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        y[i] = a[i] + b[i];
    }
}

SY_CPU_CLONES void sy__cpu_scale_run(float *y, float c, const float *x, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        y[i] = c * x[i];
    }
}

SY_CPU_CLONES void sy__cpu_axpy_run(float *y, float c, const float *x, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        y[i] += c * x[i];
    }
}

SY_CPU_CLONES float sy__cpu_dot_run(const float *a, const float *b, int64_t n)
{
    float lane[SY_CPU_LANES] = {0};
    int64_t i = 0;
    for (; i + SY_CPU_LANES <= n; i += SY_CPU_LANES) {
        for (int l = 0; l < SY_CPU_LANES; l++) {
            lane[l] += a[i + l] * b[i + l];
        }
    }
    for (int l = 0; i + l < n; l++) {
        lane[l] += a[i + l] * b[i + l];
    }
    return sy__fold(lane);
}

SY_CPU_CLONES float sy__cpu_max_run(const float *x, int64_t n)
{
    float lane[SY_CPU_LANES];
    for (int l = 0; l < SY_CPU_LANES; l++) {
        lane[l] = -INFINITY;
    }
    int64_t i = 0;
    for (; i + SY_CPU_LANES <= n; i += SY_CPU_LANES) {
        for (int l = 0; l < SY_CPU_LANES; l++) {
            lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
        }
    }
    for (int l = 0; i + l < n; l++) {
        lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
    }
    for (int l = 1; l < SY_CPU_LANES; l++) {
        lane[0] = lane[l] > lane[0] ? lane[l] : lane[0];
    }
    return lane[0];
}

SY_CPU_CLONES static float sum_exp_tile(const float *x, float shift, int64_t n)
{
    float lane[SY_CPU_LANES] = {0};
    int64_t i = 0;
    for (; i + SY_CPU_LANES <= n; i += SY_CPU_LANES) {
        for (int l = 0; l < SY_CPU_LANES; l++) {
            lane[l] += sy__exp(x[i + l] - shift);
        }
    }
    for (int l = 0; i + l < n; l++) {
        lane[l] += sy__exp(x[i + l] - shift);
    }
    return sy__fold(lane);
}

double sy__cpu_sum_exp_run(const float *x, float shift, int64_t n)
{
    double sum = 0;
    for (int64_t at = 0; at < n; at += SY_CPU_TILE) {
        sum += (double)sum_exp_tile(x + at, shift, sy__cpu_min(SY_CPU_TILE, n - at));
    }
    return sum;
}

SY_CPU_CLONES void sy__cpu_exp_run(float *y, const float *x, float shift, float scale, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        y[i] = scale * sy__exp(x[i] - shift);
    }
}

sy__partials sy__partials_begin(int64_t rows, int64_t columns, float *out, void *scratch,
                                int64_t scratch_bytes)
{
    enum { MIN_BLOCK_ROWS = 16 };
    int64_t n_blocks = sy__cpu_min(sy__cpu_blocks(rows, MIN_BLOCK_ROWS), SY_CPU_MAX_PARTIALS);
    int64_t bytes = columns * (int64_t)sizeof(float);
    if (n_blocks < 2 || n_blocks * bytes > scratch_bytes) {
        return (sy__partials){.n_blocks = 1, .block_rows = rows, .columns = columns, .sums = out};
    }
    sy__partials p = {.block_rows = sy__cpu_blocks(rows, n_blocks), .columns = columns, .out = out};
    p.n_blocks = sy__cpu_blocks(rows, p.block_rows);
    p.sums = scratch;
    memset(p.sums, 0, (size_t)(p.n_blocks * bytes));
    return p;
}

void sy__partials_end(sy_stream *stream, const sy__partials *p)
{
    if (p->out == NULL) {
        return;
    }
    const int threads = sy__cpu_threads(stream);
    const int64_t n_strips = sy__cpu_blocks(p->columns, SY_CPU_TILE);
#pragma omp parallel for num_threads(threads)                                                      \
    schedule(static) if (p->n_blocks * p->columns > SY_CPU_PARALLEL_MIN)
    for (int64_t strip = 0; strip < n_strips; strip++) {
        const int64_t at = strip * SY_CPU_TILE, n = sy__cpu_min(SY_CPU_TILE, p->columns - at);
        for (int64_t b = 0; b < p->n_blocks; b++) {
            sy__cpu_axpy_run(p->out + at, 1.0F, sy__partials_of(p, b) + at, n);
        }
    }
}

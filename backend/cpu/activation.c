/* SwiGLU: y = silu(gate) * up, with gate and up side by side in a row (Shazeer 2020). */
#include "backend/cpu/tile_impl.h"

#include "backend/cpu/vmath_impl.h"

SY_CPU_CLONES static void swiglu_run(float *y, const float *gate, const float *up, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        y[i] = gate[i] * sy__sigmoid(gate[i]) * up[i];
    }
}

sy_status sy__cpu_swiglu(sy_stream *stream, const sy_swiglu_args *args)
{
    const int64_t R = args->y.shape[0], F = args->y.shape[1];
    const int64_t n_tiles = sy__cpu_blocks(F, SY_CPU_TILE);
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (R * F > SY_CPU_PARALLEL_MIN / 4)
    for (int64_t i = 0; i < R * n_tiles; i++) {
        float gate_buf[SY_CPU_TILE], up_buf[SY_CPU_TILE];
        const int64_t r = i / n_tiles, f = i % n_tiles * SY_CPU_TILE;
        const int64_t n = sy__cpu_min(SY_CPU_TILE, F - f);
        const float *gate = sy__tile_read(&args->x, r * 2 * F + f, n, gate_buf);
        const float *up = sy__tile_read(&args->x, r * 2 * F + F + f, n, up_buf);
        swiglu_run(sy__tile_target(&args->y, r * F + f, gate_buf), gate, up, n);
        sy__tile_write(&args->y, r * F + f, n, gate_buf);
    }
    return SY_OK;
}

/* The tiles of one step of the backward pass. a = silu(gate) * up is kept, unweighted. */
typedef struct swiglu_tile {
    const float *gate, *up, *dy;
    float *dgate, *dup, *a;
} swiglu_tile;

/* dgate and dup, weighted, and a. An output may lie where an input lies. */
SY_CPU_CLONES static void swiglu_backward_run(const swiglu_tile *tile, float weight, int64_t n)
{
    const float *gate = tile->gate, *up = tile->up, *dy = tile->dy;
    float *dgate = tile->dgate, *dup = tile->dup, *a = tile->a;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        const float g = gate[i], u = up[i], d = weight * dy[i];
        const float s = sy__sigmoid(g), silu = g * s;
        a[i] = silu * u;
        dgate[i] = d * u * (s * (1.0F + (g - silu)));
        dup[i] = d * silu;
    }
}

static void swiglu_backward_row(const sy_swiglu_backward_args *args, int64_t r)
{
    const int64_t F = args->dy.shape[1];
    const float *weights = args->weight.data;
    const float weight = weights == NULL ? 1.0F : weights[r];
    float gate_buf[SY_CPU_TILE], up_buf[SY_CPU_TILE], dy_buf[SY_CPU_TILE], a_buf[SY_CPU_TILE];
    double dot = 0;
    for (int64_t f = 0; f < F; f += SY_CPU_TILE) {
        const int64_t n = sy__cpu_min(SY_CPU_TILE, F - f);
        const int64_t gate_at = r * 2 * F + f, up_at = gate_at + F, at = r * F + f;
        const swiglu_tile tile = {
            .gate = sy__tile_read(&args->x, gate_at, n, gate_buf),
            .up = sy__tile_read(&args->x, up_at, n, up_buf),
            .dy = sy__tile_read(&args->dy, at, n, dy_buf),
            .dgate = sy__tile_target(&args->dx, gate_at, gate_buf),
            .dup = sy__tile_target(&args->dx, up_at, up_buf),
            .a = a_buf,
        };
        swiglu_backward_run(&tile, weight, n);
        sy__tile_write(&args->dx, gate_at, n, gate_buf);
        sy__tile_write(&args->dx, up_at, n, up_buf);
        if (args->dot.data != NULL) {
            dot += (double)sy__cpu_dot_run(tile.dy, a_buf, n);
        }
        if (args->wa.data != NULL) {
            sy__cpu_scale_run(sy__tile_target(&args->wa, at, a_buf), weight, a_buf, n);
            sy__tile_write(&args->wa, at, n, a_buf);
        }
    }
    if (args->dot.data != NULL) {
        ((float *)args->dot.data)[r] = (float)dot;
    }
}

sy_status sy__cpu_swiglu_backward(sy_stream *stream, const sy_swiglu_backward_args *args)
{
    const int64_t R = args->dy.shape[0], F = args->dy.shape[1];
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (R * F > SY_CPU_PARALLEL_MIN / 4)
    for (int64_t r = 0; r < R; r++) {
        swiglu_backward_row(args, r);
    }
    return SY_OK;
}

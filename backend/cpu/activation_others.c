/* The nonlinearities of an MLP beside SwiGLU: a = act(first part) times the other parts. */
#include "backend/cpu/tile_impl.h"

#include <math.h>

#include "backend/cpu/vmath_impl.h"

enum { MAX_PARTS = 3 };

/* act(x) into y, its slope into slope (NULL: not wanted). Outputs may lie where x lies. */
SY_CPU_CLONES static void relu_run(float *y, float *slope, const float *x, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        const float v = x[i];
        y[i] = v > 0.0F ? v : 0.0F;
        slope[i] = v > 0.0F ? 1.0F : 0.0F;
    }
}

SY_CPU_CLONES static void silu_run(float *y, float *slope, const float *x, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        const float v = x[i], s = sy__sigmoid(v), silu = v * s;
        y[i] = silu;
        slope[i] = s * (1.0F + (v - silu));
    }
}

/* gelu(x) = x s with s = sigmoid(2 c (x + k x^3)), c = sqrt(2 / pi). */
SY_CPU_CLONES static void gelu_run(float *y, float *slope, const float *x, int64_t n)
{
    const float c2 = 1.5957691216F, k = 0.044715F;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        const float v = x[i], v2 = v * v, s = sy__sigmoid(c2 * v * (1.0F + k * v2));
        const float rest = s * (1.0F - s); /* 0 before its factor is infinite */
        const float steep = v2 > 1e6F ? 0.0F : v * c2 * (1.0F + 3.0F * k * v2);
        y[i] = v * s;
        slope[i] = s + rest * steep;
    }
}

/* x Phi(x), Phi(x) = erfc(-x / sqrt 2) / 2: one by one, by the C library. */
static void gelu_erf_run(float *y, float *slope, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const float v = x[i], below = 0.5F * erfcf(-v * 0.70710678F);
        y[i] = v * below;
        slope[i] = below + v * 0.39894228F * expf(-0.5F * v * v);
    }
}

static void act_run(sy_act act, float *y, float *slope, const float *x, int64_t n)
{
    if (act == SY_ACT_RELU) {
        relu_run(y, slope, x, n);
    } else if (act == SY_ACT_SWIGLU_LINEAR) {
        silu_run(y, slope, x, n);
    } else if (act == SY_ACT_GELU_ERF) {
        gelu_erf_run(y, slope, x, n);
    } else {
        gelu_run(y, slope, x, n);
    }
}

SY_CPU_CLONES static void times_run(float *y, const float *a, const float *b, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        y[i] = a[i] * b[i];
    }
}

sy_status sy__cpu_activation(sy_stream *stream, const sy_activation_args *args)
{
    const int64_t R = args->y.shape[0], F = args->y.shape[1], P = sy_act_parts(args->act);
    const int64_t n_tiles = sy__cpu_blocks(F, SY_CPU_TILE);
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (R * F > SY_CPU_PARALLEL_MIN / 4)
    for (int64_t i = 0; i < R * n_tiles; i++) {
        float y_buf[SY_CPU_TILE], x_buf[SY_CPU_TILE], slope[SY_CPU_TILE];
        const int64_t r = i / n_tiles, f = i % n_tiles * SY_CPU_TILE;
        const int64_t n = sy__cpu_min(SY_CPU_TILE, F - f), at = r * P * F + f;
        float *y = sy__tile_target(&args->y, r * F + f, y_buf);
        act_run(args->act, y, slope, sy__tile_read(&args->x, at, n, x_buf), n);
        for (int64_t k = 1; k < P; k++) {
            times_run(y, y, sy__tile_read(&args->x, at + k * F, n, x_buf), n);
        }
        sy__tile_write(&args->y, r * F + f, n, y_buf);
    }
    return SY_OK;
}

/* One tile of a row: dx of all parts, weighted; a unweighted. Part i's slope is the product of the
 * other parts, or for the first one's of what follows it and its own slope. */
static void backward_tile(const sy_activation_backward_args *args, int64_t at, int64_t n,
                          const float *wdy, float *a)
{
    const int64_t F = args->dy.shape[1], P = sy_act_parts(args->act);
    float buf[MAX_PARTS][SY_CPU_TILE], first[SY_CPU_TILE], slope[SY_CPU_TILE], out[SY_CPU_TILE];
    const float *part[MAX_PARTS] = {NULL};
    for (int64_t i = 0; i < P; i++) {
        part[i] = sy__tile_read(&args->x, at + i * F, n, buf[i]);
    }
    act_run(args->act, first, slope, part[0], n);
    memcpy(a, first, (size_t)n * sizeof *a);
    for (int64_t i = 1; i < P; i++) {
        times_run(a, a, part[i], n);
    }
    for (int64_t i = 0; i < P; i++) {
        float *dx = sy__tile_target(&args->dx, at + i * F, out);
        times_run(dx, wdy, i == 0 ? slope : first, n);
        for (int64_t k = 1; k < P; k++) {
            if (k != i) {
                times_run(dx, dx, part[k], n);
            }
        }
        sy__tile_write(&args->dx, at + i * F, n, out);
    }
}

static void backward_row(const sy_activation_backward_args *args, int64_t r)
{
    const int64_t F = args->dy.shape[1], P = sy_act_parts(args->act);
    const float *weights = args->weight.data;
    const float weight = weights == NULL ? 1.0F : weights[r];
    float dy_buf[SY_CPU_TILE], wdy[SY_CPU_TILE], a[SY_CPU_TILE];
    double dot = 0;
    for (int64_t f = 0; f < F; f += SY_CPU_TILE) {
        const int64_t n = sy__cpu_min(SY_CPU_TILE, F - f), at = r * F + f;
        const float *dy = sy__tile_read(&args->dy, at, n, dy_buf);
        sy__cpu_scale_run(wdy, weight, dy, n);
        backward_tile(args, r * P * F + f, n, wdy, a);
        if (args->dot.data != NULL) {
            dot += (double)sy__cpu_dot_run(dy, a, n);
        }
        if (args->wa.data != NULL) {
            float *wa = sy__tile_target(&args->wa, at, wdy);
            sy__cpu_scale_run(wa, weight, a, n);
            sy__tile_write(&args->wa, at, n, wdy);
        }
    }
    if (args->dot.data != NULL) {
        ((float *)args->dot.data)[r] = (float)dot;
    }
}

sy_status sy__cpu_activation_backward(sy_stream *stream, const sy_activation_backward_args *args)
{
    const int64_t R = args->dy.shape[0], F = args->dy.shape[1];
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (R * F > SY_CPU_PARALLEL_MIN / 4)
    for (int64_t r = 0; r < R; r++) {
        backward_row(args, r);
    }
    return SY_OK;
}

/* SwiGLU (Shazeer 2020): a = silu(gate) * up, with gate | up side by side in a row; and GELU. */
#include "backend/ref/ref_impl.h"

#include <math.h>

sy_status sy__ref_swiglu(sy_stream *stream, const sy_swiglu_args *args)
{
    (void)stream;
    const int64_t F = args->y.shape[1];
    for (int64_t r = 0; r < args->y.shape[0]; r++) {
        const double *gate = sy__ref_row(&args->x, r), *up = gate + F;
        double *y = sy__ref_row(&args->y, r);
        for (int64_t f = 0; f < F; f++) {
            y[f] = gate[f] * sy__ref_sigmoid(gate[f]) * up[f];
        }
    }
    return SY_OK;
}

/* silu'(g) = s + g s (1 - s) with s = sigmoid(g). */
sy_status sy__ref_swiglu_backward(sy_stream *stream, const sy_swiglu_backward_args *args)
{
    (void)stream;
    const int64_t F = args->dy.shape[1];
    for (int64_t r = 0; r < args->dy.shape[0]; r++) {
        const double *gate = sy__ref_row(&args->x, r), *up = gate + F;
        const double *dy = sy__ref_row(&args->dy, r);
        const double weight = args->weight.data ? ((double *)args->weight.data)[r] : 1;
        double *dgate = sy__ref_row(&args->dx, r), *dup = dgate + F;
        double *wa = args->wa.data ? sy__ref_row(&args->wa, r) : NULL;
        double dot = 0;
        for (int64_t f = 0; f < F; f++) {
            const double s = sy__ref_sigmoid(gate[f]), silu = gate[f] * s;
            dgate[f] = weight * dy[f] * up[f] * (s + silu * (1 - s));
            dup[f] = weight * dy[f] * silu;
            dot += dy[f] * silu * up[f];
            if (wa) {
                wa[f] = weight * silu * up[f];
            }
        }
        if (args->dot.data) {
            ((double *)args->dot.data)[r] = dot;
        }
    }
    return SY_OK;
}

/* Phi(x) = erfc(-x / sqrt 2) / 2; its density times x is what gelu' has more. */
static double normal_below(double x)
{
    return 0.5 * erfc(-x * 0.70710678118654752440);
}

sy_status sy__ref_gelu(sy_stream *stream, const sy_gelu_args *args)
{
    (void)stream;
    const double *x = args->x.data;
    double *y = args->y.data;
    for (int64_t i = 0; i < sy_tensor_numel(&args->x); i++) {
        y[i] = x[i] * normal_below(x[i]);
    }
    return SY_OK;
}

sy_status sy__ref_gelu_backward(sy_stream *stream, const sy_gelu_backward_args *args)
{
    (void)stream;
    const int64_t F = args->dy.shape[1];
    for (int64_t r = 0; r < args->dy.shape[0]; r++) {
        const double *x = sy__ref_row(&args->x, r), *dy = sy__ref_row(&args->dy, r);
        const double weight = args->weight.data ? ((double *)args->weight.data)[r] : 1;
        double *dx = sy__ref_row(&args->dx, r), dot = 0;
        double *wa = args->wa.data ? sy__ref_row(&args->wa, r) : NULL;
        for (int64_t f = 0; f < F; f++) {
            const double below = normal_below(x[f]), v = x[f];
            dx[f] = weight * dy[f] * (below + v * 0.39894228040143267794 * exp(-0.5 * v * v));
            dot += dy[f] * v * below;
            if (wa) {
                wa[f] = weight * v * below;
            }
        }
        if (args->dot.data) {
            ((double *)args->dot.data)[r] = dot;
        }
    }
    return SY_OK;
}

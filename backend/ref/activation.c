/* SwiGLU (Shazeer 2020): a = silu(gate) * up, with gate | up side by side in a row; and the other
 * nonlinearities of an MLP. */
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

/* ---- the others: a = act(first) times the other parts ---- */

enum { MAX_PARTS = 3 };

/* act(x) and its slope. gelu(x) = x sigmoid(2 c (x + k x^3)), the same as x (1 + tanh(..)) / 2; its
 * erf form is x Phi(x), Phi(x) = erfc(-x / sqrt 2) / 2, whose slope has x times the density more.
 */
static double act_of(sy_act act, double x, double *slope)
{
    const double c = 0.79788456080286535588, k = 0.044715; /* c = sqrt(2 / pi) */
    if (act == SY_ACT_RELU) {
        *slope = x > 0 ? 1 : 0;
        return x > 0 ? x : 0;
    }
    if (act == SY_ACT_GELU_ERF) {
        const double below = 0.5 * erfc(-x * 0.70710678118654752440);
        *slope = below + x * 0.39894228040143267794 * exp(-0.5 * x * x);
        return x * below;
    }
    const bool gelu = act == SY_ACT_GEGLU || act == SY_ACT_GELU;
    const double inner = gelu ? 2 * c * (x + k * x * x * x) : x;
    const double dinner = gelu ? 2 * c * (1 + 3 * k * x * x) : 1;
    const double s = sy__ref_sigmoid(inner);
    *slope = s + (s < 1 && s > 0 ? x * s * (1 - s) * dinner : 0);
    return x * s;
}

sy_status sy__ref_activation(sy_stream *stream, const sy_activation_args *args)
{
    (void)stream;
    const int64_t F = args->y.shape[1];
    for (int64_t r = 0; r < args->y.shape[0]; r++) {
        const double *x = sy__ref_row(&args->x, r);
        double *y = sy__ref_row(&args->y, r), slope;
        for (int64_t f = 0; f < F; f++) {
            y[f] = act_of(args->act, x[f], &slope);
            for (int32_t i = 1; i < sy_act_parts(args->act); i++) {
                y[f] *= x[i * F + f];
            }
        }
    }
    return SY_OK;
}

/* The slopes of a in its parts, and a itself. */
static double slopes_of(sy_act act, const double *x, int64_t F, double slope[MAX_PARTS])
{
    const int32_t P = sy_act_parts(act);
    double first = act_of(act, x[0], &slope[0]), others = 1;
    for (int32_t i = 1; i < P; i++) {
        others *= x[i * F];
        slope[i] = first;
        for (int32_t j = 1; j < P; j++) {
            slope[i] *= j == i ? 1 : x[j * F];
        }
    }
    slope[0] *= others;
    return first * others;
}

sy_status sy__ref_activation_backward(sy_stream *stream, const sy_activation_backward_args *args)
{
    (void)stream;
    const int64_t F = args->dy.shape[1];
    for (int64_t r = 0; r < args->dy.shape[0]; r++) {
        const double *x = sy__ref_row(&args->x, r), *dy = sy__ref_row(&args->dy, r);
        const double weight = args->weight.data ? ((double *)args->weight.data)[r] : 1;
        double *dx = sy__ref_row(&args->dx, r), dot = 0, slope[MAX_PARTS];
        for (int64_t f = 0; f < F; f++) {
            const double a = slopes_of(args->act, x + f, F, slope);
            for (int32_t i = 0; i < sy_act_parts(args->act); i++) {
                dx[i * F + f] = weight * dy[f] * slope[i];
            }
            dot += dy[f] * a;
            if (args->wa.data) {
                sy__ref_row(&args->wa, r)[f] = weight * a;
            }
        }
        if (args->dot.data) {
            ((double *)args->dot.data)[r] = dot;
        }
    }
    return SY_OK;
}

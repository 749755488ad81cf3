/* RMSNorm (Zhang & Sennrich 2019) and rotary positions (Su et al. 2021). */
#include "backend/ref/ref_impl.h"

#include <math.h>

/* The row of sum. */
static const double *add_row(const sy_rmsnorm_args *args, int64_t t, int64_t g)
{
    const double *x = sy__ref_row3(&args->x, t, g), *add = sy__ref_row3(&args->add, t, g);
    double *sum = sy__ref_row3(&args->sum, t, g);
    for (int64_t d = 0; d < args->x.shape[2]; d++) {
        sum[d] = x[d] + args->factor * add[d];
    }
    return sum;
}

sy_status sy__ref_rmsnorm(sy_stream *stream, const sy_rmsnorm_args *args)
{
    (void)stream;
    const int64_t T = args->x.shape[0], G = args->x.shape[1], D = args->x.shape[2];
    const double *w = args->w.data;
    for (int64_t t = 0; t < T; t++) {
        for (int64_t g = 0; g < G; g++) {
            const double *x = args->add.data ? add_row(args, t, g) : sy__ref_row3(&args->x, t, g);
            double *y = sy__ref_row3(&args->y, t, g);
            const double rstd = 1 / sqrt(sy__ref_dot(x, x, D) / (double)D + args->eps);
            sy__ref_row(&args->rstd, t)[g] = rstd;
            for (int64_t d = 0; d < D; d++) {
                y[d] = x[d] * rstd * w[d];
            }
        }
    }
    return SY_OK;
}

/* With n = x * rstd: dx = rstd * (w dy - n * mean(n w dy)), and dw += n dy. Each dx[d] is written
   after dy[d] was read for the last time, so dx may be dy. */
static void rmsnorm_backward_row(const sy_rmsnorm_backward_args *args, int64_t t, int64_t g)
{
    const int64_t D = args->x.shape[2];
    const double *x = sy__ref_row3(&args->x, t, g), *dy = sy__ref_row3(&args->dy, t, g);
    const double *w = args->w.data;
    double *dx = sy__ref_row3(&args->dx, t, g), *dw = args->dw.data;
    const double rstd = sy__ref_row(&args->rstd, t)[g];
    double mean = 0;
    for (int64_t d = 0; d < D; d++) {
        mean += x[d] * rstd * w[d] * dy[d] / (double)D;
    }
    for (int64_t d = 0; d < D; d++) {
        const double n = x[d] * rstd, grad = rstd * (w[d] * dy[d] - n * mean);
        if (dw) {
            dw[d] += n * dy[d];
        }
        dx[d] = args->beta == 0 ? grad : args->beta * dx[d] + grad;
    }
}

sy_status sy__ref_rmsnorm_backward(sy_stream *stream, const sy_rmsnorm_backward_args *args)
{
    (void)stream;
    for (int64_t t = 0; t < args->x.shape[0]; t++) {
        for (int64_t g = 0; g < args->x.shape[1]; g++) {
            rmsnorm_backward_row(args, t, g);
        }
    }
    return SY_OK;
}

sy_status sy__ref_rope(sy_stream *stream, const sy_rope_args *args)
{
    (void)stream;
    const int64_t half = args->x.shape[2] / 2;
    const int64_t next = args->interleaved ? 2 : 1, other = args->interleaved ? 1 : half;
    const int32_t *pos = args->pos.data;
    for (int64_t t = 0; t < args->x.shape[0]; t++) {
        const double *cosines = sy__ref_row(&args->table, pos[t]), *sines = cosines + half;
        for (int64_t n = 0; n < args->x.shape[1]; n++) {
            double *x = sy__ref_row3(&args->x, t, n);
            for (int64_t d = 0; d < half; d++) {
                const double c = cosines[d], s = args->inverse ? -sines[d] : sines[d];
                const double lo = x[d * next], hi = x[d * next + other];
                x[d * next] = lo * c - hi * s;
                x[d * next + other] = hi * c + lo * s;
            }
        }
    }
    return SY_OK;
}

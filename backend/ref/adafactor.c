/* Adafactor (Shazeer & Stern 2018). */
#include "backend/ref/ref_impl.h"

#include <math.h>

/* Where element k of the part is: its matrix, and its row's and column's sums. */
typedef struct place {
    int64_t matrix, row, column;
} place;

static place place_of(const sy_factored *s, int64_t k)
{
    const int64_t i = s->first + k, matrix = i / (s->rows * s->columns);
    return (place){matrix, i / s->columns, matrix * s->columns + i % s->columns};
}

/* u = g / sqrt(V) with V = R C / sum R. */
static double update_of(double g, const sy_tensor *row, const sy_tensor *column,
                        const sy_tensor *total, place at)
{
    const double R = ((double *)row->data)[at.row], C = ((double *)column->data)[at.column];
    return g / (sqrt(R / ((double *)total->data)[at.matrix]) * sqrt(C));
}

sy_status sy__ref_adafactor_sums(sy_stream *stream, const sy_adafactor_sums_args *args)
{
    (void)stream;
    const double *grad = args->grad.data, *master = args->master.data;
    const double scale = ((double *)args->ctl.data)[SY_CTL_GRAD_SCALE];
    for (int64_t k = 0; k < args->grad.shape[0]; k++) {
        const place at = place_of(&args->shape, k);
        const double g = grad[k] * scale, square = g * g + args->eps1;
        ((double *)args->row_sum.data)[at.row] += square;
        ((double *)args->column_sum.data)[at.column] += square;
        ((double *)args->squares.data)[at.matrix] += master[k] * master[k];
    }
    return SY_OK;
}

static void decay(const sy_tensor *state, const sy_tensor *sums, const double *ctl)
{
    double *x = state->data, *sum = sums->data;
    for (int64_t i = 0; i < state->shape[0] && ctl[SY_CTL_SKIP] == 0; i++) {
        x[i] = ctl[SY_CTL_DECAY] * x[i] + (1 - ctl[SY_CTL_DECAY]) * sum[i];
    }
}

sy_status sy__ref_adafactor_moments(sy_stream *stream, const sy_adafactor_moments_args *args)
{
    (void)stream;
    const int64_t B = args->total.shape[0], n = B > 0 ? args->row.shape[0] / B : 0;
    double *total = args->total.data;
    decay(&args->row, &args->row_sum, args->ctl.data);
    decay(&args->column, &args->column_sum, args->ctl.data);
    for (int64_t b = 0; b < B; b++) {
        total[b] = 0;
        for (int64_t i = 0; i < n; i++) {
            total[b] += ((double *)args->row.data)[b * n + i];
        }
    }
    return SY_OK;
}

sy_status sy__ref_adafactor_squares(sy_stream *stream, const sy_adafactor_squares_args *args)
{
    (void)stream;
    const double *grad = args->grad.data;
    const double scale = ((double *)args->ctl.data)[SY_CTL_GRAD_SCALE];
    for (int64_t k = 0; k < args->grad.shape[0]; k++) {
        const place at = place_of(&args->shape, k);
        const double u = update_of(grad[k] * scale, &args->row, &args->column, &args->total, at);
        ((double *)args->squares.data)[at.matrix] += u * u;
    }
    return SY_OK;
}

/* The rate of a matrix, and what its update is divided by. */
static double rate_of(const sy_adafactor_args *args, int64_t matrix, double *divisor)
{
    const double n = (double)(args->shape.rows * args->shape.columns);
    const double lr = ((double *)args->ctl.data)[SY_CTL_LR];
    const double value = sqrt(((double *)args->param_squares.data)[matrix] / n);
    const double update = sqrt(((double *)args->update_squares.data)[matrix] / n);
    *divisor = args->clip > 0 ? fmax(1, update / args->clip) : 1;
    return args->scale_parameter ? lr * fmax(args->eps2, value) : lr;
}

sy_status sy__ref_adafactor(sy_stream *stream, const sy_adafactor_args *args)
{
    (void)stream;
    const double *ctl = args->ctl.data;
    double *master = args->master.data, *m = args->m.data, *grad = args->grad.data;
    const int64_t n = args->master.shape[0];
    for (int64_t k = 0; k < n && ctl[SY_CTL_SKIP] == 0; k++) {
        const place at = place_of(&args->shape, k);
        const double g = grad[k] * ctl[SY_CTL_GRAD_SCALE];
        double divisor, rate = rate_of(args, at.matrix, &divisor);
        double step = rate * update_of(g, &args->row, &args->column, &args->total, at) / divisor;
        if (m) {
            m[k] = args->beta1 * m[k] + (1 - args->beta1) * step;
            step = m[k];
        }
        master[k] -= step + rate * args->decay * master[k];
        if (args->param.data) {
            ((double *)args->param.data)[k] = master[k];
        }
    }
    memset(grad, 0, (size_t)n * sizeof *grad);
    return SY_OK;
}

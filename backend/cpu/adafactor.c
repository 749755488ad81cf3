/* Adafactor: passes over the rows that a part touches, and one over its columns; sums in double, in
   an order that the shapes alone decide. */
#include "backend/cpu/tile_impl.h"

#include <math.h>

/* Elements [begin, end) of the part, columns [column, ..) of row `row` of all rows. */
typedef struct run {
    int64_t begin, end, row, column;
} run;

static int64_t first_row(const sy_factored *s)
{
    return s->first / s->columns;
}

static int64_t n_rows(const sy_factored *s, int64_t n)
{
    return n > 0 ? (s->first + n - 1) / s->columns - first_row(s) + 1 : 0;
}

static run run_of(const sy_factored *s, int64_t n, int64_t row)
{
    const int64_t at = row * s->columns - s->first;
    const int64_t begin = at > 0 ? at : 0;
    return (run){begin, sy__cpu_min(at + s->columns, n), row, begin - at};
}

SY_CPU_CLONES static double squares_run(const float *x, int64_t n, float scale, double eps)
{
    enum { LANES = 16 };
    double lane[LANES] = {0}, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const float v = x[i] * scale;
        lane[i % LANES] += (double)v * (double)v + eps;
    }
    for (int l = 0; l < LANES; l++) {
        sum += lane[l];
    }
    return sum;
}

SY_CPU_CLONES static void column_run(double *sum, const float *x, int64_t n, float scale,
                                     double eps)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        const float v = x[i] * scale;
        sum[i] += (double)v * (double)v + eps;
    }
}

/* What matrices get from their rows' numbers x [rows of the part], in order. */
static void add_rows(double *out, const double *x, const sy_factored *s, int64_t from, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        out[(from + i) / s->rows] += x[i];
    }
}

/* Every thread has columns of its own, all rows of them. */
static void add_columns(sy_stream *stream, const sy_adafactor_sums_args *args, float scale)
{
    enum { WIDTH = 256 };
    const sy_factored *s = &args->shape;
    const int64_t n = args->grad.shape[0], from = first_row(s), rows = n_rows(s, n);
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (n > SY_CPU_PARALLEL_MIN)
    for (int64_t c = 0; c < s->columns; c += WIDTH) {
        for (int64_t i = 0; i < rows; i++) {
            const run r = run_of(s, n, from + i);
            const int64_t width = r.end - r.begin;
            const int64_t begin = c > r.column ? c : r.column;
            const int64_t end = sy__cpu_min(c + WIDTH, r.column + width);
            double *sum = (double *)args->column_sum.data + r.row / s->rows * s->columns;
            if (begin < end) {
                column_run(sum + begin, (const float *)args->grad.data + r.begin + begin - r.column,
                           end - begin, scale, args->eps1);
            }
        }
    }
}

enum { ROUND = SY_WORKSPACE_BYTES / (int)sizeof(double) };

sy_status sy__cpu_adafactor_sums(sy_stream *stream, const sy_adafactor_sums_args *args)
{
    const sy_factored *s = &args->shape;
    const int64_t n = args->grad.shape[0], from = first_row(s), rows = n_rows(s, n);
    const float scale = (float)((double *)args->ctl.data)[SY_CTL_GRAD_SCALE];
    const float *grad = args->grad.data, *master = args->master.data;
    double *row_sum = args->row_sum.data, *squares = sy_stream_workspace(stream);
    const int threads = sy__cpu_threads(stream);
    for (int64_t done = 0; done < rows; done += ROUND) {
        const int64_t m = sy__cpu_min(ROUND, rows - done);
#pragma omp parallel for num_threads(threads) schedule(static) if (n > SY_CPU_PARALLEL_MIN)
        for (int64_t i = 0; i < m; i++) {
            const run r = run_of(s, n, from + done + i);
            row_sum[r.row] += squares_run(grad + r.begin, r.end - r.begin, scale, args->eps1);
            squares[i] = squares_run(master + r.begin, r.end - r.begin, 1, 0);
        }
        add_rows(args->squares.data, squares, s, from + done, m);
    }
    add_columns(stream, args, scale);
    return SY_OK;
}

static void decay(float *x, const double *sum, int64_t n, const double *ctl)
{
    const double old = ctl[SY_CTL_DECAY], new = 1 - old;
    for (int64_t i = 0; i < n && ctl[SY_CTL_SKIP] == 0; i++) {
        x[i] = (float)(old * (double)x[i] + new *sum[i]);
    }
}

sy_status sy__cpu_adafactor_moments(sy_stream *stream, const sy_adafactor_moments_args *args)
{
    (void)stream;
    const int64_t B = args->total.shape[0], n = B > 0 ? args->row.shape[0] / B : 0;
    const float *row = args->row.data;
    double *total = args->total.data;
    decay(args->row.data, args->row_sum.data, args->row.shape[0], args->ctl.data);
    decay(args->column.data, args->column_sum.data, args->column.shape[0], args->ctl.data);
    for (int64_t b = 0; b < B; b++) {
        total[b] = 0;
        for (int64_t i = 0; i < n; i++) {
            total[b] += (double)row[b * n + i];
        }
    }
    return SY_OK;
}

/* u[i] = c * g[i] / sqrt(column[i]); u may be g. */
SY_CPU_CLONES static void update_run(float *u, const float *g, const float *column, int64_t n,
                                     float c)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        u[i] = c * g[i] / sqrtf(column[i]);
    }
}

/* sqrt(sum R / R_i) of a row, or 0 where there has been no step. */
static float row_factor(const sy_tensor *row, const sy_tensor *total, const run *r, int64_t rows)
{
    const double R = (double)((float *)row->data)[r->row];
    return R > 0 ? (float)sqrt(((double *)total->data)[r->row / rows] / R) : 0.0F;
}

sy_status sy__cpu_adafactor_squares(sy_stream *stream, const sy_adafactor_squares_args *args)
{
    const sy_factored *s = &args->shape;
    const int64_t n = args->grad.shape[0], from = first_row(s), rows = n_rows(s, n);
    const float scale = (float)((double *)args->ctl.data)[SY_CTL_GRAD_SCALE];
    const float *grad = args->grad.data, *columns = args->column.data;
    double *squares = sy_stream_workspace(stream);
    const int threads = sy__cpu_threads(stream);
    for (int64_t done = 0; done < rows; done += ROUND) {
        const int64_t m = sy__cpu_min(ROUND, rows - done);
#pragma omp parallel for num_threads(threads) schedule(static) if (n > SY_CPU_PARALLEL_MIN)
        for (int64_t i = 0; i < m; i++) {
            const run r = run_of(s, n, from + done + i);
            const float c = scale * row_factor(&args->row, &args->total, &r, s->rows);
            const float *column = columns + r.row / s->rows * s->columns + r.column;
            float u[SY_CPU_TILE];
            squares[i] = 0;
            for (int64_t k = 0; k < r.end - r.begin; k += SY_CPU_TILE) {
                const int64_t len = sy__cpu_min(SY_CPU_TILE, r.end - r.begin - k);
                update_run(u, grad + r.begin + k, column + k, len, c);
                squares[i] += squares_run(u, len, 1, 0);
            }
        }
        add_rows(args->squares.data, squares, s, from + done, m);
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

/* master -= step + fade * master; with momentum the step goes through m. */
SY_CPU_CLONES static void move_run(float *master, float *m, const float *step, int64_t n,
                                   float beta1, float fade)
{
    const float rest1 = 1.0F - beta1;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        float move = step[i];
        if (m != NULL) {
            move = m[i] = beta1 * m[i] + rest1 * move;
        }
        master[i] -= move + fade * master[i];
    }
}

static void update_row(const sy_adafactor_args *args, const run *r)
{
    const sy_factored *s = &args->shape;
    const int64_t matrix = r->row / s->rows;
    double divisor, rate = rate_of(args, matrix, &divisor);
    const double scale = ((double *)args->ctl.data)[SY_CTL_GRAD_SCALE];
    const float c =
        (float)(scale * rate / divisor * (double)row_factor(&args->row, &args->total, r, s->rows));
    const float *column = (const float *)args->column.data + matrix * s->columns + r->column;
    float *master = args->master.data, *m = args->m.data, *grad = args->grad.data;
    float step[SY_CPU_TILE];
    for (int64_t k = r->begin; k < r->end; k += SY_CPU_TILE) {
        const int64_t len = sy__cpu_min(SY_CPU_TILE, r->end - k);
        update_run(step, grad + k, column + k - r->begin, len, c);
        move_run(master + k, m != NULL ? m + k : NULL, step, len, (float)args->beta1,
                 (float)(rate * args->decay));
        if (args->param.data != NULL) {
            float *param = sy__tile_target(&args->param, k, step);
            memcpy(param, master + k, (size_t)len * sizeof *param);
            sy__tile_write(&args->param, k, len, step);
        }
    }
}

sy_status sy__cpu_adafactor(sy_stream *stream, const sy_adafactor_args *args)
{
    const sy_factored *s = &args->shape;
    const int64_t n = args->grad.shape[0], from = first_row(s), rows = n_rows(s, n);
    const bool skip = ((double *)args->ctl.data)[SY_CTL_SKIP] != 0;
    float *grad = args->grad.data;
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (n > SY_CPU_PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++) {
        const run r = run_of(s, n, from + i);
        if (!skip) {
            update_row(args, &r);
        }
        memset(grad + r.begin, 0, (size_t)(r.end - r.begin) * sizeof *grad);
    }
    return SY_OK;
}

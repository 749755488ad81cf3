/* Adafactor: a block per row that the part touches, a thread per column; what a matrix sums up goes
   through one number per row, which are added in order. */
#include "backend/cuda/kernel_impl.cuh"

namespace
{

enum { THREADS = 256 };

/* Elements [begin, end) of the part, columns [column, ..) of row `row` of all rows. */
struct run {
    int64_t begin, end, row, column;
};

inline int64_t first_row(const sy_factored &s)
{
    return s.first / s.columns;
}

inline int64_t n_rows(const sy_factored &s, int64_t n)
{
    return n > 0 ? (s.first + n - 1) / s.columns - first_row(s) + 1 : 0;
}

__device__ inline run run_of(const sy_factored &s, int64_t n, int64_t row)
{
    const int64_t at = row * s.columns - s.first;
    const int64_t begin = at > 0 ? at : 0;
    const int64_t end = at + s.columns < n ? at + s.columns : n;
    return {begin, end, row, begin - at};
}

/* of_row [rows of this launch] = the sum of master^2. */
__global__ void row_sums_kernel(const float *grad, const float *master, const double *ctl,
                                double *row_sum, double *of_row, sy_factored s, int64_t n,
                                int64_t from, double eps)
{
    const run r = run_of(s, n, from + blockIdx.x);
    const float scale = (float)ctl[SY_CTL_GRAD_SCALE];
    double sum = 0, squares = 0;
    for (int64_t k = r.begin + threadIdx.x; k < r.end; k += blockDim.x) {
        const double g = (double)(grad[k] * scale), v = (double)master[k];
        sum += g * g + eps;
        squares += v * v;
    }
    sum = block_sum(sum);
    squares = block_sum(squares);
    if (threadIdx.x == 0) {
        row_sum[r.row] += sum;
        of_row[blockIdx.x] = squares;
    }
}

/* A thread has a column of the matrix blockIdx.y beyond the part's first. */
__global__ void column_sums_kernel(const float *grad, const double *ctl, double *column_sum,
                                   sy_factored s, int64_t n, int64_t first_matrix, double eps)
{
    const int64_t j = grid_index(), matrix = first_matrix + blockIdx.y;
    if (j >= s.columns) {
        return;
    }
    const float scale = (float)ctl[SY_CTL_GRAD_SCALE];
    const int64_t at = matrix * s.rows * s.columns + j - s.first; /* in the part, of row 0 */
    double sum = 0;
    int64_t i = at < 0 ? (-at + s.columns - 1) / s.columns : 0;
    for (; i < s.rows && at + i * s.columns < n; i++) {
        const double g = (double)(grad[at + i * s.columns] * scale);
        sum += g * g + eps;
    }
    column_sum[matrix * s.columns + j] += sum;
}

/* out[matrix] += its rows' numbers of this launch, in order; a block has a matrix. */
__global__ void add_rows_kernel(const double *of_row, double *out, int64_t rows, int64_t from,
                                int64_t n)
{
    const int64_t matrix = from / rows + blockIdx.x;
    const int64_t begin = matrix * rows > from ? matrix * rows : from;
    const int64_t end = (matrix + 1) * rows < from + n ? (matrix + 1) * rows : from + n;
    double sum = 0;
    for (int64_t r = begin + threadIdx.x; r < end; r += blockDim.x) {
        sum += of_row[r - from];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        out[matrix] += sum;
    }
}

sy_status add_rows(sy_stream *stream, double *out, const sy_factored &s, int64_t from, int64_t n)
{
    const int64_t n_matrices = n > 0 ? (from + n - 1) / s.rows - from / s.rows + 1 : 0;
    return launch(stream, "adafactor", (unsigned)n_matrices, THREADS, 0, add_rows_kernel,
                  (double *)stream->workspace, out, s.rows, from, n);
}

__global__ void decay_kernel(float *x, const double *sum, const double *ctl, int64_t n)
{
    const int64_t i = grid_index();
    const double old = ctl[SY_CTL_DECAY];
    if (i < n && ctl[SY_CTL_SKIP] == 0) {
        x[i] = (float)(old * (double)x[i] + (1 - old) * sum[i]);
    }
}

__global__ void total_kernel(const float *row, double *total, int64_t rows)
{
    double sum = 0;
    for (int64_t i = threadIdx.x; i < rows; i += blockDim.x) {
        sum += (double)row[blockIdx.x * rows + i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        total[blockIdx.x] = sum;
    }
}

/* sqrt(sum R / R_i) of a row, or 0 where there has been no step. */
__device__ inline float row_factor(const float *row, const double *total, const run &r,
                                   int64_t rows)
{
    const double R = (double)row[r.row];
    return R > 0 ? (float)sqrt(total[r.row / rows] / R) : 0.0f;
}

__global__ void squares_kernel(const float *grad, const double *ctl, const float *row,
                               const float *column, const double *total, double *of_row,
                               sy_factored s, int64_t n, int64_t from)
{
    const run r = run_of(s, n, from + blockIdx.x);
    const float c = (float)ctl[SY_CTL_GRAD_SCALE] * row_factor(row, total, r, s.rows);
    const float *C = column + r.row / s.rows * s.columns + r.column;
    double sum = 0;
    for (int64_t k = r.begin + threadIdx.x; k < r.end; k += blockDim.x) {
        const double u = (double)(c * grad[k] / sqrtf(C[k - r.begin]));
        sum += u * u;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        of_row[blockIdx.x] = sum;
    }
}

struct rules {
    double clip, eps2, decay;
    float beta1;
    bool scale_parameter;
};

template <class T>
__global__ void adafactor_kernel(float *master, float *m, float *grad, T *param, const double *ctl,
                                 const float *row, const float *column, const double *total,
                                 const double *param_squares, const double *update_squares,
                                 sy_factored s, int64_t n, int64_t from, rules rule)
{
    const run r = run_of(s, n, from + blockIdx.x);
    const int64_t matrix = r.row / s.rows;
    const double size = (double)(s.rows * s.columns);
    const double value = sqrt(param_squares[matrix] / size);
    const double update = sqrt(update_squares[matrix] / size);
    const double over = rule.clip > 0 ? update / rule.clip : 1;
    const double rate = ctl[SY_CTL_LR] * (!rule.scale_parameter ? 1
                                          : value > rule.eps2   ? value
                                                                : rule.eps2);
    const float c = (float)(ctl[SY_CTL_GRAD_SCALE] * rate / (over > 1 ? over : 1) *
                            (double)row_factor(row, total, r, s.rows));
    const float fade = (float)(rate * rule.decay);
    const float *C = column + matrix * s.columns + r.column;
    const bool skip = ctl[SY_CTL_SKIP] != 0;
    for (int64_t k = r.begin + threadIdx.x; k < r.end; k += blockDim.x) {
        if (!skip) {
            float step = c * grad[k] / sqrtf(C[k - r.begin]);
            if (m) {
                step = m[k] = rule.beta1 * m[k] + (1 - rule.beta1) * step;
            }
            const float moved = master[k] - (step + fade * master[k]);
            master[k] = moved;
            if (param) {
                param[k] = narrow<T>(moved);
            }
        }
        grad[k] = 0;
    }
}

constexpr int64_t ROUND = SY_WORKSPACE_BYTES / 8; /* rows of a launch */

} // namespace

sy_status sy__cuda_adafactor_sums(sy_stream *stream, const sy_adafactor_sums_args *args)
{
    sy_status st = SY_OK;
    const sy_factored s = args->shape;
    const int64_t n = args->grad.shape[0], from = first_row(s), rows = n_rows(s, n);
    const int64_t matrix = from / s.rows,
                  n_matrices = rows > 0 ? (from + rows - 1) / s.rows - matrix + 1 : 0;
    for (int64_t done = 0; done < rows; done += ROUND) {
        const int64_t m = rows - done < ROUND ? rows - done : ROUND;
        SY_TRY(launch(stream, "adafactor_sums", (unsigned)m, THREADS, 0, row_sums_kernel,
                      data<float>(args->grad), data<float>(args->master), data<double>(args->ctl),
                      data<double>(args->row_sum), (double *)stream->workspace, s, n, from + done,
                      args->eps1));
        SY_TRY(add_rows(stream, data<double>(args->squares), s, from + done, m));
    }
    for (int64_t done = 0; done < n_matrices; done += 32768) { /* a grid's second side is short */
        const int64_t m = n_matrices - done < 32768 ? n_matrices - done : 32768;
        SY_TRY(launch(stream, "adafactor_sums", dim3(blocks_for(s.columns, THREADS), (unsigned)m),
                      THREADS, 0, column_sums_kernel, data<float>(args->grad),
                      data<double>(args->ctl), data<double>(args->column_sum), s, n, matrix + done,
                      args->eps1));
    }
cleanup:
    return st;
}

sy_status sy__cuda_adafactor_moments(sy_stream *stream, const sy_adafactor_moments_args *args)
{
    sy_status st = SY_OK;
    const int64_t B = args->total.shape[0], n_row = args->row.shape[0];
    const int64_t n_column = args->column.shape[0];
    SY_TRY(launch(stream, "adafactor_moments", blocks_for(n_row, THREADS), THREADS, 0, decay_kernel,
                  data<float>(args->row), data<double>(args->row_sum), data<double>(args->ctl),
                  n_row));
    SY_TRY(launch(stream, "adafactor_moments", blocks_for(n_column, THREADS), THREADS, 0,
                  decay_kernel, data<float>(args->column), data<double>(args->column_sum),
                  data<double>(args->ctl), n_column));
    SY_TRY(launch(stream, "adafactor_moments", (unsigned)B, THREADS, 0, total_kernel,
                  data<float>(args->row), data<double>(args->total), B > 0 ? n_row / B : 0));
cleanup:
    return st;
}

sy_status sy__cuda_adafactor_squares(sy_stream *stream, const sy_adafactor_squares_args *args)
{
    sy_status st = SY_OK;
    const sy_factored s = args->shape;
    const int64_t n = args->grad.shape[0], from = first_row(s), rows = n_rows(s, n);
    for (int64_t done = 0; done < rows; done += ROUND) {
        const int64_t m = rows - done < ROUND ? rows - done : ROUND;
        SY_TRY(launch(stream, "adafactor_squares", (unsigned)m, THREADS, 0, squares_kernel,
                      data<float>(args->grad), data<double>(args->ctl), data<float>(args->row),
                      data<float>(args->column), data<double>(args->total),
                      (double *)stream->workspace, s, n, from + done));
        SY_TRY(add_rows(stream, data<double>(args->squares), s, from + done, m));
    }
cleanup:
    return st;
}

sy_status sy__cuda_adafactor(sy_stream *stream, const sy_adafactor_args *args)
{
    const rules rule = {args->clip, args->eps2, args->decay, (float)args->beta1,
                        args->scale_parameter};
    return by_type(args->param.data ? args->param.dtype : SY_F32, [&](auto zero) {
        using T = decltype(zero);
        const sy_factored s = args->shape;
        const int64_t n = args->master.shape[0];
        return launch(stream, "adafactor", (unsigned)n_rows(s, n), THREADS, 0, adafactor_kernel<T>,
                      data<float>(args->master), data<float>(args->m), data<float>(args->grad),
                      data<T>(args->param), data<double>(args->ctl), data<float>(args->row),
                      data<float>(args->column), data<double>(args->total),
                      data<double>(args->param_squares), data<double>(args->update_squares), s, n,
                      first_row(s), rule);
    });
}

/* Matrix products: C = alpha op(A) op(B) + beta C, and one product per expert. A row of C is a sum
   of rows of B where B is as stored, or a row of dot products where B is transposed: both walk
   memory in order. */
#include "backend/ref/ref_impl.h"

/* y += a * x */
static void axpy(double *y, double a, const double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] += a * x[i];
    }
}

static void scale_row(double *y, double beta, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] = beta == 0 ? 0 : beta * y[i]; /* beta 0: what stands there, a NaN too, is not read */
    }
}

/* c[M, N] = alpha * sum_k op(a)[i, k] op(b)[k, j] + beta * c. Element (i, k) of op(a) lies at a + i
 * * a_i + k * a_k. */
typedef struct product {
    int64_t M, N, K;
    const double *a, *b;
    double *c;
    int64_t a_i, a_k, ldb, ldc;
    bool trans_b;
    double alpha, beta;
} product;

static void multiply(const product *p)
{
    for (int64_t i = 0; i < p->M; i++) {
        double *c = p->c + i * p->ldc;
        scale_row(c, p->beta, p->N);
        for (int64_t k = 0; k < p->K && !p->trans_b; k++) {
            axpy(c, p->alpha * p->a[i * p->a_i + k * p->a_k], p->b + k * p->ldb, p->N);
        }
        for (int64_t j = 0; j < p->N && p->trans_b; j++) {
            double sum = 0;
            for (int64_t k = 0; k < p->K; k++) {
                sum += p->a[i * p->a_i + k * p->a_k] * p->b[j * p->ldb + k];
            }
            c[j] += p->alpha * sum;
        }
    }
}

sy_status sy__ref_gemm(sy_stream *stream, const sy_gemm_args *args)
{
    (void)stream;
    const int64_t lda = args->a.stride[0];
    multiply(&(product){.M = args->c.shape[0],
                        .N = args->c.shape[1],
                        .K = args->a.shape[args->trans_a ? 0 : 1],
                        .a = args->a.data,
                        .b = args->b.data,
                        .c = args->c.data,
                        .a_i = args->trans_a ? 1 : lda,
                        .a_k = args->trans_a ? lda : 1,
                        .ldb = args->b.stride[0],
                        .ldc = args->c.stride[0],
                        .trans_b = args->trans_b,
                        .alpha = args->alpha,
                        .beta = args->beta});
    return SY_OK;
}

/* Rows (or columns) of the matrix of expert e that count, of n. */
static int64_t used(const sy_grouped_gemm_args *args, int64_t e, sy_grouped_units units, int64_t n)
{
    const int32_t *width = args->width.data;
    return width != NULL && args->units == units ? width[e] : n;
}

/* Forward and dgrad: the n rows of expert e against its own matrix. */
static void expert_rows(const sy_grouped_gemm_args *args, int64_t e, int64_t first, int64_t n)
{
    const bool forward = args->form == SY_GROUPED_NT;
    const sy_grouped_units of_c = forward ? SY_UNITS_ROWS : SY_UNITS_COLUMNS;
    const sy_grouped_units of_k = forward ? SY_UNITS_COLUMNS : SY_UNITS_ROWS;
    const int64_t N = used(args, e, of_c, args->c.shape[1]);
    for (int64_t i = 0; i < n; i++) {
        scale_row(sy__ref_row(&args->c, first + i) + N, args->beta, args->c.shape[1] - N);
    }
    multiply(&(product){.M = n,
                        .N = N,
                        .K = used(args, e, of_k, args->a.shape[1]),
                        .a = sy__ref_row(&args->a, first),
                        .b = sy__ref_row(&args->b, e),
                        .c = sy__ref_row(&args->c, first),
                        .a_i = args->a.stride[0],
                        .a_k = 1,
                        .ldb = args->b.stride[1],
                        .ldc = args->c.stride[0],
                        .trans_b = forward,
                        .alpha = 1,
                        .beta = args->beta});
}

/* wgrad: c[e] += a_e^T b_e. */
static void expert_weight(const sy_grouped_gemm_args *args, int64_t e, int64_t first, int64_t n)
{
    multiply(&(product){.M = used(args, e, SY_UNITS_ROWS, args->c.shape[1]),
                        .N = used(args, e, SY_UNITS_COLUMNS, args->c.shape[2]),
                        .K = n,
                        .a = sy__ref_row(&args->a, first),
                        .b = sy__ref_row(&args->b, first),
                        .c = sy__ref_row(&args->c, e),
                        .a_i = 1,
                        .a_k = args->a.stride[0],
                        .ldb = args->b.stride[0],
                        .ldc = args->c.stride[1],
                        .alpha = 1,
                        .beta = 1});
}

sy_status sy__ref_grouped_gemm(sy_stream *stream, const sy_grouped_gemm_args *args)
{
    (void)stream;
    const int32_t *start = args->start.data;
    const int64_t G = args->start.shape[0] - 1;
    for (int64_t e = 0; e < G; e++) {
        const int64_t first = start[e], n = start[e + 1] - start[e];
        if (args->form == SY_GROUPED_TN) {
            expert_weight(args, e, first, n);
        } else {
            expert_rows(args, e, first, n);
        }
    }
    return SY_OK;
}

/* One product per expert: expert e owns the rows start[e] .. start[e+1]-1. */
#include "backend/cpu/product_impl.h"

#include <string.h>

static const void *row_of(const sy_tensor *t, int64_t row)
{
    return (const char *)t->data + row * t->stride[0] * (int64_t)sy_dtype_bytes(t->dtype);
}

/* Rows (or columns) of the matrix of expert e that count, of n. */
static int64_t used(const sy_grouped_gemm_args *args, int64_t e, sy_grouped_units units, int64_t n)
{
    const int32_t *width = args->width.data;
    return width != NULL && args->units == units ? width[e] : n;
}

/* Columns of c that stand for units which an expert has not are 0. */
static void clear_unused(const sy_grouped_gemm_args *args)
{
    const int32_t *start = args->start.data;
    const int64_t n = args->c.shape[1], bytes = (int64_t)sy_dtype_bytes(args->c.dtype);
    for (int64_t e = 0; e + 1 < args->start.shape[0]; e++) {
        const int64_t have = used(args, e, args->units, n);
        for (int64_t r = start[e]; r < start[e + 1]; r++) {
            memset((char *)row_of(&args->c, r) + have * bytes, 0, (size_t)((n - have) * bytes));
        }
    }
}

static void product_of_expert(const void *list, int64_t e, sy__product *out)
{
    const sy_grouped_gemm_args *args = list;
    const int32_t *start = args->start.data;
    const int64_t rows = start[e + 1] - start[e];
    const bool forward = args->form == SY_GROUPED_NT;
    const sy_grouped_units of_c = forward ? SY_UNITS_ROWS : SY_UNITS_COLUMNS;
    const sy_grouped_units of_k = forward ? SY_UNITS_COLUMNS : SY_UNITS_ROWS;
    *out = (sy__product){.a = row_of(&args->a, start[e]),
                         .lda = args->a.stride[0],
                         .alpha = 1,
                         .beta = (float)args->beta};
    if (args->form == SY_GROUPED_TN) {
        out->b = row_of(&args->b, start[e]);
        out->c = (void *)row_of(&args->c, e);
        out->M = rows > 0 ? used(args, e, SY_UNITS_ROWS, args->c.shape[1])
                          : 0; /* an expert without rows stays untouched */
        out->N = used(args, e, SY_UNITS_COLUMNS, args->c.shape[2]);
        out->K = rows;
        out->ldb = args->b.stride[0];
        out->ldc = args->c.stride[1];
        out->trans_a = true;
    } else {
        out->b = row_of(&args->b, e);
        out->c = (void *)row_of(&args->c, start[e]);
        out->M = rows;
        out->N = used(args, e, of_c, args->c.shape[1]);
        out->K = used(args, e, of_k, args->a.shape[1]);
        out->ldb = args->b.stride[1];
        out->ldc = args->c.stride[0];
        out->trans_b = args->form == SY_GROUPED_NT;
    }
}

sy_status sy__cpu_grouped_gemm(sy_stream *stream, const sy_grouped_gemm_args *args)
{
    const bool of_c =
        args->units == (args->form == SY_GROUPED_NT ? SY_UNITS_ROWS : SY_UNITS_COLUMNS);
    if (args->width.data != NULL && args->form != SY_GROUPED_TN && of_c && args->beta == 0) {
        clear_unused(args);
    }
    return sy__products_run(stream, args->a.dtype, args->c.dtype, args->start.shape[0] - 1,
                            product_of_expert, args);
}

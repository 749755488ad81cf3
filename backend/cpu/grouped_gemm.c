/* One product per expert: expert e owns the rows start[e] .. start[e+1]-1. */
#include "backend/cpu/product_impl.h"

static const void *row_of(const sy_tensor *t, int64_t row)
{
    return (const char *)t->data + row * t->stride[0] * (int64_t)sy_dtype_bytes(t->dtype);
}

static void product_of_expert(const void *list, int64_t e, sy__product *out)
{
    const sy_grouped_gemm_args *args = list;
    const int32_t *start = args->start.data;
    const int64_t rows = start[e + 1] - start[e];
    *out = (sy__product){.a = row_of(&args->a, start[e]),
                         .lda = args->a.stride[0],
                         .alpha = 1,
                         .beta = (float)args->beta};
    if (args->form == SY_GROUPED_TN) {
        out->b = row_of(&args->b, start[e]);
        out->c = (void *)row_of(&args->c, e);
        out->M = rows > 0 ? args->c.shape[1] : 0; /* an expert without rows stays untouched */
        out->N = args->c.shape[2];
        out->K = rows;
        out->ldb = args->b.stride[0];
        out->ldc = args->c.stride[1];
        out->trans_a = true;
    } else {
        out->b = row_of(&args->b, e);
        out->c = (void *)row_of(&args->c, start[e]);
        out->M = rows;
        out->N = args->c.shape[1];
        out->K = args->a.shape[1];
        out->ldb = args->b.stride[1];
        out->ldc = args->c.stride[0];
        out->trans_b = args->form == SY_GROUPED_NT;
    }
}

sy_status sy__cpu_grouped_gemm(sy_stream *stream, const sy_grouped_gemm_args *args)
{
    return sy__products_run(stream, args->a.dtype, args->c.dtype, args->start.shape[0] - 1,
                            product_of_expert, args);
}

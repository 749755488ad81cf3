/* Matrix product. */
#include "backend/cpu/product_impl.h"

static void only_product(const void *list, int64_t i, sy__product *out)
{
    (void)i;
    const sy_gemm_args *args = list;
    *out = (sy__product){.a = args->a.data,
                         .b = args->b.data,
                         .c = args->c.data,
                         .M = args->c.shape[0],
                         .N = args->c.shape[1],
                         .K = args->a.shape[args->trans_a ? 0 : 1],
                         .lda = args->a.stride[0],
                         .ldb = args->b.stride[0],
                         .ldc = args->c.stride[0],
                         .trans_a = args->trans_a,
                         .trans_b = args->trans_b,
                         .alpha = (float)args->alpha,
                         .beta = (float)args->beta};
}

sy_status sy__cpu_gemm(sy_stream *stream, const sy_gemm_args *args)
{
    return sy__products_run(stream, args->a.dtype, args->c.dtype, 1, only_product, args);
}

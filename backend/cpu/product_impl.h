/* Matrix products of any shape on tile products: what gemm and grouped_gemm share. */
#ifndef SY_BACKEND_CPU_PRODUCT_IMPL_H
#define SY_BACKEND_CPU_PRODUCT_IMPL_H

#include "backend/cpu/pack_impl.h"

/* c [M, N] = alpha * op(a) [M, K] op(b) [K, N] + beta * c; strides of the rows as stored. */
typedef struct sy__product {
    const void *a, *b;
    void *c;
    int64_t M, N, K, lda, ldb, ldc;
    bool trans_a, trans_b;
    float alpha, beta;
} sy__product;

/* Product i of a list; M 0 or N 0: nothing to do. */
typedef void sy__product_at(const void *list, int64_t i, sy__product *out);

/* Compute a list of n products with operands in `dtype` and results in `c_dtype`. Not collective.
   Each row of a result is the sum over K in chunks of SY_TILE_K, whatever the threads, M, N or
   other products of the list. */
sy_status sy__products_run(sy_stream *stream, sy_dtype dtype, sy_dtype c_dtype, int64_t n,
                           sy__product_at *at, const void *list);

#endif

/* Matrix products: cuBLASLt for dense ones, a kernel of our own where experts' borders are in
   device memory, and for what cuBLASLt declines. */
#ifndef SY_BACKEND_CUDA_PRODUCT_IMPL_H
#define SY_BACKEND_CUDA_PRODUCT_IMPL_H

#include "backend/cuda/cuda_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What the products of a device keep: dev->ops_self. */
sy_status sy__products_open(sy_device *dev);

/* c = alpha * op(a) op(b) + beta * c by our own kernel, op(a) [M, K], op(b) [K, N]; the same bits
   for a row whatever M is. By rows: start [n_groups+1] cuts op(a)'s rows into groups, each with a b
   of its own. By depth (by_depth): it cuts K, and each group has a c of its own, which is
   untouched where the group is empty. start NULL: one group. K by depth: the rows of a and b, of
   which some may belong to no group. (product.cu) */
typedef enum sy__width_of { SY__WIDTH_M, SY__WIDTH_N, SY__WIDTH_K } sy__width_of;
typedef struct sy__product {
    const void *a, *b;
    void *c;
    int64_t lda, ldb, ldc, b_group, c_group; /* in elements */
    const int32_t *start;
    /* [n_groups] NULL: all of its rows of b^T (c^T) count; else so many, and c's columns beyond are
       beta c; or so much of the depth; or, by depth, so many rows or columns of c. */
    const int32_t *width;
    sy__width_of width_of;
    int32_t n_groups;
    int64_t M, N, K;
    bool trans_a, trans_b, by_depth;
    sy_dtype in, out;
    float alpha, beta;
} sy__product;
sy_status sy__cuda_product(sy_stream *stream, const sy__product *p);

/* Have a device use the next ones, if it is a Hopper GPU, this program was built for those, and
   SY_HOPPER is not 0; a warning where they fail a trial. (hopper.c) */
sy_status sy__hopper_open(sy_device *dev);
/* The same products where a Hopper GPU does them faster: experts' in bf16. *done false: not taken.
   (product_hopper.cu) */
sy_status sy__hopper_product(sy_stream *stream, const sy__product *p, bool *done);
/* The driver's function that describes tensors to the copy engine. NULL: there is none, or this
   program was not built for Hopper (-Dgpu_arch=90a). */
void *sy__hopper_encoder(void);

#ifdef __cplusplus
}
#endif
#endif

/* A borrowed view: pointer, dtype, shape, strides. It owns nothing. data NULL means "absent" for an
 * optional operand. */
#ifndef SY_CORE_TENSOR_H
#define SY_CORE_TENSOR_H

#include "core/dtype.h"
#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SY_MAX_DIM = 4 };

/* A part of a global tensor: elements start[i] .. start[i]+shape[i]-1 of each dimension. */
typedef struct sy_box {
    int32_t n_dim;
    int64_t start[SY_MAX_DIM], shape[SY_MAX_DIM];
} sy_box;

typedef struct sy_tensor {
    void *data;
    sy_dtype dtype;
    int32_t n_dim;
    int64_t shape[SY_MAX_DIM];
    int64_t stride[SY_MAX_DIM]; /* in elements; the last one is 1 wherever an op does not say
                                   otherwise */
} sy_tensor;

/* Contiguous views. */
sy_tensor sy_tensor_1d(void *data, sy_dtype dtype, int64_t n);
sy_tensor sy_tensor_2d(void *data, sy_dtype dtype, int64_t n0, int64_t n1);
sy_tensor sy_tensor_3d(void *data, sy_dtype dtype, int64_t n0, int64_t n1, int64_t n2);
sy_tensor sy_tensor_nd(void *data, sy_dtype dtype, int32_t n_dim, const int64_t *shape);
sy_tensor sy_tensor_none(void); /* absent: data NULL */

/* Slices along dimension 0 and the last dimension; requires 0 <= first, first + n <= extent. */
sy_tensor sy_tensor_rows(const sy_tensor *t, int64_t first, int64_t n);
sy_tensor sy_tensor_cols(const sy_tensor *t, int64_t first, int64_t n);
/* [T, G*D] (row stride kept) seen as [T, G, D]; requires n_dim 2, last stride 1, shape[1] == groups
 * * D. */
sy_tensor sy_tensor_heads(const sy_tensor *t, int64_t groups);

/* Sizes and shape. */
int64_t sy_tensor_numel(const sy_tensor *t); /* 0 where any extent is 0; absent: 0 */
int64_t sy_tensor_bytes(const sy_tensor *t); /* numel * size of dtype */
bool sy_tensor_is_contiguous(const sy_tensor *t);
bool sy_tensor_same_shape(const sy_tensor *a, const sy_tensor *b);
/* "bf16 [4, 256]" into buf; returns buf. */
const char *sy_tensor_format(const sy_tensor *t, char *buf, size_t buf_bytes);

/* *out = a * b (* c); SY_ERR_USAGE on overflow or a negative factor: sizes from outside go through
 * here. */
sy_status sy_size_product(const int64_t *factors, int32_t n, int64_t *out);
/* Checked narrowing for interfaces that take an int (MPI, BLAS). */
sy_status sy_i32_from_i64(int64_t value, int32_t *out);

#ifdef __cplusplus
}
#endif
#endif

/* Building, slicing and describing tensor views; checked size arithmetic for numbers from outside.
 */
#include "core/tensor.h"

#include <inttypes.h>
#include <stdio.h>

sy_tensor sy_tensor_nd(void *data, sy_dtype dtype, int32_t n_dim, const int64_t *shape)
{
    sy_tensor t = {.data = data, .dtype = dtype, .n_dim = n_dim};
    int64_t stride = 1;
    for (int32_t d = n_dim - 1; d >= 0; d--) {
        t.shape[d] = shape[d];
        t.stride[d] = stride;
        stride *= shape[d] > 0 ? shape[d] : 1;
    }
    return t;
}

sy_tensor sy_tensor_1d(void *data, sy_dtype dtype, int64_t n)
{
    return sy_tensor_nd(data, dtype, 1, &n);
}

sy_tensor sy_tensor_2d(void *data, sy_dtype dtype, int64_t n0, int64_t n1)
{
    return sy_tensor_nd(data, dtype, 2, (int64_t[]){n0, n1});
}

sy_tensor sy_tensor_3d(void *data, sy_dtype dtype, int64_t n0, int64_t n1, int64_t n2)
{
    return sy_tensor_nd(data, dtype, 3, (int64_t[]){n0, n1, n2});
}

sy_tensor sy_tensor_none(void)
{
    return (sy_tensor){.data = NULL};
}

static sy_tensor slice(const sy_tensor *t, int32_t dim, int64_t first, int64_t n)
{
    sy_tensor part = *t;
    part.shape[dim] = n;
    if (t->data) {
        part.data = (char *)t->data + first * t->stride[dim] * (int64_t)sy_dtype_bytes(t->dtype);
    }
    return part;
}

sy_tensor sy_tensor_rows(const sy_tensor *t, int64_t first, int64_t n)
{
    return slice(t, 0, first, n);
}

sy_tensor sy_tensor_cols(const sy_tensor *t, int64_t first, int64_t n)
{
    return slice(t, t->n_dim - 1, first, n);
}

sy_tensor sy_tensor_heads(const sy_tensor *t, int64_t groups)
{
    int64_t head_dim = groups > 0 ? t->shape[1] / groups : 0;
    return (sy_tensor){.data = t->data,
                       .dtype = t->dtype,
                       .n_dim = 3,
                       .shape = {t->shape[0], groups, head_dim},
                       .stride = {t->stride[0], head_dim, 1}};
}

int64_t sy_tensor_numel(const sy_tensor *t)
{
    if (!t->data) {
        return 0;
    }
    int64_t n = 1;
    for (int32_t d = 0; d < t->n_dim; d++) {
        n *= t->shape[d];
    }
    return n;
}

int64_t sy_tensor_bytes(const sy_tensor *t)
{
    return sy_tensor_numel(t) * (int64_t)sy_dtype_bytes(t->dtype);
}

bool sy_tensor_is_contiguous(const sy_tensor *t)
{
    int64_t expected = 1;
    if (sy_tensor_numel(t) == 0) {
        return true;
    }
    for (int32_t d = t->n_dim - 1; d >= 0; d--) {
        if (t->shape[d] != 1 && t->stride[d] != expected) {
            return false;
        }
        expected *= t->shape[d];
    }
    return true;
}

bool sy_tensor_same_shape(const sy_tensor *a, const sy_tensor *b)
{
    if (a->n_dim != b->n_dim) {
        return false;
    }
    for (int32_t d = 0; d < a->n_dim; d++) {
        if (a->shape[d] != b->shape[d]) {
            return false;
        }
    }
    return true;
}

const char *sy_tensor_format(const sy_tensor *t, char *buf, size_t buf_bytes)
{
    char shape[SY_MAX_DIM * 24] = "";
    size_t n = 0;
    for (int32_t d = 0; d < t->n_dim; d++) {
        n +=
            (size_t)snprintf(shape + n, sizeof shape - n, "%s%" PRId64, d ? ", " : "", t->shape[d]);
    }
    snprintf(buf, buf_bytes, "%s [%s]%s", sy_dtype_name(t->dtype), shape,
             t->data ? "" : " (absent)");
    return buf;
}

sy_status sy_size_product(const int64_t *factors, int32_t n, int64_t *out)
{
    sy_status st = SY_OK;
    int64_t product = 1;
    bool any_zero = false;
    for (int32_t i = 0; i < n; i++) {
        SY_REQUIRE(factors[i] >= 0, SY_ERR_USAGE, "a size is negative: %" PRId64, factors[i]);
        any_zero = any_zero || factors[i] == 0;
    }
    for (int32_t i = 0; i < n && !any_zero; i++) {
        SY_REQUIRE(!__builtin_mul_overflow(product, factors[i], &product), SY_ERR_USAGE,
                   "a product of sizes does not fit 64 bits (at factor %" PRId64 ")", factors[i]);
    }
    *out = any_zero ? 0 : product;
cleanup:
    return st;
}

sy_status sy_i32_from_i64(int64_t value, int32_t *out)
{
    sy_status st = SY_OK;
    SY_REQUIRE(value >= INT32_MIN && value <= INT32_MAX, SY_ERR_INTERNAL,
               "%" PRId64 " does not fit the 32-bit count of this interface", value);
    *out = (int32_t)value;
cleanup:
    return st;
}

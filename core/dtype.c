/* Sizes, names and conversions of the element types. */
#include "core/dtype.h"

#include <math.h>

static const struct {
    const char *name;
    size_t bytes;
    bool is_float;
} dtypes[SY_N_DTYPES] = {
    [SY_F32] = {"f32", 4, true},  [SY_BF16] = {"bf16", 2, true}, [SY_F64] = {"f64", 8, true},
    [SY_I32] = {"i32", 4, false}, [SY_I64] = {"i64", 8, false},  [SY_U8] = {"u8", 1, false},
};

size_t sy_dtype_bytes(sy_dtype dtype)
{
    return dtypes[dtype].bytes;
}

const char *sy_dtype_name(sy_dtype dtype)
{
    return dtypes[dtype].name;
}

bool sy_dtype_is_float(sy_dtype dtype)
{
    return dtypes[dtype].is_float;
}

/* Rounding twice (to float, then to bf16) can make a tie where there was none. So round to float
   towards zero with a sticky last bit first ("round to odd"); then the second rounding decides as
   if it were alone. */
static sy_bf16 bf16_from_f64(double d)
{
    float f = (float)d;
    if (!isnan(d) && (double)f != d) {
        uint32_t bits;
        memcpy(&bits, &f, sizeof bits);
        if (fabs((double)f) > fabs(d)) {
            bits--;
        }
        bits |= 1U;
        memcpy(&f, &bits, sizeof f);
    }
    return sy_bf16_from_f32(f);
}

static void convert_to_f32(float *dst, sy_dtype src_type, const void *src, int64_t n)
{
    if (src_type == SY_BF16) {
        const sy_bf16 *from = src;
        for (int64_t i = 0; i < n; i++) {
            dst[i] = sy_bf16_to_f32(from[i]);
        }
    } else {
        const double *from = src;
        for (int64_t i = 0; i < n; i++) {
            dst[i] = (float)from[i];
        }
    }
}

static void convert_to_bf16(sy_bf16 *dst, sy_dtype src_type, const void *src, int64_t n)
{
    if (src_type == SY_F32) {
        const float *from = src;
        for (int64_t i = 0; i < n; i++) {
            dst[i] = sy_bf16_from_f32(from[i]);
        }
    } else {
        const double *from = src;
        for (int64_t i = 0; i < n; i++) {
            dst[i] = bf16_from_f64(from[i]);
        }
    }
}

static void convert_to_f64(double *dst, sy_dtype src_type, const void *src, int64_t n)
{
    if (src_type == SY_F32) {
        const float *from = src;
        for (int64_t i = 0; i < n; i++) {
            dst[i] = (double)from[i];
        }
    } else {
        const sy_bf16 *from = src;
        for (int64_t i = 0; i < n; i++) {
            dst[i] = (double)sy_bf16_to_f32(from[i]);
        }
    }
}

void sy_convert(sy_dtype dst_type, void *dst, sy_dtype src_type, const void *src, int64_t n)
{
    if (n <= 0) {
        return;
    }
    if (dst_type == src_type) {
        memmove(dst, src, (size_t)n * sy_dtype_bytes(dst_type));
    } else if (dst_type == SY_F32) {
        convert_to_f32(dst, src_type, src, n);
    } else if (dst_type == SY_BF16) {
        convert_to_bf16(dst, src_type, src, n);
    } else {
        convert_to_f64(dst, src_type, src, n);
    }
}

/* Sizes, names and conversions of the element types. */
#include "core/dtype.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
    bool is_float;
} dtypes[SY_N_DTYPES] = {
    [SY_F32] = {"f32", 4, true},  [SY_BF16] = {"bf16", 2, true}, [SY_F64] = {"f64", 8, true},
    [SY_I32] = {"i32", 4, false}, [SY_I64] = {"i64", 8, false},  [SY_U8] = {"u8", 1, false},
    [SY_F16] = {"f16", 2, true},
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

/* Rounding twice (to float, then to 16 bits) can make a tie where there was none. So round to float
   towards zero with a sticky last bit first ("round to odd"); then the second rounding decides as
   if it were alone. */
static float round_to_odd(double d)
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
    return f;
}

float sy_f16_to_f32(uint16_t x)
{
    uint32_t sign = (uint32_t)(x & 0x8000U) << 16, exponent = (x >> 10) & 31U, man = x & 1023U;
    uint32_t bits = sign | (exponent + 112) << 23 | man << 13;
    float f;
    if (exponent == 31) { /* infinite, or a NaN made quiet */
        bits = sign | 0x7f800000U | man << 13 | (man != 0 ? 0x00400000U : 0);
    } else if (exponent == 0) { /* man * 2^-24 */
        f = (float)man * 0x1p-24F;
        memcpy(&bits, &f, sizeof bits);
        bits |= sign;
    }
    memcpy(&f, &bits, sizeof f);
    return f;
}

uint16_t sy_f16_from_f32(float f)
{
    uint32_t bits, sign;
    memcpy(&bits, &f, sizeof bits);
    sign = (bits >> 16) & 0x8000U;
    bits &= 0x7fffffffU;
    if (bits > 0x7f800000U) {
        return (uint16_t)(sign | 0x7e00U | ((bits >> 13) & 0x3ffU));
    }
    if (bits >= 0x477ff000U) { /* from 65520 on: infinite */
        return (uint16_t)(sign | 0x7c00U);
    }
    if (bits < 0x38800000U) { /* below 2^-14: a multiple of 2^-24, rounded by the addition */
        float shifted;
        memcpy(&shifted, &bits, sizeof shifted);
        shifted += 0.5F; /* its last bit is 2^-24 */
        memcpy(&bits, &shifted, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000U));
    }
    bits += 0xfffU + ((bits >> 13) & 1U);
    return (uint16_t)(sign | ((bits - 0x38000000U) >> 13));
}

/* ---- arrays: every type but F64 is exact in float ---- */

enum { BLOCK = 512 };

static void block_to_f32(float *dst, sy_dtype type, const void *src, int64_t n, bool to_odd)
{
    switch (type) {
    case SY_BF16:
        for (int64_t i = 0; i < n; i++) {
            dst[i] = sy_bf16_to_f32(((const sy_bf16 *)src)[i]);
        }
        break;
    case SY_F16:
        for (int64_t i = 0; i < n; i++) {
            dst[i] = sy_f16_to_f32(((const uint16_t *)src)[i]);
        }
        break;
    case SY_F64:
        for (int64_t i = 0; i < n; i++) {
            double x = ((const double *)src)[i];
            dst[i] = to_odd ? round_to_odd(x) : (float)x;
        }
        break;
    default:
        memcpy(dst, src, (size_t)n * sizeof *dst);
    }
}

static void block_from_f32(sy_dtype type, void *dst, const float *src, int64_t n)
{
    switch (type) {
    case SY_BF16:
        for (int64_t i = 0; i < n; i++) {
            ((sy_bf16 *)dst)[i] = sy_bf16_from_f32(src[i]);
        }
        break;
    case SY_F16:
        for (int64_t i = 0; i < n; i++) {
            ((uint16_t *)dst)[i] = sy_f16_from_f32(src[i]);
        }
        break;
    case SY_F64:
        for (int64_t i = 0; i < n; i++) {
            ((double *)dst)[i] = (double)src[i];
        }
        break;
    default:
        memcpy(dst, src, (size_t)n * sizeof *src);
    }
}

void sy_convert(sy_dtype dst_type, void *dst, sy_dtype src_type, const void *src, int64_t n)
{
    float block[BLOCK];
    const size_t dst_bytes = sy_dtype_bytes(dst_type), src_bytes = sy_dtype_bytes(src_type);
    const bool narrow = dst_bytes == 2; /* the second of two roundings, after F64 to float */
    if (n > 0 && dst_type == src_type) {
        memmove(dst, src, (size_t)n * dst_bytes);
        return;
    }
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t m = n - i < BLOCK ? n - i : BLOCK;
        block_to_f32(block, src_type, (const char *)src + (size_t)i * src_bytes, m, narrow);
        block_from_f32(dst_type, (char *)dst + (size_t)i * dst_bytes, block, m);
    }
}

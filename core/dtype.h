/* Element types, their sizes, and bf16 with round-to-nearest-even. */
#ifndef SY_CORE_DTYPE_H
#define SY_CORE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* F16 is a type of files alone: no backend computes in it. */
typedef enum sy_dtype {
    SY_F32,
    SY_BF16,
    SY_F64,
    SY_I32,
    SY_I64,
    SY_U8,
    SY_F16,
    SY_N_DTYPES
} sy_dtype;

typedef uint16_t sy_bf16; /* the upper half of an IEEE binary32 */

/* Size of an element, its name, and whether it is one of the float types. */
size_t sy_dtype_bytes(sy_dtype dtype);
const char *sy_dtype_name(sy_dtype dtype); /* "f32", "bf16", ... */
bool sy_dtype_is_float(sy_dtype dtype);

static inline float sy_bf16_to_f32(sy_bf16 x)
{
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Round to nearest, ties to even; a NaN stays a (quiet) NaN. */
static inline sy_bf16 sy_bf16_from_f32(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffffU) > 0x7f800000U) {
        return (sy_bf16)((bits >> 16) | 0x0040U);
    }
    return (sy_bf16)((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

/* IEEE binary16: every value is one of binary32, and back with round-to-nearest-even; what is too
   large becomes infinite, a NaN stays a (quiet) NaN. */
float sy_f16_to_f32(uint16_t x);
uint16_t sy_f16_from_f32(float f);

/* n elements between host arrays of any two float types. Not collective. dst may equal src only
   where the types are equal. double -> bf16 or f16 rounds once (not through float). */
void sy_convert(sy_dtype dst_type, void *dst, sy_dtype src_type, const void *src, int64_t n);

#ifdef __cplusplus
}
#endif
#endif

/* Elementary functions that vectorise: plain fp32 arithmetic without branches or calls, about one
   ulp. Sums run in a fixed number of lanes, so that every instruction set gives the same bits. */
#ifndef SY_BACKEND_CPU_VMATH_IMPL_H
#define SY_BACKEND_CPU_VMATH_IMPL_H

#include <stdint.h>
#include <string.h>

/* Partial sums of a reduction: two registers of the widest instruction set. */
enum { SY_CPU_LANES = 32 };

static inline float sy__float_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t sy__bits_of_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* e^x for x <= 88, where the callers stay below 0: 0 below -87 (no denormal result), NaN stays NaN.
 */
static inline float sy__exp(float x)
{
    /* Adding it leaves the nearest integer, and the exponent's bias, in the low bits of the
     * mantissa. */
    const float to_integer = 0x1.8p23F + 127.0F;
    const float shifted = x * 0x1.715476p0F + to_integer;
    const float n = shifted - to_integer;
    /* ln 2 in two parts; the product with the first is exact. |r| <= ln(2) / 2. */
    const float r = (x - n * 0x1.63p-1F) - n * -0x1.bd0106p-13F;
    /* e^r = 1 + r + r^2 q(r), q of minimax relative error 3e-9. */
    float q = 0x1.6a241ap-10F;
    q = q * r + 0x1.1239f2p-7F;
    q = q * r + 0x1.5558f2p-5F;
    q = q * r + 0x1.555492p-3F;
    q = q * r + 0x1.fffffcp-2F;
    const float p = 1.0F + (r + (r * r) * q);
    const float result = p * sy__float_of_bits(sy__bits_of_float(shifted) << 23);
    return x < -87.0F ? 0.0F : result;
}

/* Natural logarithm of a finite x >= the smallest normal number; nothing is promised elsewhere. */
static inline float sy__log(float x)
{
    /* x = m 2^n with m in [sqrt(1/2), sqrt(2)). */
    const uint32_t root_half = 0x3f3504f3U;
    uint32_t bits = sy__bits_of_float(x) - root_half;
    float n = (float)((int32_t)bits >> 23);
    float f = sy__float_of_bits((bits & 0x007fffffU) + root_half) - 1.0F;
    /* log(1 + f) = 2 artanh(s), s = f / (2 + f). */
    float s = f / (2.0F + f), s2 = s * s;
    float q = 2.0F / 9.0F;
    q = q * s2 + 2.0F / 7.0F;
    q = q * s2 + 2.0F / 5.0F;
    q = q * s2 + 2.0F / 3.0F;
    return n * 0x1.63p-1F + (2.0F * s + (s * s2 * q + n * -0x1.bd0106p-13F));
}

/* 1 / (1 + e^-x), by the exponential of -|x|, which cannot overflow. */
static inline float sy__sigmoid(float x)
{
    const float e = sy__exp(x < 0.0F ? x : -x);
    return (x < 0.0F ? e : 1.0F) / (1.0F + e);
}

/* Sum of the lanes, always in the same tree. */
static inline float sy__fold(float lane[SY_CPU_LANES])
{
    for (int width = SY_CPU_LANES / 2; width > 0; width /= 2) {
        for (int l = 0; l < width; l++) {
            lane[l] += lane[l + width];
        }
    }
    return lane[0];
}

#endif

/* Elementary functions that vectorise: plain fp32 arithmetic without branches or calls, about one
   ulp. Sums run in a fixed number of lanes, so that every instruction set gives the same bits. */
#ifndef SY_BACKEND_CPU_VMATH_H
#define SY_BACKEND_CPU_VMATH_H

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

/* e^x. 0 below -104, infinity above 88.8, denormal results kept, NaN stays NaN. */
static inline float sy__exp(float x)
{
    /* Adding it leaves the nearest integer in the low bits of the mantissa. */
    const float to_integer = 0x1.8p23F;
    x = x < -104.0F ? -104.0F : x;
    x = x > 89.0F ? 89.0F : x;
    float shifted = x * 0x1.715476p0F + to_integer;
    float n = shifted - to_integer;
    /* ln 2 in two parts; the product with the first is exact. |r| <= ln(2) / 2. */
    float r = (x - n * 0x1.63p-1F) - n * -0x1.bd0106p-13F;
    float q = 1.0F / 5040.0F;
    q = q * r + 1.0F / 720.0F;
    q = q * r + 1.0F / 120.0F;
    q = q * r + 1.0F / 24.0F;
    q = q * r + 1.0F / 6.0F;
    q = q * r + 0.5F;
    float p = 1.0F + (r + (r * r) * q);
    /* 2^n in two factors: one alone cannot hold n = 128 nor a denormal result. */
    int32_t k = (int32_t)(sy__bits_of_float(shifted) - sy__bits_of_float(to_integer));
    int32_t half = k >> 1;
    return p * sy__float_of_bits((uint32_t)(half + 127) << 23) *
           sy__float_of_bits((uint32_t)(k - half + 127) << 23);
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

static inline float sy__sigmoid(float x)
{
    return 1.0F / (1.0F + sy__exp(-x));
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

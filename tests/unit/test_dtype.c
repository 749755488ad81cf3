/* core/dtype: bf16 rounding against distances computed in double, for every upper half of a float.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/dtype.h"

static float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* A bf16's magnitude in double; infinity counts as 2^128, the next value if the exponent went on.
 */
static double magnitude(uint32_t bf16_bits)
{
    uint32_t bits = bf16_bits & 0x7fffU;
    return bits == 0x7f80U ? 0x1p128 : (double)float_of(bits << 16);
}

/* The nearer of the two neighbours of |x|, the one with an even last bit where both are as near. */
static uint32_t nearest_bf16(double x, uint32_t below)
{
    double down = fabs(x) - magnitude(below), up = magnitude(below + 1) - fabs(x);
    uint32_t magnitude_bits = down < up || (down == up && below % 2 == 0) ? below : below + 1;
    return magnitude_bits | (signbit(x) ? 0x8000U : 0U);
}

static void bf16_every_upper_half_rounds_to_nearest_even(void **state)
{
    (void)state;
    static const uint32_t lower[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
    for (uint32_t upper = 0; upper < 0x10000U; upper++) {
        for (size_t i = 0; i < sizeof lower / sizeof lower[0]; i++) {
            float x = float_of(upper << 16 | lower[i]);
            sy_bf16 got = sy_bf16_from_f32(x);
            if (isnan(x)) {
                assert_true(isnan(sy_bf16_to_f32(got)));
                assert_true(got & 0x0040U);
            } else if (isinf(x)) {
                assert_int_equal(got, upper);
            } else {
                assert_int_equal(got, nearest_bf16((double)x, upper & 0x7fffU));
            }
        }
    }
}

static void bf16_every_value_survives_a_round_trip(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x10000U; bits++) {
        float f = sy_bf16_to_f32((sy_bf16)bits);
        if (!isnan(f)) {
            assert_int_equal(sy_bf16_from_f32(f), bits);
        }
    }
}

static sy_bf16 bf16_of_double(double x)
{
    sy_bf16 out = 0;
    sy_convert(SY_BF16, &out, SY_F64, &x, 1);
    return out;
}

static void bf16_from_double_rounds_once(void **state)
{
    (void)state;
    for (uint32_t below = 0; below < 0x7f80U; below++) {
        double tie = (magnitude(below) + magnitude(below + 1)) / 2;
        uint32_t even = below + below % 2;
        for (int sign = 0; sign < 2; sign++) {
            double s = sign ? -1 : 1;
            uint32_t bit = sign ? 0x8000U : 0;
            assert_int_equal(bf16_of_double(s * tie), even | bit);
            assert_int_equal(bf16_of_double(s * nextafter(tie, 0)), below | bit);
            assert_int_equal(bf16_of_double(s * nextafter(tie, INFINITY)), (below + 1) | bit);
        }
    }
    assert_int_equal(bf16_of_double(1e300), 0x7f80);
    assert_int_equal(bf16_of_double(-1e300), 0xff80);
    assert_int_equal(bf16_of_double(-INFINITY), 0xff80);
    assert_int_equal(bf16_of_double(-0.0), 0x8000);
    assert_int_equal(bf16_of_double(1e-300), 0);
    assert_true(isnan(sy_bf16_to_f32(bf16_of_double(NAN))));
}

static void bf16_known_values_match(void **state)
{
    (void)state;
    assert_int_equal(sy_bf16_from_f32(1.0f), 0x3f80);
    assert_int_equal(sy_bf16_from_f32(-1.0f), 0xbf80);
    assert_int_equal(sy_bf16_from_f32(3.140625f), 0x4049);
    assert_int_equal(sy_bf16_from_f32(float_of(0x3fd88000U)), 0x3fd8);
    assert_int_equal(sy_bf16_from_f32(float_of(0x7f7fffffU)), 0x7f80);
}

/* The value of a binary16 from its fields. */
static double f16_value(uint32_t bits)
{
    int exponent = (int)(bits >> 10) & 31, man = (int)bits & 1023;
    double magnitude = exponent == 0    ? ldexp(man, -24)
                       : exponent == 31 ? INFINITY
                                        : ldexp(1024 + man, exponent - 25);
    return bits & 0x8000U ? -magnitude : magnitude;
}

static uint16_t f16_of_double(double x)
{
    uint16_t out = 0;
    sy_convert(SY_F16, &out, SY_F64, &x, 1);
    return out;
}

static void f16_every_value_has_the_value_of_its_fields(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits <= 0xffffU; bits++) {
        float f = sy_f16_to_f32((uint16_t)bits);
        if ((bits & 0x7fffU) > 0x7c00U) {
            assert_true(isnan(f));
            assert_int_equal(sy_f16_from_f32(f) & 0x7e00U, 0x7e00U);
        } else {
            assert_true((double)f == f16_value(bits));
            assert_int_equal(sy_f16_from_f32(f), bits);
        }
    }
}

static void f16_from_double_rounds_once(void **state)
{
    (void)state;
    for (uint32_t below = 0; below < 0x7bffU; below++) {
        double tie = (f16_value(below) + f16_value(below + 1)) / 2;
        for (int sign = 0; sign < 2; sign++) {
            double s = sign ? -1 : 1;
            uint32_t bit = sign ? 0x8000U : 0;
            assert_int_equal(f16_of_double(s * tie), (below + below % 2) | bit);
            assert_int_equal(f16_of_double(s * nextafter(tie, 0)), below | bit);
            assert_int_equal(f16_of_double(s * nextafter(tie, INFINITY)), (below + 1) | bit);
        }
    }
    assert_int_equal(f16_of_double(65519.999), 0x7bff);
    assert_int_equal(f16_of_double(65520), 0x7c00);
    assert_int_equal(f16_of_double(-1e300), 0xfc00);
    assert_int_equal(f16_of_double(1e-300), 0);
    assert_int_equal(f16_of_double(-0.0), 0x8000);
}

static void convert_between_float_types_keeps_exact_values(void **state)
{
    (void)state;
    const double values[] = {0, -0.0, 1, -2.5, 0.15625, 1e30, INFINITY};
    enum { N = sizeof values / sizeof values[0] };
    double f64[N], back[N];
    float f32[N];
    sy_bf16 bf16[N];
    uint16_t f16[N];
    for (int i = 0; i < N; i++) {
        f64[i] = (double)sy_bf16_to_f32(bf16_of_double(values[i]));
    }
    sy_convert(SY_F32, f32, SY_F64, f64, N);
    sy_convert(SY_BF16, bf16, SY_F32, f32, N);
    sy_convert(SY_F64, back, SY_BF16, bf16, N);
    assert_memory_equal(back, f64, sizeof f64);
    for (int i = 0; i < N; i++) {
        f16[i] = (uint16_t)(i == 5 ? 0x7c00 : f16_of_double(f64[i]));
        f64[i] = i == 5 ? INFINITY : f64[i]; /* 1e30 */
    }
    sy_convert(SY_BF16, bf16, SY_F16, f16, N);
    sy_convert(SY_F16, f16, SY_BF16, bf16, N);
    sy_convert(SY_F32, f32, SY_F16, f16, N);
    sy_convert(SY_F64, back, SY_F32, f32, N);
    assert_memory_equal(back, f64, sizeof f64);
    sy_convert(SY_F64, back, SY_F64, back, N);
    assert_memory_equal(back, f64, sizeof f64);
}

static void dtype_sizes_and_names_are_known(void **state)
{
    (void)state;
    assert_int_equal(sy_dtype_bytes(SY_F32), 4);
    assert_int_equal(sy_dtype_bytes(SY_BF16), 2);
    assert_int_equal(sy_dtype_bytes(SY_F64), 8);
    assert_int_equal(sy_dtype_bytes(SY_I32), 4);
    assert_int_equal(sy_dtype_bytes(SY_I64), 8);
    assert_int_equal(sy_dtype_bytes(SY_U8), 1);
    assert_string_equal(sy_dtype_name(SY_BF16), "bf16");
    assert_int_equal(sy_dtype_bytes(SY_F16), 2);
    assert_true(sy_dtype_is_float(SY_BF16));
    assert_true(sy_dtype_is_float(SY_F16));
    assert_false(sy_dtype_is_float(SY_I32));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bf16_every_upper_half_rounds_to_nearest_even),
        cmocka_unit_test(bf16_every_value_survives_a_round_trip),
        cmocka_unit_test(bf16_from_double_rounds_once),
        cmocka_unit_test(bf16_known_values_match),
        cmocka_unit_test(f16_every_value_has_the_value_of_its_fields),
        cmocka_unit_test(f16_from_double_rounds_once),
        cmocka_unit_test(convert_between_float_types_keeps_exact_values),
        cmocka_unit_test(dtype_sizes_and_names_are_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

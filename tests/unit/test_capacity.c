/* Slots per expert: C = ceil(CF T K / E) in exact arithmetic, its lower and upper bound, and which
   of the two factors is used. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "moe/capacity.h"

static sy_moe_config make(double factor, int32_t K, int32_t E)
{
    return (sy_moe_config){
        .experts = E, .top_k = K, .capacity_factor = {.set = true, .value = factor}};
}

static void slots_are_the_share_of_the_assignments_rounded_up(void **state)
{
    static const struct {
        double factor;
        int32_t K, E;
        int64_t T, C;
    } cases[] = {
        {1.0, 1, 4, 16, 4},
        {1.0, 2, 4, 16, 8},
        {1.0, 1, 4, 17, 5},
        {1.0, 2, 4, 17, 9},
        {1.25, 2, 8, 64, 20},
        {1.25, 1, 8, 65, 11},
        {0.5, 1, 4, 16, 2},
        {0.1, 1, 8, 16, 1},
        {1.5, 2, 64, 10, 1},
        {2.0, 1, 3, 7, 5},
        {1.0, 8, 256, 8192, 256},
        {1.25, 2, 16, 1000, 157}, /* as Megatron and DeepSpeed count; Switch and T5X: 78 */
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sy_moe_config c = make(cases[i].factor, cases[i].K, cases[i].E);
        assert_int_equal(sy_capacity_slots(&c, false, cases[i].T), cases[i].C);
    }
}

/* CF = hundredths / 100 and E divides T K, so that the wanted C comes from whole numbers alone. */
static void decimal_factors_give_the_exact_ceiling(void **state)
{
    sy_moe_config ten = make(1.1, 1, 8);
    (void)state;
    assert_int_equal(sy_capacity_slots(&ten, false, 80), 11); /* 1.1 * 10: above 11 in binary */
    for (int32_t hundredths = 1; hundredths <= 400; hundredths++) {
        for (int64_t share = 1; share <= 200;
             share++) { /* T K / E, with T = 8 share, K / E = 1/8 */
            sy_moe_config c = make(hundredths / 100.0, 1, 8);
            int64_t want = (hundredths * share + 99) / 100;
            int64_t got = sy_capacity_slots(&c, false, 8 * share);
            if (got != want) {
                fail_msg("factor 0.01 * %d, share %ld: %ld slots, not %ld", hundredths, (long)share,
                         (long)got, (long)want);
            }
        }
    }
}

static void a_small_excess_is_still_rounded_up(void **state)
{
    sy_moe_config c = make(1.000001, 1, 8);
    (void)state;
    assert_int_equal(sy_capacity_slots(&c, false, 80), 11);
    assert_int_equal(sy_capacity_slots(&c, false, 8000), 1001);
}

static void min_capacity_is_the_least_and_T_the_most(void **state)
{
    sy_moe_config c = make(1.0, 1, 8);
    (void)state;
    c.min_capacity = 4;
    assert_int_equal(sy_capacity_slots(&c, false, 16), 4);
    assert_int_equal(sy_capacity_slots(&c, false, 32), 4);
    assert_int_equal(sy_capacity_slots(&c, false, 33), 5);
    assert_int_equal(sy_capacity_slots(&c, false, 3), 3); /* no expert gets a token twice */
    assert_int_equal(sy_capacity_slots(&c, false, 0), 0);
    c = make(100, 2, 4);
    assert_int_equal(sy_capacity_slots(&c, false, 16), 16);
}

static void null_factor_is_unlimited_whatever_min_capacity_says(void **state)
{
    sy_moe_config c = {.experts = 8, .top_k = 2, .min_capacity = 4};
    (void)state;
    assert_int_equal(sy_capacity_slots(&c, false, 64), -1);
    assert_int_equal(sy_capacity_slots(&c, true, 64), -1);
    assert_int_equal(sy_capacity_slots(&c, false, 0), -1);
}

static void eval_uses_its_own_factor(void **state)
{
    sy_moe_config c = make(1.0, 1, 8);
    (void)state;
    assert_int_equal(sy_capacity_slots(&c, true, 64), -1);
    c.eval_capacity_factor = (sy_opt_f64){.set = true, .value = 2.0};
    assert_int_equal(sy_capacity_slots(&c, true, 64), 16);
    assert_int_equal(sy_capacity_slots(&c, false, 64), 8);
    c.capacity_factor.set = false;
    assert_int_equal(sy_capacity_slots(&c, true, 64), 16);
    assert_int_equal(sy_capacity_slots(&c, false, 64), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_are_the_share_of_the_assignments_rounded_up),
        cmocka_unit_test(decimal_factors_give_the_exact_ceiling),
        cmocka_unit_test(a_small_excess_is_still_rounded_up),
        cmocka_unit_test(min_capacity_is_the_least_and_T_the_most),
        cmocka_unit_test(null_factor_is_unlimited_whatever_min_capacity_says),
        cmocka_unit_test(eval_uses_its_own_factor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

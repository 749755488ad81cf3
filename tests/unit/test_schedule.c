/* Learning-rate schedules against numbers worked out by hand: lr 0.4, so the default floor is 0.04.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>

#include "optim/schedule.h"

typedef struct rate {
    int64_t step;
    double lr;
} rate;

static sy_optim_config make(sy_schedule schedule, int64_t warmup)
{
    return (sy_optim_config){.lr = 0.4, .schedule = schedule, .warmup_steps = warmup};
}

static void check(const sy_optim_config *config, int64_t decay, const rate *want, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double got = sy_schedule_lr(config, decay, want[i].step);
        if (!(fabs(got - want[i].lr) <= 1e-14)) {
            fail_msg("schedule %d, step %ld: %.17g, not %.17g", config->schedule,
                     (long)want[i].step, got, want[i].lr);
        }
    }
}

#define CHECK(config, decay, ...)                                                                  \
    check(config, decay, (const rate[]){__VA_ARGS__},                                              \
          sizeof((const rate[]){__VA_ARGS__}) / sizeof(rate))

static void every_schedule_warms_up_in_a_straight_line_to_lr(void **state)
{
    (void)state;
    for (int s = SY_SCHEDULE_COSINE; s <= SY_SCHEDULE_CONSTANT; s++) {
        sy_optim_config c = make((sy_schedule)s, 8);
        CHECK(&c, 108, {1, 0.05}, {2, 0.1}, {6, 0.3}, {8, 0.4});
    }
}

/* cos 60, 90, 120 degrees: 0.5, 0, -0.5; the span above the floor is 0.36. */
static void cosine_falls_by_half_a_wave_to_the_floor_and_stays(void **state)
{
    sy_optim_config c = make(SY_SCHEDULE_COSINE, 8);
    (void)state;
    CHECK(&c, 128, {48, 0.31}, {68, 0.22}, {88, 0.13}, {128, 0.04}, {129, 0.04}, {100000, 0.04});
    c.warmup_steps = 0;
    CHECK(&c, 6, {2, 0.31}, {3, 0.22}, {4, 0.13}, {6, 0.04}, {7, 0.04});
}

static void linear_falls_evenly_to_the_floor_and_stays(void **state)
{
    sy_optim_config c = make(SY_SCHEDULE_LINEAR, 8);
    (void)state;
    CHECK(&c, 108, {33, 0.31}, {58, 0.22}, {83, 0.13}, {108, 0.04}, {109, 0.04}, {100000, 0.04});
    c.warmup_steps = 0;
    CHECK(&c, 4, {1, 0.31}, {2, 0.22}, {3, 0.13}, {4, 0.04}, {5, 0.04});
}

static void wsd_is_flat_until_the_last_fifth(void **state)
{
    sy_optim_config c = make(SY_SCHEDULE_WSD, 8);
    (void)state;
    CHECK(&c, 100, {9, 0.4}, {50, 0.4}, {80, 0.4}, {85, 0.31}, {90, 0.22}, {95, 0.13}, {100, 0.04},
          {101, 0.04}, {100000, 0.04});
    c.warmup_steps = 0;
    CHECK(&c, 100, {1, 0.4}, {80, 0.4}, {90, 0.22}, {100, 0.04});
}

static void wsd_whose_warmup_reaches_into_the_last_fifth_falls_from_there(void **state)
{
    sy_optim_config c = make(SY_SCHEDULE_WSD, 90);
    (void)state;
    CHECK(&c, 100, {85, 0.4 * 85 / 90}, {90, 0.4}, {95, 0.22}, {100, 0.04});
}

/* No decay_steps in it: past them it goes on, down to the floor at step 4 * 100. */
static void inverse_sqrt_halves_per_fourfold_step_down_to_the_floor(void **state)
{
    sy_optim_config c = make(SY_SCHEDULE_INVERSE_SQRT, 4);
    (void)state;
    CHECK(&c, 20, {4, 0.4}, {9, 0.8 / 3}, {16, 0.2}, {64, 0.1}, {100, 0.08}, {400, 0.04},
          {401, 0.04}, {10000, 0.04});
    c.warmup_steps = 0;
    CHECK(&c, 20, {1, 0.4}, {4, 0.2}, {16, 0.1}, {100, 0.04}, {10000, 0.04});
}

static void inverse_sqrt_stays_at_lr_until_hold_steps(void **state)
{
    sy_optim_config c = make(SY_SCHEDULE_INVERSE_SQRT, 0);
    (void)state;
    c.hold_steps = 16;
    CHECK(&c, 20, {1, 0.4}, {16, 0.4}, {64, 0.2}, {1600, 0.04});
    c.warmup_steps = 8;
    CHECK(&c, 20, {2, 0.1}, {8, 0.4}, {16, 0.4}, {64, 0.2});
}

static void constant_stays_at_lr(void **state)
{
    sy_optim_config c = make(SY_SCHEDULE_CONSTANT, 8);
    (void)state;
    CHECK(&c, 100, {9, 0.4}, {100, 0.4}, {101, 0.4}, {100000, 0.4});
    c.warmup_steps = 0;
    CHECK(&c, 100, {1, 0.4}, {100, 0.4});
}

/* DeepSeek-V2's two steps; DeepSeek-V3's: flat, half a wave, flat, a step. */
static void phases_follow_one_another_and_the_last_one_stays(void **state)
{
    char *steps[] = {"0.6 constant 1", "0.9 constant 0.316", "1 constant 0.1"};
    char *v3[] = {"0.5 constant 1", "0.75 cosine 0.1", "0.9 linear 0.05", "1 constant 0.025"};
    sy_optim_config c = make(SY_SCHEDULE_PHASES, 8);
    (void)state;
    c.phases = (sy_str_list){steps, 3};
    CHECK(&c, 100, {4, 0.2}, {8, 0.4}, {60, 0.4}, {61, 0.4 * 0.316}, {90, 0.4 * 0.316}, {91, 0.04},
          {100, 0.04}, {1000, 0.04});
    c.phases = (sy_str_list){v3, 4};
    CHECK(&c, 240, {120, 0.4}, {140, 0.4 - 0.36 / 4}, {150, 0.22}, {160, 0.4 - 0.36 * 0.75},
          {180, 0.04}, {198, 0.03}, {216, 0.02}, {217, 0.01}, {1000, 0.01});
}

static void texts_that_are_no_phase_are_known(void **state)
{
    static const char *const bad[] = {
        "",         "0.5",         "0.5 constant", "0 constant 1", "x linear 1",  "1.5 linear 1",
        "1 step 1", "1 linear -1", "1 linear 1 1", "nan linear 1", "1 linear nan"};
    sy_phase phase;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(sy_phase_parse(bad[i], &phase));
    }
    assert_true(sy_phase_parse("0.25 cosine 0.5", &phase));
    assert_true(phase.until == 0.25 && phase.factor == 0.5 && phase.shape == SY_PHASE_COSINE);
}

static void min_lr_that_is_given_replaces_a_tenth_of_lr_even_when_zero(void **state)
{
    static const sy_schedule decaying[] = {SY_SCHEDULE_COSINE, SY_SCHEDULE_LINEAR, SY_SCHEDULE_WSD};
    (void)state;
    for (size_t i = 0; i < sizeof decaying / sizeof decaying[0]; i++) {
        sy_optim_config c = make(decaying[i], 0);
        c.min_lr = (sy_opt_f64){.set = true, .value = 0.3};
        CHECK(&c, 100,
              {90, decaying[i] == SY_SCHEDULE_WSD ? 0.35
                   : decaying[i] == SY_SCHEDULE_LINEAR
                       ? 0.31
                       : 0.35 - 0.05 * 0.95105651629515357 /* cos 18 deg */},
              {100, 0.3}, {1000, 0.3});
        c.min_lr.value = 0;
        CHECK(&c, 100, {100, 0}, {1000, 0});
    }
    sy_optim_config root = make(SY_SCHEDULE_INVERSE_SQRT, 0);
    root.min_lr = (sy_opt_f64){.set = true};
    CHECK(&root, 100, {1600, 0.01});
}

static void decay_that_ends_before_the_warmup_drops_to_the_floor_after_it(void **state)
{
    static const sy_schedule decaying[] = {SY_SCHEDULE_COSINE, SY_SCHEDULE_LINEAR, SY_SCHEDULE_WSD};
    (void)state;
    for (size_t i = 0; i < sizeof decaying / sizeof decaying[0]; i++) {
        sy_optim_config c = make(decaying[i], 16);
        CHECK(&c, 10, {4, 0.1}, {10, 0.25}, {12, 0.3}, {16, 0.4}, {17, 0.04}, {1000, 0.04});
        CHECK(&c, 16, {16, 0.4}, {17, 0.04});
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_schedule_warms_up_in_a_straight_line_to_lr),
        cmocka_unit_test(cosine_falls_by_half_a_wave_to_the_floor_and_stays),
        cmocka_unit_test(linear_falls_evenly_to_the_floor_and_stays),
        cmocka_unit_test(wsd_is_flat_until_the_last_fifth),
        cmocka_unit_test(wsd_whose_warmup_reaches_into_the_last_fifth_falls_from_there),
        cmocka_unit_test(inverse_sqrt_halves_per_fourfold_step_down_to_the_floor),
        cmocka_unit_test(inverse_sqrt_stays_at_lr_until_hold_steps),
        cmocka_unit_test(constant_stays_at_lr),
        cmocka_unit_test(phases_follow_one_another_and_the_last_one_stays),
        cmocka_unit_test(texts_that_are_no_phase_are_known),
        cmocka_unit_test(min_lr_that_is_given_replaces_a_tenth_of_lr_even_when_zero),
        cmocka_unit_test(decay_that_ends_before_the_warmup_drops_to_the_floor_after_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The mixture of an ensemble: weights by Bayes' rule, token by token. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "train/ensemble.h"

enum { MEMBERS = 2, TOKENS = 4 };

typedef struct case_ {
    double prior[MEMBERS], p[MEMBERS][TOKENS]; /* probabilities of what came */
    bool begins[TOKENS], counted[TOKENS];
    double mixed[TOKENS], weight[MEMBERS]; /* results */
} case_;

static void run(case_ *c)
{
    double nll[MEMBERS * TOKENS], scratch[MEMBERS];
    for (int32_t j = 0; j < MEMBERS; j++) {
        for (int32_t t = 0; t < TOKENS; t++) {
            nll[j * TOKENS + t] = -log(c->p[j][t]);
        }
    }
    memset(c->weight, 0, sizeof c->weight);
    sy_mixture_run(&(sy_mixture){.n = MEMBERS,
                                 .prior = c->prior,
                                 .nll = nll,
                                 .T = TOKENS,
                                 .begins = c->begins,
                                 .counted = c->counted,
                                 .mixed = c->mixed,
                                 .weight = c->weight,
                                 .scratch = scratch});
}

static void near(double a, double b)
{
    assert_true(fabs(a - b) <= 1e-12 * fmax(1, fabs(b)));
}

/* By hand. First token: 1/4 of 1/2 and 3/4 of 1/10 is 1/5; the weights become 1/8 to 3/40, that is
   5/8 and 3/8. Second token: 5/8 of 1/4 and 3/8 of 1/2 is 11/32; 5/11 and 6/11. Third: nothing to
   predict. The fourth begins a text: the prior again. */
static void mixture_of_two_members_is_as_worked_out_by_hand(void **state)
{
    case_ c = {.prior = {0.25, 0.75},
               .p = {{0.5, 0.25, 1, 0.2}, {0.1, 0.5, 1, 0.4}},
               .begins = {true, false, false, true},
               .counted = {true, true, false, true}};
    (void)state;
    run(&c);
    near(exp(-c.mixed[0]), 0.2);
    near(exp(-c.mixed[1]), 11.0 / 32);
    near(c.mixed[2], 0);
    near(exp(-c.mixed[3]), 0.25 * 0.2 + 0.75 * 0.4);
    near(c.weight[0], 0.25 + 0.625 + 0.25);
    near(c.weight[1], 0.75 + 0.375 + 0.75);
}

static void mixture_of_equal_members_is_the_member(void **state)
{
    case_ c = {.prior = {0.3, 0.7},
               .p = {{0.5, 0.01, 1e-30, 0.9}, {0.5, 0.01, 1e-30, 0.9}},
               .begins = {true},
               .counted = {true, true, true, true}};
    (void)state;
    run(&c);
    for (int32_t t = 0; t < TOKENS; t++) {
        near(c.mixed[t], -log(c.p[0][t]));
    }
    near(c.weight[0], 4 * 0.3);
}

/* A member that is certainly wrong loses all its weight, one that is a little wrong gets it back.
 */
static void weights_of_hopeless_members_vanish_and_nothing_overflows(void **state)
{
    case_ c = {.prior = {0.5, 0.5},
               .p = {{1e-300, 1e-300, 0.5, 0.5}, {0.5, 0.5, 0.25, 0.25}},
               .begins = {true},
               .counted = {true, true, true, true}};
    (void)state;
    run(&c);
    near(exp(-c.mixed[0]), 0.25);
    near(exp(-c.mixed[3]), 0.25);
    near(c.weight[0], 0.5);
    near(c.weight[0] + c.weight[1], 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixture_of_two_members_is_as_worked_out_by_hand),
        cmocka_unit_test(mixture_of_equal_members_is_the_member),
        cmocka_unit_test(weights_of_hopeless_members_vanish_and_nothing_overflows),
    };
    return cmocka_run_group_tests_name("ensemble", tests, NULL, NULL);
}

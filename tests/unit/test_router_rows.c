/* Router rows out of mean hidden states: direction, length, and how far apart they are. */
#include "upcycle/router_rows.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static void rows_of_means_have_one_length_and_their_directions(void **state)
{
    const double mean[2][2] = {{3, 4}, {0, 0.5}}, square[2] = {30, 20};
    double row[2][2], condition;
    (void)state;
    assert_int_equal(sy_router_rows(mean[0], square, 2, 2, 10, row[0], &condition), SY_OK);
    assert_true(fabs(row[0][0] - 1.2) < 1e-12); /* 10 / sqrt(25) = 2 long */
    assert_true(fabs(row[0][1] - 1.6) < 1e-12);
    assert_true(fabs(row[1][0] - 0) < 1e-12);
    assert_true(fabs(row[1][1] - 2) < 1e-12);
}

/* n unit vectors with one cosine between any two: singular values^2 are 1 + (n - 1) c and 1 - c. */
static void condition_of_evenly_spread_rows_is_the_closed_form(void **state)
{
    enum { N = 5 };
    const double square[N] = {1, 1, 1, 1, 1};
    double mean[N][N + 1] = {{0}}, row[N][N + 1], condition;
    (void)state;
    for (double c = 0; c < 0.999; c += 0.111) {
        for (int32_t i = 0; i < N; i++) {
            mean[i][i] = sqrt(1 - c) * (i + 1); /* lengths do not matter */
            mean[i][N] = sqrt(c) * (i + 1);
        }
        assert_int_equal(sy_router_rows(mean[0], square, N, N + 1, 3, row[0], &condition), SY_OK);
        assert_true(fabs(condition - sqrt((1 + (N - 1) * c) / (1 - c))) < 1e-9 * condition);
    }
}

static void rows_that_coincide_have_no_finite_condition(void **state)
{
    const double mean[3][3] = {{1, 2, 3}, {2, 4, 6}, {1, 0, 0}}, square[3] = {1, 1, 1};
    double row[3][3], condition = 0;
    (void)state;
    assert_int_equal(sy_router_rows(mean[0], square, 3, 3, 1, row[0], &condition), SY_OK);
    assert_true(isinf(condition));
}

static void means_that_point_nowhere_are_refused(void **state)
{
    const double mean[3][2] = {{1, 0}, {0, 0}, {NAN, 1}}, square[2] = {1, 1};
    double row[2][2], condition;
    (void)state;
    assert_int_equal(sy_router_rows(mean[0], square, 2, 2, 1, row[0], &condition), SY_ERR_NUMERIC);
    assert_int_equal(sy_router_rows(mean[1], square, 2, 2, 1, row[0], &condition), SY_ERR_NUMERIC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_means_have_one_length_and_their_directions),
        cmocka_unit_test(condition_of_evenly_spread_rows_is_the_closed_form),
        cmocka_unit_test(rows_that_coincide_have_no_finite_condition),
        cmocka_unit_test(means_that_point_nowhere_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

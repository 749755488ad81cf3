/* Balanced assignment, experts that are computed where the token is, and routers that learn from
   others: by themselves, as in test_routers. */
#include "tests/support/router_rig.h"

#include "moe/assignment.h"

/* ---- balanced assignment ---- */

typedef struct search {
    const double *score;
    int64_t n, load[MAX_E];
    int32_t E;
    double best;
} search;

/* Every way to share out tokens from t on; sum is what those before have. */
static void try_all(search *s, int64_t t, double sum)
{
    for (int32_t e = 0; e < s->E && t < s->n; e++) {
        s->load[e]++;
        try_all(s, t + 1, sum + s->score[t * s->E + e]);
        s->load[e]--;
    }
    if (t == s->n) {
        int64_t n_high = 0;
        for (int32_t e = 0; e < s->E; e++) {
            if (s->load[e] < s->n / s->E || s->load[e] > s->n / s->E + 1) {
                return;
            }
            n_high += s->load[e] > s->n / s->E;
        }
        s->best = n_high == s->n % s->E ? fmax(s->best, sum) : s->best;
    }
}

/* Sum of the scores of what solve() shares out; loads as they must be. */
static double solved(const double *score, int32_t n, int32_t E, int32_t *expert)
{
    static double copy[MAX_T * MAX_E], work[1024];
    int64_t load[MAX_E] = {0};
    double sum = 0;
    assert_true(sy_assignment_bytes(n, E) <= (int64_t)sizeof work);
    memcpy(copy, score, sizeof *copy * (size_t)(n * E));
    sy_assignment_solve(copy, n, E, work, expert);
    for (int32_t t = 0; t < n; t++) {
        assert_in_range(expert[t], 0, E - 1);
        load[expert[t]]++;
        sum += score[t * E + expert[t]];
    }
    for (int32_t e = 0; e < E; e++) {
        assert_in_range(load[e], n / E, n / E + (n % E > 0));
    }
    return sum;
}

static void assignment_of_few_tokens_is_the_best_there_is(void **state)
{
    (void)state;
    for (int32_t i = 0; i < 600; i++) {
        const int32_t E = 1 + i % 4, n = i % 9;
        double score[8 * 4];
        int32_t expert[8];
        search s = {.score = score, .n = n, .E = E, .best = -INFINITY};
        draw(score, n * E, (uint64_t)i + 1);
        for (int32_t k = 0; k < n * E && i % 3 == 0; k++) {
            score[k] = floor(score[k]); /* with ties */
        }
        try_all(&s, 0, 0);
        assert_near(solved(score, n, E, expert), s.best, 1e-12);
    }
}

/* Reversed tokens have the reversed experts, where no two sharings out are as good. */
static void assignment_of_permuted_tokens_is_permuted(void **state)
{
    (void)state;
    double score[MAX_T * MAX_E], turned[MAX_T * MAX_E];
    int32_t expert[MAX_T], other[MAX_T];
    for (int32_t n = MAX_T - 6; n <= MAX_T; n++) {
        draw(score, n * MAX_E, (uint64_t)n);
        for (int32_t t = 0; t < n; t++) {
            memcpy(turned + t * MAX_E, score + (n - 1 - t) * MAX_E, sizeof *score * MAX_E);
        }
        assert_near(solved(score, n, MAX_E, expert), solved(turned, n, MAX_E, other), 1e-9);
        for (int32_t t = 0; t < n; t++) {
            assert_int_equal(expert[t], other[n - 1 - t]);
        }
    }
}

static void assignment_of_what_is_not_finite_is_balanced(void **state)
{
    (void)state;
    double score[6 * 3] = {NAN, INFINITY, -INFINITY, 1, 2, NAN, NAN, NAN, NAN, 1, 1, 1, 3};
    double work[256];
    int32_t expert[6];
    int64_t load[3] = {0};
    sy_assignment_solve(score, 6, 3, work, expert);
    for (int32_t t = 0; t < 6; t++) {
        load[expert[t]]++;
    }
    assert_true(load[0] == 2 && load[1] == 2 && load[2] == 2);
    for (int32_t i = 0; i < 18; i++) {
        score[i] = NAN;
    }
    sy_assignment_solve(score, 6, 3, work, expert);
}

/* Expert 0 is the best of all; in training it gets its share, and tokens that are not routed count
   for nobody; evaluation is greedy. */
static void base_shares_out_in_training_only(void **state)
{
    (void)state;
    rig k;
    double z[12 * 4];
    rig_open(&k, SET("moe.router=base"));
    draw(z, 12 * 4, 6);
    for (int32_t t = 0; t < 12; t++) {
        z[t * 4] += 20;
        k.routed[t] = t % 3 != 2;
    }
    k.r.routed = k.routed;
    for (int32_t eval = 0; eval < 2; eval++) {
        int64_t load[4] = {0};
        k.r.training = !eval;
        choose(&k, 12, z);
        for (int32_t t = 0; t < 12; t++) {
            const int32_t e = k.expert[t];
            assert_true((e >= 0) == k.routed[t]);
            if (e >= 0) {
                load[e]++;
                assert_near(k.weight[t], 1 / (1 + exp(-z[t * 4 + e])), 1e-12);
            }
        }
        assert_int_equal(load[0], eval ? 8 : 2);
        assert_int_equal(load[1], eval ? 0 : 2);
    }
    close_rig(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(assignment_of_few_tokens_is_the_best_there_is),
        cmocka_unit_test(assignment_of_permuted_tokens_is_permuted),
        cmocka_unit_test(assignment_of_what_is_not_finite_is_balanced),
        cmocka_unit_test(base_shares_out_in_training_only),
    };
    return cmocka_run_group_tests_name("routers_local", tests, NULL, NULL);
}

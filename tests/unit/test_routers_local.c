/* Balanced assignment, experts that are computed where the token is, and routers that learn from
   others: by themselves, as in test_routers. */
#include "tests/support/router_rig.h"

#include "moe/assignment.h"
#include "moe/capacity.h"

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

/* ---- MoE++ ---- */

#define KINDS(constants, copies, zeros)                                                            \
    "moe.moepp.constant_experts=" #constants, "moe.moepp.copy_experts=" #copies,                   \
        "moe.moepp.zero_experts=" #zeros

static void moepp_without_its_experts_is_top_k(void **state)
{
    (void)state;
    rig k;
    rig_open(&k, SET("moe.router=moepp", KINDS(0, 0, 0)));
    choose(&k, 4, golden);
    assert_experts(&k, 3, (const int32_t[MAX_LIST]){2, 3, -1});
    assert_near(k.weight[0], .731059, 1e-6);
    assert_near(k.weight[6], .777300, 1e-6);
    close_rig(&k);
}

/* Logits of 4 experts, 1 constant, 1 copy, 1 zero, and the constant's two. */
static void moepp_weights_go_where_they_are_computed(void **state)
{
    (void)state;
    static const double in[4 * 9] = {
        0, 0, 5, 0, 4,  0, 0, 1, 3, /* expert 2 and the constant */
        0, 0, 0, 0, 0,  3, 2, 0, 0, /* the copy and the zero: all is the copy's */
        1, 0, 0, 0, 0,  3, 0, 0, 0, /* expert 0 behind the copy */
        0, 0, 0, 0, -1, 0, 9, 0, 0, /* the zero, and the first of equals */
    };
    const double w = 1 / (1 + exp(-1)), a = 1 / (1 + exp(2));
    rig k;
    rig_open(&k, SET("moe.router=moepp", KINDS(1, 1, 1)));
    choose(&k, 4, in);
    assert_experts(&k, 0, (const int32_t[MAX_LIST]){2, -1});
    assert_near(k.weight[0], w, 1e-12);
    assert_near(k.copy[0], (1 - w) * a, 1e-12);
    assert_near(k.mix[0], (1 - w) * (1 - a), 1e-12);
    assert_true(k.expert[2] < 0 && k.expert[3] < 0 && k.mix[1] == 0);
    assert_near(k.copy[1], 1, 1e-12);
    assert_true(k.expert[4] < 0 && k.expert[5] == 0); /* a second choice stays a second one */
    assert_near(k.weight[5] + k.copy[2], 1, 1e-12);
    assert_true(k.expert[7] == 0 && k.weight[7] == 1 && k.copy[3] == 0);
    close_rig(&k);
}

/* eta f P of equal logits: the mean of eta over the choices. */
static void moepp_balance_loss_of_equal_logits_is_the_mean_of_eta(void **state)
{
    (void)state;
    rig k;
    static const double zero[4 * 7] = {0};
    rig_open(&k,
             SET("moe.router=moepp", KINDS(0, 2, 1), "moe.moepp.tau=0.5", "moe.aux_loss_coeff=1"));
    choose(&k, 4, zero); /* all take experts 0 and 1 */
    backward(&k);
    assert_near(k.r.loss, 1, 1e-12);
    double copies[4 * 7] = {0};
    for (int32_t t = 0; t < 4; t++) {
        copies[t * 7 + 4] = copies[t * 7 + 5] = 1e-9;
    }
    choose(&k, 4, copies); /* all take the copies */
    backward(&k);
    assert_near(k.r.loss, 0.5, 1e-6);
    close_rig(&k);
}

/* 12 tokens, 24 choices, shares 2 : 1 of one that computes not and one that does: 4 x 0.5 + 2
   makes 4 shares, so 24 / 4 = 6 of the copy's 12 stay. */
static void moepp_copies_beyond_their_capacity_are_dropped(void **state)
{
    (void)state;
    static const char *const policies[2] = {"moe.drop_policy=position",
                                            "moe.drop_policy=probability"};
    for (int32_t p = 0; p < 2; p++) {
        rig k;
        double in[12 * 6] = {0};
        sy_router_layout layout;
        int32_t n = 0;
        rig_open(&k, SET("moe.router=moepp", KINDS(0, 1, 1), "moe.moepp.tau=0.5", policies[p],
                         "moe.capacity_factor=1", "moe.min_capacity=1"));
        for (int32_t t = 0; t < 12; t++) {
            in[t * 6 + 4] = 3 + 0.1 * t;
        }
        choose(&k, 12, in);
        for (int32_t t = 0; t < 12; t++) {
            assert_true((k.copy[t] > 0) == (p == 0 ? t < 6 : t >= 6));
            assert_near(k.weight[t * 2 + 1], 1 / (1 + exp(3 + 0.1 * t)), 1e-12);
            n += k.copy[t] > 0;
        }
        assert_int_equal(n, 6);
        sy_router_layout_of(k.r.config, WIDTH, &layout);
        assert_int_equal(sy_capacity_slots_of(k.r.config, false, 12, layout.share),
                         3); /* of one that computes */
        close_rig(&k);
    }
}

/* ---- StableMoE ---- */

enum { STEPS, IS_FIXED, TABLE };

/* In the first stage training goes by the logits, evaluation by what the light router says of the
   id; after the switch both go by that, whatever its parameters do. */
static void stable_goes_by_the_id_once_it_is_fixed(void **state)
{
    (void)state;
    rig k;
    rig_open(&k, SET("moe.router=stable", "moe.stable.dim=4", "moe.stable.switch_step=2"));
    double words[5 * 4] = {0};
    const double *param[2] = {words, k.param[1]};
    for (int32_t id = 0; id < 5; id++) {
        words[id * 4 + (id + 1) % 4] = 1; /* id i is said to be of expert i + 1 */
    }
    for (int32_t e = 0; e < 4; e++) {
        k.param[1][e * 4 + e] = 1;
    }
    for (int32_t t = 0; t < 4; t++) {
        k.ids[t] = t + 1;
        memcpy(k.param[0] + t * 4, words + (t + 1) * 4, sizeof *words * 4);
    }
    choose(&k, 4, golden);
    assert_true(k.expert[0] == 0 && k.expert[1] == 1 && k.expert[2] == 0 && k.expert[3] == 2);
    assert_near(k.weight[1], 1 / (1 + exp(-3)), 1e-12);
    backward(&k);
    assert_true(k.r.metric == 1 && k.r.loss > 0); /* expert 0 of id 3 */
    k.r.training = false;
    choose(&k, 4, golden);
    for (int32_t t = 0; t < 4; t++) {
        assert_int_equal(k.expert[t], (t + 2) % 4);
    }
    sy_step_end end = {.vocab = 5};
    for (int32_t i = 0; i < 3; i++) {
        assert_false(k.router->host->is_time(k.r.config, k.state));
        k.router->host->end_step(k.r.config, &end, 0, k.state);
        if (i == 1) {
            assert_true(k.router->host->is_time(k.r.config, k.state));
            k.router->host->adapt(k.r.config, &end, 0, k.state, (double *const *)param);
        }
    }
    assert_true(k.state[STEPS] == 2 && k.state[IS_FIXED] == 1);
    memset(k.param, 0, sizeof k.param);
    for (int32_t training = 0; training < 2; training++) {
        k.r.training = training;
        choose(&k, 4, golden);
        for (int32_t t = 0; t < 4; t++) {
            assert_int_equal(k.expert[t], (t + 2) % 4);
            assert_near(k.weight[t], 1 / (1 + exp(-golden[t * 4 + (t + 2) % 4])), 1e-12);
        }
    }
    backward(&k);
    assert_true(k.r.loss == 0 && k.r.metric == 4);
    close_rig(&k);
}

/* Loads 2, 1, 1, 0 of a mean of 1: only the two tokens of expert 0 count, with excess 1. */
static void stable_balance_loss_of_the_fixture_is_known(void **state)
{
    (void)state;
    rig k;
    rig_open(&k, SET("moe.router=stable", "moe.stable.dim=4", "moe.stable.balance_coeff=1",
                     "moe.stable.distil_coeff=0"));
    choose(&k, 4, golden);
    backward(&k);
    assert_near(k.r.loss, (1 / (1 + exp(-2)) + 1 / (1 + exp(-1.5))) / 4, 1e-12);
    close_rig(&k);
}

/* All tokens like one expert far better than the others, which they hardly tell apart: each still
   gets its part. At any distance all numbers are finite, every token has K experts, and columns are
   balanced, which is the last thing that a round does. */
static void sinkhorn_of_logits_far_apart_is_balanced(void **state)
{
    (void)state;
    enum { T = 40, E = 4 };
    static const double far[] = {25, 280, 5000, 1e30};
    for (size_t i = 0; i < sizeof far / sizeof far[0]; i++) {
        rig k;
        double z[T * E];
        int32_t n[E] = {0};
        rig_open(&k, SET("moe.router=sinkhorn", "moe.top_k=1"));
        draw(z, T * E, 5);
        for (int32_t t = 0; t < T; t++) {
            z[t * E] += far[i];
            z[t * E + 3] *= i == 3 ? 1e30 : 1; /* and one that is anywhere */
        }
        choose(&k, T, z);
        for (int32_t e = 0; e < E; e++) {
            double sum = 0;
            for (int32_t t = 0; t < T; t++) {
                sum += k.note[t * E + e];
                n[e] += k.expert[t] == e;
            }
            assert_near(sum * E, 1, 1e-9);
        }
        assert_int_equal(n[0] + n[1] + n[2] + n[3], T);
        for (int32_t e = 0; e < E && i < 2; e++) {
            assert_in_range(n[e], T / E / 2, 2 * T / E);
        }
        close_rig(&k);
    }
}

/* cos / tau, tau at least 0.01; where the bound acts the temperature has no gradient. */
static void cosine_temperature_acts_from_a_hundredth_on(void **state)
{
    (void)state;
    static const double learnt[] = {0, -1.9, -2, -700, 700}; /* 0.07 exp(-1.94591) is 0.01 */
    enum { E = 4, M = 2 };
    rig k;
    rig_open(&k, SET("moe.router=cosine"));
    assert_int_equal(k.r.M, M);
    draw(k.param[0], E * M, 8);
    for (size_t i = 0; i < sizeof learnt / sizeof learnt[0]; i++) {
        const double tau = fmax(0.07 * exp(learnt[i]), 0.01);
        double in[M] = {3, -1}, wanted = 0;
        k.param[1][0] = learnt[i];
        choose(&k, 1, in);
        for (int32_t e = 0; e < E; e++) {
            const double *c = k.param[0] + e * M;
            const double cosine = (3 * c[0] - c[1]) / sqrt(10 * (c[0] * c[0] + c[1] * c[1]));
            assert_near(k.z[e], cosine / tau, 1e-12 / tau);
            k.dz[e] = 0.5 + e;
            wanted -= learnt[i] < -1.95 ? 0 : k.dz[e] * cosine / tau;
        }
        k.dparam[1][0] = 0;
        k.router->host->score_backward(&k.r);
        assert_near(k.dparam[1][0], wanted, 1e-12 * fabs(wanted));
    }
    close_rig(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sinkhorn_of_logits_far_apart_is_balanced),
        cmocka_unit_test(cosine_temperature_acts_from_a_hundredth_on),
        cmocka_unit_test(assignment_of_few_tokens_is_the_best_there_is),
        cmocka_unit_test(assignment_of_permuted_tokens_is_permuted),
        cmocka_unit_test(assignment_of_what_is_not_finite_is_balanced),
        cmocka_unit_test(moepp_without_its_experts_is_top_k),
        cmocka_unit_test(moepp_weights_go_where_they_are_computed),
        cmocka_unit_test(moepp_balance_loss_of_equal_logits_is_the_mean_of_eta),
        cmocka_unit_test(moepp_copies_beyond_their_capacity_are_dropped),
        cmocka_unit_test(stable_goes_by_the_id_once_it_is_fixed),
        cmocka_unit_test(stable_balance_loss_of_the_fixture_is_known),
        cmocka_unit_test(base_shares_out_in_training_only),
    };
    return cmocka_run_group_tests_name("routers_local", tests, NULL, NULL);
}

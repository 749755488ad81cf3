/* Routers by themselves: numbers worked out by hand or by another code in double, and what each
   method must obey whatever the logits are. Gradients are in test_moe_gradient, layouts and
   checkpoints in tests/mpi/test_routers. */
#include "tests/support/router_rig.h"

/* ---- the golden fixture ---- */

static void remoe_of_the_fixture_has_known_choices_and_loss(void **state)
{
    (void)state;
    rig k;
    int32_t n = 0;
    rig_open(&k, SET("moe.router=remoe", "moe.remoe.lambda=1"));
    choose(&k, 4, golden);
    backward(&k);
    for (int32_t i = 0; i < 16; i++) {
        n += k.expert[i] >= 0;
    }
    assert_int_equal(n, 11);
    assert_near(k.r.loss, 5.5, 1e-12);
    close_rig(&k);
}

static void top_p_of_the_fixture_takes_the_shortest_prefix(void **state)
{
    (void)state;
    static const char *const thresholds[3] = {"moe.top_p.threshold=0.4", "moe.top_p.threshold=0.6",
                                              "moe.top_p.threshold=0.8"};
    static const int32_t wanted[3][4][MAX_LIST] = {
        {{0, NONE}, {1, NONE}, {0, NONE}, {2, NONE}},
        {{0, NONE}, {1, NONE}, {0, 1, -1}, {2, NONE}},
        {{0, 1, -1}, {1, NONE}, {0, 1, 3, -1}, {2, 3, -1}}};
    for (int32_t i = 0; i < 3; i++) {
        rig k;
        rig_open(&k, SET("moe.router=top_p", thresholds[i], "moe.top_p.entropy_coeff=1"));
        choose(&k, 4, golden);
        for (int32_t t = 0; t < 4; t++) {
            assert_experts(&k, t, wanted[i][t]);
        }
        backward(&k);
        assert_near(k.r.loss, 0.90403824, 1e-8); /* the mean entropy */
        close_rig(&k);
    }
}

/* Where nothing is enough all experts are taken, whatever the rounding of the sum. */
static void top_p_of_everything_takes_all_experts(void **state)
{
    (void)state;
    rig k;
    double z[MAX_T * 4];
    rig_open(&k, SET("moe.router=top_p", "moe.top_p.threshold=1"));
    draw(z, MAX_T * 4, 3);
    choose(&k, MAX_T, z);
    for (int32_t t = 0; t < MAX_T; t++) {
        assert_experts(&k, t, (const int32_t[MAX_LIST]){0, 1, 2, 3, -1});
    }
    close_rig(&k);
}

static void expert_choice_of_the_fixture_fills_every_expert(void **state)
{
    (void)state;
    /* e0: {0,2}, e1: {1,2}, e2: {3,0}, e3: {3,2}; without token 3, e2 takes {0,1} */
    static const int32_t wanted[4][MAX_LIST] = {{0, 2, -1}, {1, NONE}, {0, 1, 3, -1}, {2, 3, -1}};
    rig k;
    rig_open(&k, SET("moe.router=expert_choice", "moe.look_ahead=true"));
    choose(&k, 4, golden);
    for (int32_t t = 0; t < 4; t++) {
        assert_experts(&k, t, wanted[t]);
    }
    close_rig(&k);
    rig_open(&k, SET("moe.router=expert_choice", "moe.look_ahead=true",
                     "moe.expert_choice.factor=2.6667"));
    choose(&k, 3, golden);
    assert_experts(&k, 1, (const int32_t[MAX_LIST]){1, 2, -1});
    close_rig(&k);
}

static void grouped_with_bias_of_the_fixture_chooses_by_the_biased_score(void **state)
{
    (void)state;
    static const int32_t wanted[4][MAX_LIST] = {{2, 0, -1}, {2, 1, -1}, {0, 3, -1}, {2, 3, -1}};
    static const int64_t unbiased[4] = {2, 3, 2, 1};
    static const double weight[2] = {1.366123, 1.133877}; /* of (0, 1), token 0, without bias */
    rig k;
    rig_open(&k, SET("moe.router=grouped", "moe.score=sigmoid", "moe.bias_update_rate=0.001",
                     "moe.routed_scale=2.5"));
    k.bias[2] = 0.3;
    k.bias[3] = 0.2;
    k.r.bias = k.bias;
    choose(&k, 4, golden);
    for (int32_t t = 0; t < 4; t++) {
        assert_experts(&k, t, wanted[t]);
    }
    assert_memory_equal(k.count, unbiased, sizeof unbiased);
    k.r.bias = NULL;
    choose(&k, 4, golden);
    assert_near(k.weight[0], weight[0], 1e-6);
    assert_near(k.weight[1], weight[1], 1e-6);
    close_rig(&k);
}

/* Gates and sums of them, form A: CV^2 of the importance; one token: CV^2 of the load. */
static void noisy_of_the_fixture_has_known_losses(void **state)
{
    (void)state;
    static const double clean[4] = {1, 0.5, 0.2, -0.3}, noisy[4] = {0.8, 0.9, 0.1, -0.2};
    static const double P[4] = {0.964070, 0.788145, 0.115070, 0.013903};
    const double raw = log(exp(0.49) - 1); /* sigma = 0.5 */
    double in[4 * 8] = {0}, mean = 0, square = 0;
    rig k;
    rig_open(&k, SET("moe.router=noisy", "moe.noisy.importance_coeff=1", "moe.noisy.load_coeff=0"));
    k.r.training = false; /* no noise */
    for (int32_t i = 0; i < 16; i++) {
        in[i / 4 * 8 + i % 4] = golden[i];
    }
    choose(&k, 4, in);
    backward(&k);
    assert_near(k.r.loss, 0.254476245, 1e-8);
    close_rig(&k);
    rig_open(&k, SET("moe.router=noisy", "moe.noisy.importance_coeff=0", "moe.noisy.load_coeff=1"));
    k.r.training = false;
    for (int32_t e = 0; e < 4; e++) {
        in[e] = noisy[e];
        in[4 + e] = raw;
        mean += P[e] / 4;
    }
    choose(&k, 1, in);
    memcpy(k.in, clean, sizeof clean);
    backward(&k);
    for (int32_t e = 0; e < 4; e++) {
        square += (P[e] - mean) * (P[e] - mean) / 4;
    }
    assert_near(k.r.loss, square / (mean * mean), 1e-5);
    close_rig(&k);
}

static void skywork_of_the_fixture_normalises_the_logits(void **state)
{
    (void)state;
    static const double p[4] = {.584875, .232209, .146314, .036602};
    rig k;
    double sum = 0;
    rig_open(&k, SET("moe.router=skywork", "moe.top_k=4", "moe.normalize_weights=false"));
    choose(&k, 4, golden);
    for (int32_t i = 0; i < 4; i++) {
        assert_near(k.weight[i], p[k.expert[i]], 1e-6);
        sum += k.weight[i];
    }
    assert_near(sum, 1, 1e-12);
    backward(&k);
    close_rig(&k);
}

static void yuan_of_known_rows_has_known_logits(void **state)
{
    (void)state;
    static const double in[12] = {1, 0, -1, .5, .5, 1, 0, -1, 1, 2, 3, 4};
    static const double z[4] = {2.015177, 2.500000, 3.242364, 2.204666};
    rig k;
    rig_open(&k, SET("moe.router=yuan"));
    choose(&k, 1, in);
    for (int32_t e = 0; e < 4; e++) {
        assert_near(k.z[e], z[e], 1e-6);
    }
    assert_experts(&k, 0, (const int32_t[MAX_LIST]){2, 1, -1});
    close_rig(&k);
}

/* With a narrow mask only the best is left, and it is certain; with a wide one two are. */
static void grin_of_the_fixture_masks_far_experts(void **state)
{
    (void)state;
    rig k;
    rig_open(&k, SET("moe.router=grin", "moe.top_k=1", "moe.grin.near=0.1"));
    choose(&k, 1, golden);
    assert_int_equal(k.expert[0], 0);
    assert_near(k.weight[0], 1, 1e-12);
    close_rig(&k);
    rig_open(&k, SET("moe.router=grin", "moe.top_k=1", "moe.grin.near=0.5"));
    k.r.training = false;
    choose(&k, 1, golden);
    assert_near(k.weight[0], 1 / (1 + exp(-1)), 1e-12);
    close_rig(&k);
}

/* ---- what each must obey ---- */

/* Over many draws of one token: experts as often as pi says; m is 1 for the largest, else 1 or 1/3
   with 1/4 and 3/4, and the gradient does not see it. */
static void grin_draws_follow_the_masked_softmax(void **state)
{
    (void)state;
    enum { N = 200 };
    rig k;
    int32_t n_second = 0, n_whole = 0;
    rig_open(&k, SET("moe.router=grin", "moe.top_k=1", "moe.grin.near=0.5"));
    const double p0 = 1 / (1 + exp(-1));
    for (int32_t i = 0; i < N; i++) {
        double z[MAX_T * 4];
        for (int32_t j = 0; j < MAX_T * 4; j++) {
            z[j] = golden[j % 4];
        }
        k.r.stream = (uint64_t)i;
        choose(&k, MAX_T, z);
        for (int32_t t = 0; t < MAX_T; t++) {
            const double pi = k.expert[t] == 0 ? p0 : 1 - p0;
            n_second += k.expert[t] == 1;
            n_whole += k.expert[t] == 1 && k.weight[t] > 0.9 * pi;
            assert_near(k.weight_grad[t], pi, 1e-12);
            assert_true(k.expert[t] != 0 || k.weight[t] == k.weight_grad[t]);
        }
    }
    assert_near(n_second / (double)(N * MAX_T), 1 - p0, 0.015);
    assert_near(n_whole / (double)n_second, 0.25, 0.03);
    close_rig(&k);
}

/* dz of a choice is pi_D times (1 - pi) and so on, whatever m was. */
static void grin_gradient_is_that_of_the_probability(void **state)
{
    (void)state;
    rig k;
    const double p0 = 1 / (1 + exp(-1));
    rig_open(&k, SET("moe.router=grin", "moe.top_k=1", "moe.grin.near=0.5"));
    for (int32_t i = 0; i < 40; i++) {
        k.r.stream = (uint64_t)i;
        choose(&k, 1, golden);
        k.g[0] = 3;
        backward(&k);
        const double sign = k.expert[0] == 0 ? 1 : -1;
        assert_near(k.dz[0], sign * 3 * p0 * (1 - p0), 1e-12);
        assert_near(k.dz[1], -sign * 3 * p0 * (1 - p0), 1e-12);
        assert_true(k.dz[2] == 0 && k.dz[3] == 0);
    }
    close_rig(&k);
}

/* Rows of the plan sum to 1/T, columns to 1/E; a constant per token, even a large one, changes
   nothing; tokens that are not routed are not in it. */
static void sinkhorn_plan_is_balanced(void **state)
{
    (void)state;
    enum { T = 40, E = 4 };
    rig k;
    double z[T * E], plan[T * E];
    rig_open(&k, SET("moe.router=sinkhorn", "moe.sinkhorn.iterations=2000",
                     "moe.sinkhorn.tolerance=1e-9"));
    draw(z, T * E, 5);
    choose(&k, T, z);
    for (int32_t t = 0; t < T; t++) {
        double sum = 0;
        for (int32_t e = 0; e < E; e++) {
            sum += k.note[t * E + e];
        }
        assert_near(sum * T, 1, 1e-6);
    }
    for (int32_t e = 0; e < E; e++) {
        double sum = 0;
        for (int32_t t = 0; t < T; t++) {
            sum += k.note[t * E + e];
        }
        assert_near(sum * E, 1, 1e-6);
    }
    memcpy(plan, k.note, sizeof plan);
    for (int32_t i = 0; i < T * E; i++) {
        z[i] += i / E % 2 == 0 ? 900 : -900;
    }
    choose(&k, T, z);
    for (int32_t i = 0; i < T * E; i++) {
        assert_near(k.note[i], plan[i], 1e-12);
    }
    memset(k.routed, 1, sizeof k.routed);
    k.routed[3] = 0;
    k.r.routed = k.routed;
    choose(&k, T, z);
    assert_true(k.expert[3 * 2] == -1 && k.note[3 * E] == 0 && k.expert[0] >= 0);
    close_rig(&k);
}

/* The rule in plain lines: again and again the most frequent id that is left goes to the expert
   with the least so far. Shares differ, so that there is one answer. */
static void deal(const double *share, int32_t n_ids, int32_t n_experts, int32_t *expert)
{
    double load[MAX_E] = {0};
    bool dealt[300] = {false};
    for (int32_t round = 0; round < n_ids; round++) {
        int32_t id = -1, e = 0;
        for (int32_t i = 0; i < n_ids; i++) {
            id = !dealt[i] && (id < 0 || share[i] > share[id]) ? i : id;
        }
        for (int32_t i = 1; i < n_experts; i++) {
            e = load[i] < load[e] ? i : e;
        }
        dealt[id] = true;
        load[e] += share[id];
        expert[id] = e;
    }
}

static void hash_balances_by_the_frequencies_of_the_data(void **state)
{
    (void)state;
    static const struct {
        const char *experts;
        double power;    /* frequencies go with rank^-power, ids in an order of their own */
        int32_t n_known; /* so many ids come in the data */
        double worst;    /* expert's load over the mean */
    } cases[] = {{"moe.experts=4", 1, 300, 1.01},
                 {"moe.experts=4", 0.1, 300, 1.01},
                 {"moe.experts=12", 0.7, 300, 1.02},
                 {"moe.experts=12", 2, 300, 7.32}, /* the first id alone is 0.6 of all */
                 {"moe.experts=4", 1, 40, 1.1}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        rig k;
        double share[300] = {0}, load[MAX_E] = {0}, sum = 0, worst = 0;
        int32_t expected[300], n[MAX_E] = {0};
        rig_open(&k, SET("moe.router=hash", "moe.top_k=1", cases[c].experts));
        for (int32_t i = 0; i < cases[c].n_known; i++) {
            share[(i * 77) % 300] = pow(i + 1, -cases[c].power);
            sum += pow(i + 1, -cases[c].power);
        }
        for (int32_t i = 0; i < 300; i++) {
            share[i] /= sum;
        }
        deal(share, 300, k.r.E, expected);
        assert_int_equal(k.router->host->begin(k.r.config, share, 300, 0, k.state), SY_OK);
        for (int32_t id = 0; id < 300; id++) {
            k.ids[0] = id;
            choose(&k, 1, NULL);
            assert_true(share[id] == 0 || k.expert[0] == expected[id]);
            load[k.expert[0]] += share[id];
            n[k.expert[0]] += share[id] == 0;
        }
        for (int32_t e = 0; e < k.r.E; e++) {
            worst = fmax(worst, load[e] * k.r.E);
            assert_true(n[e] <= (300 - cases[c].n_known) / 2); /* the unseen are dealt, too */
        }
        assert_true(worst < cases[c].worst);
        close_rig(&k);
    }
}

/* As many ids for every expert, the same ones in any batch; further choices differ. */
static void hash_deals_ids_evenly_whatever_the_batch(void **state)
{
    (void)state;
    rig k;
    int32_t n[4] = {0}, of_id[300];
    rig_open(&k, SET("moe.router=hash", "moe.hash.table=even"));
    for (int32_t id = 0; id < 300; id++) {
        k.ids[0] = id;
        choose(&k, 1, NULL);
        of_id[id] = k.expert[0];
        n[k.expert[0]]++;
        assert_true(k.expert[1] != k.expert[0] && k.weight[0] == 0.5);
    }
    for (int32_t e = 0; e < 4; e++) {
        assert_int_equal(n[e], 75);
    }
    for (int32_t t = 0; t < MAX_T; t++) {
        k.ids[t] = (t * 37) % 300;
    }
    choose(&k, MAX_T, NULL);
    for (int32_t t = 0; t < MAX_T; t++) {
        assert_int_equal(k.expert[t * 2], of_id[k.ids[t]]);
    }
    close_rig(&k);
}

/* lambda is multiplied or divided by alpha after each step; exactly on target it is divided. */
static void remoe_lambda_follows_the_active_experts(void **state)
{
    (void)state;
    rig k;
    const int64_t load[4] = {5, 3, 1, 0}, on_target[4] = {3, 3, 1, 1};
    double n[1] = {0};
    rig_open(&k, SET("moe.router=remoe"));
    sy_step_end end = {.h_load = load, .L = 1, .E = 4, .routed_tokens = 4};
    k.router->host->end_step(k.r.config, &end, 0, n);
    assert_true(n[0] == 1);
    end.h_load = on_target;
    k.router->host->end_step(k.r.config, &end, 0, n);
    assert_true(n[0] == 0);
    k.state[0] = 3;
    choose(&k, 4, golden);
    backward(&k);
    assert_near(k.r.metric / 4, 1e-8 * 1.2 * 1.2 * 1.2, 1e-20);
    close_rig(&k);
}

static void skywork_coefficient_follows_the_drops(void **state)
{
    (void)state;
    rig k;
    const int64_t load[4] = {10, 10, 10, 10}, kept[4] = {10, 8, 10, 10};
    double gap[1] = {0};
    rig_open(&k, SET("moe.router=skywork", "moe.aux_loss_coeff=0.004", "moe.skywork.keep=0.9"));
    sy_step_end end = {.h_load = load, .h_kept = kept, .L = 1, .E = 4, .routed_tokens = 20};
    k.router->host->end_step(k.r.config, &end, 0, gap);
    assert_near(0.004 + gap[0], 0.9 * 0.004 + 0.1 * 0.2 * 0.05, 1e-15);
    end.h_kept = (const int64_t[4]){0};
    k.router->host->end_step(k.r.config, &end, 0, gap); /* all dropped: no more than the most */
    assert_near(0.004 + gap[0], 0.9 * (0.9 * 0.004 + 0.001) + 0.1 * 0.01, 1e-15);
    close_rig(&k);
}

/* Without nulls it is plain top-k with divided weights; with all choices null there is nothing. */
static void adamoe_nulls_take_choices_away(void **state)
{
    (void)state;
    rig k;
    static const double all_null[7] = {-1, -2, -3, -4, 5, 6, 7};
    static const double some[7] = {3, -2, 2, -4, 2.5, -6, -7};
    rig_open(&k, SET("moe.router=adamoe", "moe.adamoe.null_experts=0"));
    choose(&k, 4, golden);
    assert_near(k.weight[0], .731059, 1e-6);
    assert_near(k.weight[1], .268941, 1e-6);
    close_rig(&k);
    rig_open(&k, SET("moe.router=adamoe", "moe.adamoe.null_experts=3", "moe.top_k=3"));
    choose(&k, 1, all_null);
    assert_experts(&k, 0, (const int32_t[MAX_LIST]){NONE});
    backward(&k);
    assert_true(isfinite(k.r.loss) && k.dz[0] == 0);
    choose(&k, 1, some);
    assert_experts(&k, 0, (const int32_t[MAX_LIST]){0, 2, -1});
    assert_near(k.weight[0], 1 / (1 + exp(-1)), 1e-12);
    close_rig(&k);
}

/* Uniform p and any loads, or equal loads of all kinds: 1 in the house convention. */
static void adamoe_balance_loss_of_equal_logits_is_one(void **state)
{
    (void)state;
    rig k;
    static const double zero[4 * 7] = {0};
    rig_open(&k, SET("moe.router=adamoe", "moe.adamoe.null_experts=3", "moe.aux_loss_coeff=1"));
    choose(&k, 4, zero);
    backward(&k);
    assert_near(k.r.loss, 1, 1e-12);
    close_rig(&k);
}

/* K (E + m) picks of one token: two true ones, one null that counts as a third of one for each. */
static void adamoe_balance_loss_shares_the_nulls_out(void **state)
{
    (void)state;
    rig k;
    static const double in[7] = {3, -2, 2, -4, 2.5, -6, -7};
    double sum = 0, cost = 0;
    rig_open(&k, SET("moe.router=adamoe", "moe.adamoe.null_experts=3", "moe.top_k=3",
                     "moe.aux_loss_coeff=0.5"));
    choose(&k, 1, in);
    backward(&k);
    for (int32_t e = 0; e < 7; e++) {
        const double f = e == 0 || e == 2 ? 1.0 / 3 : e >= 4 ? 1.0 / 9 : 0;
        sum += exp(in[e]);
        cost += 7 * f * exp(in[e]);
    }
    assert_near(k.r.loss, 0.5 * cost / sum, 1e-12);
    close_rig(&k);
}

/* Two groups of two, both kept. Of the fixture's choices (0,1) (1,2) (0,1) (2,3) the groups have 5
   and 3, and get 3 and 2 tokens. */
static void grouped_losses_of_the_fixture_are_those_by_hand(void **state)
{
    (void)state;
    static const char *const one[2] = {"moe.grouped.group_loss_coeff=1",
                                       "moe.grouped.comm_loss_coeff=1"};
    static const double f[2][2] = {{2.0 / 8 * 5, 2.0 / 8 * 3}, {2.0 / 8 * 3, 2.0 / 8 * 2}};
    for (int32_t i = 0; i < 2; i++) {
        rig k;
        double wanted = 0;
        rig_open(&k, SET("moe.router=grouped", "moe.grouped.groups=2", "moe.grouped.groups_kept=2",
                         one[i]));
        choose(&k, 4, golden);
        backward(&k);
        for (int32_t t = 0; t < 4; t++) {
            double part[2] = {0};
            for (int32_t e = 0; e < 4; e++) {
                part[e / 2] += exp(golden[t * 4 + e]);
            }
            wanted += (f[i][0] * part[0] + f[i][1] * part[1]) / (part[0] + part[1]) / 4;
        }
        assert_near(k.r.loss, wanted, 1e-12);
        close_rig(&k);
    }
}

/* The same token of the global batch draws the same, wherever it stands; another one otherwise. */
static void draws_belong_to_the_tokens_of_the_global_batch(void **state)
{
    (void)state;
    enum { T = 8, E = 4 };
    rig k;
    double z[T * E], in[T * 2 * E] = {0};
    rig_open(&k, SET("moe.router=noisy"));
    choose(&k, T, in);
    memcpy(z, k.z, sizeof z);
    for (int32_t t = 0; t < T; t++) {
        k.token_glb[t] = 2 * t + 1;
    }
    k.router->host->score(&k.r);
    for (int32_t i = 0; i < T / 2 * E; i++) {
        assert_true(k.z[i] == z[(2 * (i / E) + 1) * E + i % E]);
        assert_true(k.z[i] != z[i]);
    }
    k.r.stream++;
    k.router->host->score(&k.r);
    assert_true(k.z[0] != z[E]);
    close_rig(&k);
}

/* The best expert is in the first group, the better pair in the second. */
static void grouped_keeps_the_group_with_the_best_or_the_best_pair(void **state)
{
    (void)state;
    static const double z[4] = {2, -3, 1.5, 1.4};
    static const char *const scores[2] = {"moe.grouped.group_score=max",
                                          "moe.grouped.group_score=top2"};
    for (int32_t i = 0; i < 2; i++) {
        rig k;
        rig_open(&k, SET("moe.router=grouped", "moe.grouped.groups=2", scores[i]));
        choose(&k, 1, z);
        assert_experts(&k, 0, (const int32_t[MAX_LIST]){2 * i, 2 * i + 1, -1});
        close_rig(&k);
    }
}

/* All groups kept, or one group: plain top-k. Negative scores of kept groups still win. */
static void grouped_with_all_groups_is_plain_top_k(void **state)
{
    (void)state;
    enum { E = 12, T = 40 };
    static const char *const sets[3][6] = {
        {"moe.experts=12", "moe.top_k=3", "moe.router=grouped", NULL},
        {"moe.experts=12", "moe.top_k=3", "moe.router=grouped", "moe.grouped.groups=4",
         "moe.grouped.groups_kept=4", NULL},
        {"moe.experts=12", "moe.top_k=3", "moe.router=grouped", "moe.grouped.groups=4",
         "moe.grouped.groups_kept=1", NULL}};
    double z[T * E];
    draw(z, T * E, 6);
    for (int32_t i = 0; i < 3; i++) {
        rig k;
        rig_open(&k, sets[i]);
        for (int32_t e = 0; e < E; e++) {
            k.bias[e] = -10; /* every biased score is negative */
        }
        k.r.bias = i == 2 ? k.bias : NULL;
        choose(&k, T, z);
        for (int32_t t = 0; t < T; t++) {
            double left[E];
            memcpy(left, z + t * E, sizeof left);
            for (int32_t n = 0; n < 3; n++) {
                int32_t best = 0;
                for (int32_t e = 1; e < E; e++) {
                    best = left[e] > left[best] ? e : best;
                }
                left[best] = -INFINITY;
                if (i < 2 || n == 0) {
                    assert_int_equal(k.expert[t * 3 + n], best);
                }
                assert_true(i < 2 || k.expert[t * 3 + n] / 3 == k.expert[t * 3] / 3);
            }
        }
        close_rig(&k);
    }
}

/* The second expert is kept with probability min(1, w / threshold), and the first keeps the weight
   that it has beside it; firsts alone are counted. */
static void gshard_keeps_the_second_in_proportion(void **state)
{
    (void)state;
    enum { N = 100 };
    rig k;
    int32_t n_kept = 0;
    double z[MAX_T * 4];
    for (int32_t j = 0; j < MAX_T * 4; j++) {
        z[j] = golden[j % 4];
    }
    rig_open(&k, SET("moe.router=gshard"));
    for (int32_t i = 0; i < N; i++) {
        k.r.stream = (uint64_t)i;
        choose(&k, MAX_T, z);
        for (int32_t t = 0; t < MAX_T; t++) {
            assert_int_equal(k.expert[2 * t], 0);
            assert_near(k.weight[2 * t], .7310585786, 1e-9);
            n_kept += k.expert[2 * t + 1] == 1;
        }
        assert_int_equal(k.count[0], MAX_T);
        assert_int_equal(k.count[1], 0);
    }
    assert_near(n_kept / (double)(N * MAX_T), 2 * .2689414214, 0.02);
    k.r.training = false;
    choose(&k, 1, golden);
    assert_int_equal(k.expert[1], 1);
    close_rig(&k);
    rig_open(&k, SET("moe.router=gshard", "moe.gshard.second=sampling"));
    n_kept = 0;
    for (int32_t i = 0; i < N; i++) {
        k.r.stream = (uint64_t)i;
        choose(&k, MAX_T, z);
        for (int32_t t = 0; t < MAX_T; t++) {
            n_kept += k.expert[2 * t + 1] == 1;
        }
    }
    assert_near(n_kept / (double)(N * MAX_T), .224208 / (1 - .609460), 0.02);
    close_rig(&k);
}

/* One softmax per group: the weight does not see the other group. */
static void prototype_groups_do_not_see_each_other(void **state)
{
    (void)state;
    rig k;
    double z[4];
    memcpy(z, golden, sizeof z);
    rig_open(&k, SET("moe.router=prototype"));
    choose(&k, 1, z);
    assert_experts(&k, 0, (const int32_t[MAX_LIST]){0, 2, -1});
    assert_near(k.weight[0], 1 / (1 + exp(-1)), 1e-12);
    assert_near(k.weight[1], 1 / (1 + exp(-1.5)), 1e-12);
    z[2] = -3;
    choose(&k, 1, z);
    assert_near(k.weight[0], 1 / (1 + exp(-1)), 1e-12);
    assert_int_equal(k.expert[1], 3);
    close_rig(&k);
}

/* Rare ids see a fixed few, frequent ones all. */
static void maskmoe_rare_tokens_see_few_experts(void **state)
{
    (void)state;
    enum { E = 12 };
    rig k;
    double z[MAX_T * E];
    rig_open(&k,
             (const char *const[]){"moe.experts=12", "moe.router=maskmoe", "moe.maskmoe.visible=3",
                                   "moe.maskmoe.frequent_ids=50", NULL});
    for (int32_t id = 0; id < 100; id += 10) {
        bool seen[E] = {0};
        int32_t n = 0;
        for (int32_t t = 0; t < MAX_T; t++) {
            k.ids[t] = id;
        }
        draw(z, MAX_T * E, (uint64_t)id);
        choose(&k, MAX_T, z);
        for (int32_t i = 0; i < MAX_T * 2; i++) {
            n += !seen[k.expert[i]];
            seen[k.expert[i]] = true;
        }
        assert_true(id < 50 ? n > 8 : n == 3);
    }
    close_rig(&k);
}

/* Ids 290, 280 and 270 are 0.5, 0.25 and 0.1875 of the data; whatever the ids are, those are
   frequent that it takes to come to the share. */
static void maskmoe_frequent_ids_make_up_the_share_of_the_data(void **state)
{
    (void)state;
    static const struct {
        const char *set;
        int32_t n;
    } cases[] = {{"moe.maskmoe.frequent_share=0.4", 1},
                 {"moe.maskmoe.frequent_share=0.5", 1},
                 {"moe.maskmoe.frequent_share=0.51", 2},
                 {"moe.maskmoe.frequent_share=0.9", 3},
                 {"moe.maskmoe.frequent_share=1", 4}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        rig k;
        double share[300] = {0}, z[4] = {0};
        int32_t n = 0;
        share[290] = 0.5;
        share[280] = 0.25;
        share[270] = 0.1875;
        share[3] = 0.0625;
        rig_open(&k, SET("moe.router=maskmoe", "moe.maskmoe.frequent_ids=100", cases[c].set));
        assert_int_equal(k.router->host->begin(k.r.config, share, 300, 0, k.state), SY_OK);
        for (int32_t id = 0; id < 300; id++) {
            int32_t seen = 0;
            k.ids[0] = id;
            choose(&k, 1, z);
            for (int32_t e = 0; e < 4; e++) {
                seen += k.z[e] > -1e29;
            }
            assert_true(seen == 2 || (seen == 4 && share[id] > 0));
            n += seen == 4;
        }
        assert_int_equal(n, cases[c].n);
        close_rig(&k);
    }
}

/* No tokens, and none that are routed: nothing is chosen, no loss, nothing infinite. */
static void routers_without_tokens_give_nothing(void **state)
{
    (void)state;
    const char *const *names = sy_router_names();
    for (int32_t i = 0; names[i] != NULL; i++) {
        rig k;
        char name[64];
        static double param[2][MAX_E * MAX_M], dparam[2][MAX_E * MAX_M];
        snprintf(name, sizeof name, "moe.router=%s", names[i]);
        for (int32_t T = 0; T < 8; T += 7) {
            rig_open(&k, SET(name, "moe.look_ahead=true"));
            for (int32_t j = 0; j < 2; j++) {
                k.r.param[j] = param[j];
                k.r.dparam[j] = dparam[j];
            }
            k.r.routed = k.routed;
            choose(&k, T, k.scratch);
            backward(&k);
            assert_true(k.r.loss == 0);
            for (int32_t j = 0; j < MAX_T * MAX_E; j++) {
                assert_true(k.expert[j] == -1 && k.dz[j] == 0);
            }
            close_rig(&k);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(remoe_of_the_fixture_has_known_choices_and_loss),
        cmocka_unit_test(top_p_of_the_fixture_takes_the_shortest_prefix),
        cmocka_unit_test(top_p_of_everything_takes_all_experts),
        cmocka_unit_test(expert_choice_of_the_fixture_fills_every_expert),
        cmocka_unit_test(grouped_with_bias_of_the_fixture_chooses_by_the_biased_score),
        cmocka_unit_test(noisy_of_the_fixture_has_known_losses),
        cmocka_unit_test(skywork_of_the_fixture_normalises_the_logits),
        cmocka_unit_test(yuan_of_known_rows_has_known_logits),
        cmocka_unit_test(grin_of_the_fixture_masks_far_experts),
        cmocka_unit_test(grin_draws_follow_the_masked_softmax),
        cmocka_unit_test(grin_gradient_is_that_of_the_probability),
        cmocka_unit_test(sinkhorn_plan_is_balanced),
        cmocka_unit_test(hash_balances_by_the_frequencies_of_the_data),
        cmocka_unit_test(hash_deals_ids_evenly_whatever_the_batch),
        cmocka_unit_test(remoe_lambda_follows_the_active_experts),
        cmocka_unit_test(skywork_coefficient_follows_the_drops),
        cmocka_unit_test(adamoe_nulls_take_choices_away),
        cmocka_unit_test(adamoe_balance_loss_of_equal_logits_is_one),
        cmocka_unit_test(adamoe_balance_loss_shares_the_nulls_out),
        cmocka_unit_test(grouped_losses_of_the_fixture_are_those_by_hand),
        cmocka_unit_test(draws_belong_to_the_tokens_of_the_global_batch),
        cmocka_unit_test(grouped_keeps_the_group_with_the_best_or_the_best_pair),
        cmocka_unit_test(grouped_with_all_groups_is_plain_top_k),
        cmocka_unit_test(gshard_keeps_the_second_in_proportion),
        cmocka_unit_test(prototype_groups_do_not_see_each_other),
        cmocka_unit_test(maskmoe_rare_tokens_see_few_experts),
        cmocka_unit_test(maskmoe_frequent_ids_make_up_the_share_of_the_data),
        cmocka_unit_test(routers_without_tokens_give_nothing),
    };
    return cmocka_run_group_tests_name("routers", tests, NULL, NULL);
}

/* What a MoE layer must obey whatever its weights are: symmetries, sums of weights, gradients that
   vanish, loads that even out. docs/TESTING.md lists the identities and who proves them. */
#include <math.h>
#include <string.h>

#include "core/rng.h"
#include "tests/support/moe_one.h"

static rig_weights weights, moved;
static rig_tokens tokens, turned;
static rig_result got, wanted;

static void draw(uint64_t seed)
{
    rig_draw_weights(seed, &weights);
    rig_draw_tokens(seed, B, S, &tokens);
}

/* Two columns of routers' and experts' rows change places: position e now holds from[e]. */
static void permute_experts(const rig_weights *w, const int32_t *from, rig_weights *out)
{
    *out = *w;
    for (int32_t e = 0; e < E; e++) {
        memcpy(out->router + e * H, w->router + from[e] * H, sizeof(double) * H);
        memcpy(out->gate_up + e * RIG_GATED, w->gate_up + from[e] * RIG_GATED,
               sizeof(double) * RIG_GATED);
        memcpy(out->down + e * H * RIG_F, w->down + from[e] * H * RIG_F,
               sizeof(double) * H * RIG_F);
        out->bias[e] = w->bias[from[e]];
    }
}

static void copy_expert_0_to_all(rig_weights *w)
{
    for (int32_t e = 1; e < E; e++) {
        memcpy(w->gate_up + e * RIG_GATED, w->gate_up, sizeof(double) * RIG_GATED);
        memcpy(w->down + e * H * RIG_F, w->down, sizeof(double) * H * RIG_F);
    }
}

/* ---- symmetries ---- */

static const int32_t shuffle[E] = {4, 2, 5, 0, 3, 1};

static void experts_permuted_with_their_rows_change_nothing(void **state)
{
    (void)state;
    for (int32_t i = 0; i < 2 * N_FORMS; i++) {
        static rig_weights grads, moved_grads, sorted;
        sy_moe_config c = of_form(&forms[i / 2]);
        c.bias_update_rate = 0.1;
        c.aux_loss_coeff = 0.3;
        c.z_loss_coeff = 0.2;
        c.capacity_factor = (sy_opt_f64){i % 2 == 1, 0.7};
        draw(70 + (uint64_t)i);
        permute_experts(&weights, shuffle, &moved);
        run_on("ref", &c, &weights, &tokens, &wanted, &grads);
        run_on("ref", &c, &moved, &tokens, &got, &moved_grads);
        permute_experts(&grads, shuffle, &sorted);
        assert_near(got.y, wanted.y, N_Y, 1e-12, "output");
        assert_near(got.dx, wanted.dx, N_Y, 1e-12, "gradient of the input");
        assert_near(got.sums, wanted.sums, SY_N_SUMS, 1e-12, "sums");
        assert_near(moved_grads.router, sorted.router, E * H, 1e-12, "router gradient");
        assert_near(moved_grads.down, sorted.down, E * H * RIG_F, 1e-12, "expert gradient");
        for (int32_t e = 0; e < E; e++) {
            assert_int_equal(got.load[e], wanted.load[shuffle[e]]);
            assert_int_equal(got.kept[e], wanted.kept[shuffle[e]]);
        }
    }
}

static void reverse_tokens(const rig_tokens *in, rig_tokens *out)
{
    *out = *in;
    for (int32_t t = 0; t < T; t++) {
        memcpy(out->x + t * H, in->x + (T - 1 - t) * H, sizeof(double) * H);
        memcpy(out->dy + t * H, in->dy + (T - 1 - t) * H, sizeof(double) * H);
    }
}

static double gap_of_reversed(const double *a, const double *b)
{
    double worst = 0;
    for (int32_t t = 0; t < T; t++) {
        worst = fmax(worst, rig_gap(a + t * H, b + (T - 1 - t) * H, H));
    }
    return worst;
}

/* But not where places are given away by position. */
static void tokens_permuted_permute_the_output(void **state)
{
    (void)state;
    for (int32_t i = 0; i < 3 * N_FORMS; i++) {
        sy_moe_config c = of_form(&forms[i / 3]);
        bool by_position = i % 3 == 1;
        c.aux_loss_coeff = 0.3;
        c.z_loss_coeff = 0.2;
        c.capacity_factor = (sy_opt_f64){i % 3 > 0, 0.6};
        c.drop_policy = by_position ? SY_DROP_POSITION : SY_DROP_PROBABILITY;
        draw(20 + (uint64_t)i);
        reverse_tokens(&tokens, &turned);
        run(&c, &weights, &tokens, &wanted);
        run(&c, &weights, &turned, &got);
        assert_near(got.sums, wanted.sums, SY_SUM_OUTPUT, 1e-12, "sums");
        assert_true((rig_gap(got.sums + SY_SUM_OUTPUT, wanted.sums + SY_SUM_OUTPUT, 1) < 1e-12) ==
                    !by_position);
        assert_memory_equal(got.load, wanted.load, sizeof got.load);
        assert_memory_equal(got.kept, wanted.kept, sizeof got.kept);
        assert_true((gap_of_reversed(got.y, wanted.y) < 1e-12) == !by_position);
        assert_true((gap_of_reversed(got.dx, wanted.dx) < 1e-12) == !by_position);
    }
}

/* Softmax does not see a constant per token: x v for every expert. Sigmoid and the z-loss do. */
static void logits_shifted_per_token_change_nothing_for_softmax(void **state)
{
    (void)state;
    for (int32_t i = 0; i < N_FORMS; i++) {
        sy_moe_config c = of_form(&forms[i]);
        draw(30 + (uint64_t)i);
        moved = weights;
        for (int32_t k = 0; k < E * H; k++) {
            moved.router[k] += 0.1 * (k % H + 1); /* the same row for every expert */
        }
        run(&c, &weights, &tokens, &wanted);
        run(&c, &moved, &tokens, &got);
        assert_true((rig_gap(got.y, wanted.y, N_Y) < 1e-12) == is_softmax(&forms[i]));
        assert_true((rig_gap(got.sums + SY_SUM_AUX, wanted.sums + SY_SUM_AUX, 1) < 1e-12) ==
                    is_softmax(&forms[i]));
        assert_true(fabs(got.sums[SY_SUM_Z] - wanted.sums[SY_SUM_Z]) > 1e-3);
    }
}

/* The gradient of the router summed over experts is x^T times the row sums of dL/dz, and at most H
   tokens cannot hide one behind another. The z-loss gives 2 c lse / T per token. */
static void logit_gradients_of_a_token_sum_to_zero_for_softmax(void **state)
{
    (void)state;
    for (int32_t i = 0; i < 2 * N_FORMS; i++) {
        static rig_weights grads;
        double sum[H] = {0}, zero[H] = {0};
        sy_moe_config c = of_form(&forms[i / 2]);
        c.aux_loss_coeff = 0.7;
        c.z_loss_coeff = i % 2 * 0.5;
        draw(40 + (uint64_t)i);
        tokens.B = 1;
        tokens.S = 5;
        run_on("ref", &c, &weights, &tokens, &got, &grads);
        for (int32_t k = 0; k < E * H; k++) {
            sum[k % H] += grads.router[k];
        }
        for (int32_t t = 0; t < tokens.S && i % 2 == 1; t++) {
            double total = 0;
            for (int32_t e = 0; e < E; e++) {
                double z = 0;
                for (int32_t h = 0; h < H; h++) {
                    z += weights.router[e * H + h] * tokens.x[t * H + h];
                }
                total += exp(z);
            }
            for (int32_t h = 0; h < H; h++) {
                zero[h] += 2 * c.z_loss_coeff * log(total) / T * tokens.x[t * H + h];
            }
        }
        assert_true((rig_gap(sum, zero, H) < 1e-12) == is_softmax(&forms[i / 2]));
        assert_true(rig_gap(grads.router, zero, H) > 1e-4);
    }
}

/* A configuration refuses it (tests/e2e/test_bad_input.py): here is why. */
static void router_gradient_of_one_normalized_choice_is_zero(void **state)
{
    (void)state;
    static rig_weights grads;
    static const rig_weights none;
    for (int32_t score = 0; score < 2; score++) {
        sy_moe_config c = rig_config(E, 1);
        c.score = score;
        draw(50);
        run_on("ref", &c, &weights, &tokens, &got, &grads);
        assert_true(rig_gap(grads.router, none.router, E * H) < 1e-14);
        assert_true(rig_gap(grads.down, none.down, E * H * RIG_F) > 0.1);
    }
}

/* Hidden units of one expert change places, in all three matrices: the expert is the same. */
static void units_of_an_expert_permuted_change_nothing(void **state)
{
    (void)state;
    sy_moe_config c = rig_config(E, 2);
    draw(60);
    moved = weights;
    for (int32_t f = 0; f < RIG_F; f++) {
        int32_t to = (f + 2) % RIG_F;
        for (int32_t h = 0; h < H; h++) {
            moved.gate_up[to * H + h] = weights.gate_up[f * H + h];
            moved.gate_up[(RIG_F + to) * H + h] = weights.gate_up[(RIG_F + f) * H + h];
            moved.down[h * RIG_F + to] = weights.down[h * RIG_F + f];
        }
    }
    run(&c, &weights, &tokens, &wanted);
    run(&c, &moved, &tokens, &got);
    assert_near(got.y, wanted.y, N_Y, 1e-12, "output");
    assert_true(wanted.load[0] > 0);
}

/* ---- weights ---- */

/* Scores, choice and weights of given logits, in fp32 on the device under test. */
static void weigh_logits(const float *z, bool normalize, float *weight, int32_t *expert)
{
    enum { K = 3 };
    sy_device *dev = NULL;
    sy_stream *stream = NULL;
    sy_arena arena;
    sy_tensor dz, p, lse, chosen, token, w;
    must(sy_device_open(&(sy_device_spec){.backend = device_under_test(), .threads = 1}, &dev));
    must(sy_stream_create(dev, "compute", &stream));
    must(sy_arena_init(&arena, dev, 1 << 16, SY_MEM_OTHER));
    must(sy_arena_2d(&arena, SY_F32, T, E, &dz));
    must(sy_arena_2d(&arena, SY_F32, T, E, &p));
    must(sy_arena_1d(&arena, SY_F32, T, &lse));
    must(sy_arena_2d(&arena, SY_I32, T, K, &chosen));
    must(sy_arena_2d(&arena, SY_I32, T, K, &token));
    must(sy_arena_2d(&arena, SY_F32, T, K, &w));
    must(sy_copy_h2d(stream, dz.data, z, sy_tensor_bytes(&dz)));
    must(sy_router_scores(stream, &(sy_router_scores_args){.z = dz, .p = p, .lse = lse}));
    must(sy_topk(stream, &(sy_topk_args){.p = p, .expert = chosen, .token = token}));
    must(sy_topk_weigh(
        stream, &(sy_topk_weigh_args){
                    .p = p, .expert = chosen, .weight = w, .normalize = normalize, .scale = 1}));
    must(sy_copy_d2h(stream, weight, w.data, sy_tensor_bytes(&w)));
    must(sy_copy_d2h(stream, expert, chosen.data, sy_tensor_bytes(&chosen)));
    must(sy_stream_sync(stream));
    sy_arena_free(&arena);
    sy_stream_destroy(&stream);
    sy_device_close(&dev);
}

/* Softmax over all, then dividing by the sum of the chosen, is softmax over the chosen logits
   alone; in fp32 to two units in the last place, for logits of any size. Undivided, a token's
   weights sum to less than 1. */
static void normalized_weights_are_the_softmax_of_the_chosen_logits(void **state)
{
    (void)state;
    enum { K = 3 };
    const double ulp = 0x1p-23;
    for (int32_t i = 0; i < 3; i++) {
        float z[T * E], weight[T * K], plain[T * K];
        int32_t expert[T * K];
        for (int32_t k = 0; k < T * E; k++) {
            z[k] = (float)((i == 2 ? 20 : 1 + i) * sy_rng_normal(3, SY_RNG_TEST, (uint64_t)k));
        }
        weigh_logits(z, false, plain, expert);
        weigh_logits(z, true, weight, expert);
        for (int32_t t = 0; t < T; t++) {
            double sum = 0, of_weights = 0, of_plain = 0, wanted_weight[K];
            for (int32_t k = 0; k < K; k++) {
                float below = z[t * E + expert[t * K + k]] - z[t * E + expert[t * K]];
                wanted_weight[k] = exp((double)below); /* the difference is rounded in any fp32 */
                sum += wanted_weight[k];
                of_weights += weight[t * K + k];
                of_plain += plain[t * K + k];
            }
            for (int32_t k = 0; k < K; k++) {
                double off = weight[t * K + k] / (wanted_weight[k] / sum) - 1;
                if (!(fabs(off) <= 2 * ulp) && wanted_weight[k] > 1e-30) {
                    fail_msg("token %d, choice %d: %.1f ulp", t, k, off / ulp);
                }
            }
            assert_true(fabs(of_weights - 1) <= 2 * ulp);
            assert_true(of_plain < 1 + ulp && (of_plain < 1 || i == 2));
        }
    }
}

/* The K largest scores of a token, added up. */
static double sum_of_chosen(const form *f, const double *x)
{
    double p[E], total = 0, sum = 0;
    for (int32_t e = 0; e < E; e++) {
        double z = 0;
        for (int32_t h = 0; h < H; h++) {
            z += weights.router[e * H + h] * x[h];
        }
        p[e] = is_softmax(f) ? exp(z) : 1 / (1 + exp(-z));
        total += is_softmax(f) ? p[e] : 0;
    }
    for (int32_t k = 0; k < f->top_k; k++) {
        int32_t best = 0;
        for (int32_t e = 1; e < E; e++) {
            best = p[e] > p[best] ? e : best;
        }
        sum += p[best];
        p[best] = 0;
    }
    return is_softmax(f) ? sum / total : sum;
}

/* E equal experts are one dense MLP, times the sum of the token's weights: 1 for form A, the
   chosen probabilities for B and E, the scale for C. With equal logits that is K/E for B. */
static void equal_experts_are_one_mlp_times_the_sum_of_weights(void **state)
{
    (void)state;
    for (int32_t i = 0; i < 2 * N_FORMS; i++) {
        const form *f = &forms[i / 2];
        sy_moe_config c = of_form(f);
        draw(80 + (uint64_t)i);
        copy_expert_0_to_all(&weights);
        if (i % 2 == 1) {
            memset(weights.router, 0, sizeof weights.router);
        }
        run(&c, &weights, &tokens, &got);
        for (int32_t t = 0; t < T; t++) {
            const double *x = tokens.x + t * H;
            double out[H], chosen = sum_of_chosen(f, x);
            plain_ffn(weights.gate_up, weights.down, x, out);
            for (int32_t h = 0; h < H; h++) {
                out[h] *= f->normalize ? f->scale : chosen;
            }
            assert_near(got.y + t * H, out, H, 1e-12, f->name);
            assert_true(f->normalize || chosen < 1);
            assert_true(i % 2 == 0 || !is_softmax(f) || fabs(chosen - f->top_k / 6.0) < 1e-15);
        }
    }
}

/* The bias decides who is chosen and nothing else: one that is equal for all experts changes no
   bit, and it has no gradient. (Other ones: the plain sum.) */
static void bias_equal_for_all_changes_nothing(void **state)
{
    (void)state;
    static rig_weights grads, grads_without;
    for (int32_t i = 0; i < N_FORMS; i++) {
        sy_moe_config c = of_form(&forms[i]);
        draw(90 + (uint64_t)i);
        run_on("ref", &c, &weights, &tokens, &wanted, &grads_without);
        c.bias_update_rate = 0.1;
        for (int32_t e = 0; e < E; e++) {
            weights.bias[e] = 0.25;
        }
        run_on("ref", &c, &weights, &tokens, &got, &grads);
        assert_memory_equal(got.y, wanted.y, sizeof got.y);
        assert_memory_equal(got.dx, wanted.dx, sizeof got.dx);
        assert_memory_equal(&grads, &grads_without, sizeof grads);
    }
}

/* ---- balance ---- */

/* All tokens to one expert, for certain: the balance loss is E. */
static void balance_loss_of_one_certain_expert_is_the_number_of_experts(void **state)
{
    (void)state;
    sy_moe_config c = rig_config(E, 1);
    c.normalize_weights = false;
    draw(310);
    memset(weights.router, 0, sizeof weights.router);
    weights.router[2 * H] = 100;
    for (int32_t t = 0; t < T; t++) {
        tokens.x[t * H] = 1;
    }
    run(&c, &weights, &tokens, &got);
    assert_true(fabs(got.sums[SY_SUM_AUX] - E) < 1e-12);
    assert_int_equal(got.load[2], T);
}

/* gamma * sign(mean load - load), the golden fixture's among them; equal loads move nothing. */
static void bias_of_known_loads_moves_by_the_rate(void **state)
{
    (void)state;
    static const struct {
        int64_t load[4];
        double move[4];
    } cases[] = {{{2, 1, 3, 2}, {0, 1, -1, 0}}, /* the golden ones */
                 {{5, 5, 5, 5}, {0, 0, 0, 0}},
                 {{0, 0, 0, 0}, {0, 0, 0, 0}},
                 {{8, 0, 0, 0}, {-1, 1, 1, 1}}};
    sy_moe_config c = rig_config(4, 2);
    sy_comm *world = NULL;
    moe_rig rig;
    double before[RIG_E] = {0}, after[RIG_E];
    c.bias_update_rate = 0.001;
    must(sy_comm_world(false, &world));
    must(rig_open(&rig, &(rig_spec){.moe = c, .backend = "ref", .world = world, .ep = 1}));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        must(rig_end_step(&rig, cases[i].load, false, after));
        for (int32_t e = 0; e < 4; e++) {
            assert_true(fabs(after[e] - before[e] - 0.001 * cases[i].move[e]) < 1e-15);
        }
        memcpy(before, after, sizeof before);
    }
    rig_close(&rig);
    sy_comm_destroy(&world);
}

/* The same tokens step after step: the loads even out and the bias comes to rest. */
static void bias_of_steady_tokens_evens_the_load_and_stays_bounded(void **state)
{
    (void)state;
    enum { N_STEPS = 300 };
    sy_moe_config c = rig_config(E, 2);
    sy_comm *world = NULL;
    moe_rig rig;
    double bias[RIG_E] = {0}, violation[N_STEPS];
    c.score = SY_SCORE_SIGMOID;
    c.bias_update_rate = 0.01;
    draw(320);
    memset(weights.bias, 0, sizeof weights.bias);
    for (int32_t h = 0; h < H; h++) { /* expert 0 is everybody's favourite */
        weights.router[h] = h == 0 ? 3 : 0;
    }
    for (int32_t t = 0; t < T; t++) {
        tokens.x[t * H] = 1;
    }
    must(sy_comm_world(false, &world));
    must(rig_open(&rig, &(rig_spec){.moe = c, .backend = "ref", .world = world, .ep = 1}));
    must(rig_put(&rig, &weights));
    for (int32_t i = 0; i < N_STEPS; i++) {
        double mean = (double)T * 2 / E, most = 0;
        must(rig_train(&rig, &tokens, 1.0 / T, &got));
        must(rig_end_step(&rig, got.load, false, bias));
        for (int32_t e = 0; e < E; e++) {
            most = fmax(most, (double)got.load[e]);
            assert_true(fabs(bias[e]) <= 1); /* scores lie in (0, 1) */
        }
        violation[i] = most / mean - 1;
    }
    assert_true(violation[0] >= 1 && got.load[0] < T);
    for (int32_t i = N_STEPS - 50; i < N_STEPS; i++) {
        assert_true(violation[i] <= 0.3);
    }
    rig_close(&rig);
    sy_comm_destroy(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_permuted_with_their_rows_change_nothing),
        cmocka_unit_test(tokens_permuted_permute_the_output),
        cmocka_unit_test(logits_shifted_per_token_change_nothing_for_softmax),
        cmocka_unit_test(logit_gradients_of_a_token_sum_to_zero_for_softmax),
        cmocka_unit_test(router_gradient_of_one_normalized_choice_is_zero),
        cmocka_unit_test(units_of_an_expert_permuted_change_nothing),
        cmocka_unit_test(normalized_weights_are_the_softmax_of_the_chosen_logits),
        cmocka_unit_test(equal_experts_are_one_mlp_times_the_sum_of_weights),
        cmocka_unit_test(bias_equal_for_all_changes_nothing),
        cmocka_unit_test(balance_loss_of_one_certain_expert_is_the_number_of_experts),
        cmocka_unit_test(bias_of_known_loads_moves_by_the_rate),
        cmocka_unit_test(bias_of_steady_tokens_evens_the_load_and_stays_bounded),
    };
    return cmocka_run_group_tests_name("router_identities", tests, NULL, NULL);
}

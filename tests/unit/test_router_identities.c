/* What a MoE layer must obey whatever its weights are. The layer stands alone; what it is compared
   with is a closed form, the same layer turned round, or the layer said plainly
   (tests/support/plain_moe.c). docs/TESTING.md lists the identities and who proves them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "moe/capacity.h"
#include "tests/support/moe_rig.h"

enum { B = 3, S = 7, T = B * S, E = 6, H = RIG_H, N_Y = T * RIG_H };

static rig_weights weights, moved;
static rig_tokens tokens, turned;
static rig_result got, wanted;

static void must(sy_status st)
{
    if (st != SY_OK) {
        print_error("%s\n", sy_error_message());
        fail();
    }
}

static void assert_near(const double *a, const double *b, int64_t n, double bound, const char *what)
{
    double gap = rig_gap(a, b, n);
    if (!(gap <= bound)) {
        fail_msg("%s: off by %.3g where %.3g is allowed", what, gap, bound);
    }
}

static void draw(uint64_t seed)
{
    rig_draw_weights(seed, &weights);
    rig_draw_tokens(seed, B, S, &tokens);
}

/* Forward and backward of one micro-batch on one rank; grads may be NULL. */
static void run_on(const char *backend, const sy_moe_config *c, const rig_weights *w,
                   const rig_tokens *in, rig_result *out, rig_weights *grads)
{
    sy_comm *world = NULL;
    moe_rig rig;
    must(sy_comm_world(false, &world));
    must(rig_open(&rig, &(rig_spec){.moe = *c, .backend = backend, .world = world, .ep = 1}));
    must(rig_put(&rig, w));
    must(rig_train(&rig, in, 1.0 / T, out));
    if (grads != NULL) {
        must(rig_get_gradients(&rig, grads));
    }
    rig_close(&rig);
    sy_comm_destroy(&world);
}

static void run(const sy_moe_config *c, const rig_weights *w, const rig_tokens *in, rig_result *out)
{
    run_on("ref", c, w, in, out, NULL);
}

static const char *device_under_test(void)
{
    const char *backend = getenv("SY_TEST_BACKEND");
    return backend != NULL && *backend != '\0' ? backend : "cpu";
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

/* ---- the ways to route ---- */

typedef struct form {
    const char *name;
    sy_score score;
    int32_t top_k;
    bool normalize;
    double scale;
} form;

/* Those of docs/NUMERICS.md 2, with the scale of DeepSeek-V3 for C. */
static const form forms[] = {{"A", SY_SCORE_SOFTMAX, 2, true, 1},
                             {"B", SY_SCORE_SOFTMAX, 2, false, 1},
                             {"B of one choice", SY_SCORE_SOFTMAX, 1, false, 1},
                             {"C", SY_SCORE_SIGMOID, 3, true, 2.5},
                             {"E", SY_SCORE_SIGMOID, 1, false, 1}};
enum { N_FORMS = sizeof forms / sizeof forms[0] };

static sy_moe_config of_form(const form *f)
{
    sy_moe_config c = rig_config(E, f->top_k);
    c.score = (int32_t)f->score;
    c.normalize_weights = f->normalize;
    c.routed_scale = f->scale;
    return c;
}

static bool is_softmax(const form *f)
{
    return f->score == SY_SCORE_SOFTMAX;
}

/* ---- the whole layer, said plainly ---- */

typedef struct variant {
    double capacity_factor; /* 0: none */
    sy_drop_policy policy;
    sy_aux_scope scope;
    bool padded, masked, bias, shared, gated;
    double recv_factor;
} variant;

static const variant variants[] = {
    {.recv_factor = 2},
    {.recv_factor = 0.1, .scope = SY_AUX_SEQUENCE},
    {.recv_factor = 2, .capacity_factor = 0.6},
    {.recv_factor = 2, .capacity_factor = 0.6, .policy = SY_DROP_PROBABILITY},
    {.recv_factor = 2, .capacity_factor = 0.6, .padded = true, .masked = true},
    {.recv_factor = 2, .bias = true, .shared = true, .scope = SY_AUX_SEQUENCE},
    {.recv_factor = 2, .bias = true, .shared = true, .gated = true, .masked = true},
    {.recv_factor = 2, .masked = true, .scope = SY_AUX_SEQUENCE},
    {.recv_factor = 2, .masked = true, .scope = SY_AUX_GLOBAL_BATCH},
};

static sy_moe_config vary(sy_moe_config c, const variant *v)
{
    c.capacity_factor = (sy_opt_f64){v->capacity_factor > 0, v->capacity_factor};
    c.drop_policy = (int32_t)v->policy;
    c.pad_to_capacity = v->padded;
    c.aux_loss_scope = (int32_t)v->scope;
    c.bias_update_rate = v->bias ? 0.01 : 0;
    c.shared_experts = v->shared;
    c.shared_gate = v->gated;
    c.recv_factor = v->recv_factor;
    return c;
}

static void mask_some(rig_tokens *in)
{
    in->masked = true;
    for (int32_t t = 0; t < T; t++) {
        in->routed[t] = t % 4 != 1 && t < T - 3;
    }
}

static void layer_of_every_kind_is_the_plain_sum(void **state)
{
    (void)state;
    const char *const backends[2] = {"ref", device_under_test()};
    const double bounds[2] = {1e-12, 2e-5};
    int64_t n_dropped = 0, n_passes = 0;
    for (size_t i = 0; i < N_FORMS * (sizeof variants / sizeof variants[0]); i++) {
        const variant *v = &variants[i / N_FORMS];
        sy_moe_config c = vary(of_form(&forms[i % N_FORMS]), v);
        draw(11 + i);
        if (v->masked) {
            mask_some(&tokens);
        }
        int64_t places = sy_capacity_slots(&c, false, T);
        plain_moe(&c, &weights, &tokens, places, NULL, 1.0 / T, &wanted);
        for (int32_t b = 0; b < 2; b++) {
            run_on(backends[b], &c, &weights, &tokens, &got, NULL);
            assert_near(got.y, wanted.y, N_Y, bounds[b], "output");
            assert_near(got.sums, wanted.sums, SY_N_SUMS, bounds[b], "sums");
            assert_memory_equal(got.load, wanted.load, sizeof got.load);
            assert_memory_equal(got.kept, wanted.kept, sizeof got.kept);
        }
        for (int32_t e = 0; e < E; e++) {
            n_dropped += wanted.load[e] - wanted.kept[e];
        }
        n_passes += got.n_extra_passes;
    }
    assert_true(n_dropped > 0 && n_passes > 0);
}

/* ---- the golden fixture, through the layer ---- */

/* x is the logits and the router the identity: 4 tokens, 4 experts, numbers worked out elsewhere.
 */
static void fixture(rig_weights *w, rig_tokens *in)
{
    static const double z[4][4] = {
        {2, 1, 0.5, -1}, {0, 3, 1, -2}, {1.5, 1, -0.5, 0.25}, {-1, 0.5, 2.5, 1.25}};
    rig_draw_weights(1, w);
    rig_draw_tokens(1, 2, 2, in);
    memset(w->router, 0, sizeof w->router);
    memset(in->x, 0, sizeof in->x);
    for (int32_t i = 0; i < 4; i++) {
        w->router[i * H + i] = 1;
        memcpy(in->x + i * H, z[i], sizeof z[i]);
    }
}

static void fixture_through_the_layer_gives_the_golden_numbers(void **state)
{
    (void)state;
    static const int64_t load[4] = {2, 3, 2, 1}, kept[4] = {2, 2, 2, 1};
    static const double balance[3] = {1.135112760, 1.256809, 1.135112760}; /* by scope */
    for (int32_t scope = 0; scope < 3; scope++) {
        sy_moe_config c = rig_config(4, 2);
        c.aux_loss_scope = scope;
        c.capacity_factor = (sy_opt_f64){true, 1}; /* two places */
        fixture(&weights, &tokens);
        run(&c, &weights, &tokens, &got);
        /* run() weighs a token 1/T: the fixture has 4 */
        assert_true(fabs(got.sums[SY_SUM_AUX] * T / 4 - balance[scope]) < 1e-6);
        assert_true(fabs(got.sums[SY_SUM_Z] * T / 4 - 7.358912753) < 1e-9);
        assert_true(fabs(got.sums[SY_SUM_ENTROPY] / 4 - .904038242) < 1e-9);
        assert_memory_equal(got.load, load, sizeof load);
        assert_memory_equal(got.kept, kept, sizeof kept);
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
        assert_near(got.sums, wanted.sums, SY_N_SUMS, 1e-12, "sums");
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

/* ---- drops and padding ---- */

/* A token none of whose choices is kept gets exactly 0, and gives back exactly 0; of the others the
   survivors keep their weight. An expert keeps as many as there is room for. */
static void dropped_tokens_give_exactly_zero(void **state)
{
    (void)state;
    static const double zero[H];
    for (int32_t i = 0; i < 4 * N_FORMS; i++) {
        sy_moe_config c = of_form(&forms[i / 4]);
        int64_t places, n_zero = 0, n_kept = 0, n_chosen = 0;
        c.capacity_factor = (sy_opt_f64){true, 0.15};
        c.drop_policy = i % 2;
        c.pad_to_capacity = i % 4 > 1;
        draw(100 + (uint64_t)i);
        places = sy_capacity_slots(&c, false, T);
        run(&c, &weights, &tokens, &got);
        for (int32_t t = 0; t < T; t++) {
            bool y_is_zero = memcmp(got.y + t * H, zero, sizeof zero) == 0;
            assert_true(y_is_zero == (rig_gap(got.dx + t * H, zero, H) == 0));
            n_zero += y_is_zero;
        }
        for (int32_t e = 0; e < E; e++) {
            int64_t room = got.load[e] < places ? got.load[e] : places;
            assert_int_equal(got.kept[e], room);
            n_kept += got.kept[e];
            n_chosen += got.load[e];
        }
        assert_int_equal(n_chosen, T * c.top_k);
        assert_true(n_zero > 0 && n_kept < n_chosen && n_zero < T);
    }
}

/* Tokens that are padding count nowhere: the micro-batch with them is the one without them. */
static void padding_tokens_are_as_if_they_were_not_there(void **state)
{
    (void)state;
    static rig_weights grads, grads_without;
    for (int32_t i = 0; i < 4 * N_FORMS; i++) {
        sy_moe_config c = of_form(&forms[i / 4]);
        rig_tokens without = {.B = B};
        int32_t n = 0;
        c.aux_loss_coeff = 0.3;
        c.z_loss_coeff = 0.2;
        c.aux_loss_scope = i % 2 == 0 ? SY_AUX_SEQUENCE : SY_AUX_GLOBAL_BATCH;
        c.min_capacity = 4; /* so many places with and without padding */
        c.capacity_factor = (sy_opt_f64){i % 4 > 1, 1e-3};
        draw(200 + (uint64_t)i);
        tokens.masked = true;
        for (int32_t t = 0; t < T; t++) { /* five of each sequence's seven */
            tokens.routed[t] = t % S != 1 && t % S != 6;
            if (tokens.routed[t]) {
                memcpy(without.x + n * H, tokens.x + t * H, sizeof(double) * H);
                memcpy(without.dy + n++ * H, tokens.dy + t * H, sizeof(double) * H);
            }
        }
        without.S = n / B;
        run_on("ref", &c, &weights, &tokens, &got, &grads);
        run_on("ref", &c, &weights, &without, &wanted, &grads_without);
        for (int32_t t = 0, at = 0; t < T; t++) {
            static const double zero[H];
            bool there = tokens.routed[t];
            assert_near(got.y + t * H, there ? wanted.y + at * H : zero, H, there ? 1e-13 : 0, "y");
            assert_near(got.dx + t * H, there ? wanted.dx + at * H : zero, H, there ? 1e-13 : 0,
                        "dx");
            at += there;
        }
        assert_near(got.sums, wanted.sums, SY_N_SUMS, 1e-13, "sums");
        assert_near(grads.router, grads_without.router, E * H, 1e-13, "router gradient");
        assert_near(grads.gate_up, grads_without.gate_up, E * RIG_GATED, 1e-13, "gradient");
        assert_memory_equal(got.load, wanted.load, sizeof got.load);
        assert_memory_equal(got.kept, wanted.kept, sizeof got.kept);
    }
}

static void batch_of_padding_alone_gives_zero(void **state)
{
    (void)state;
    static rig_weights grads;
    static const rig_weights none;
    static const rig_result nothing;
    for (int32_t i = 0; i < 3; i++) {
        sy_moe_config c = rig_config(E, 2);
        c.aux_loss_scope = i;
        c.aux_loss_coeff = c.z_loss_coeff = 1;
        draw(300);
        tokens.masked = true; /* routed: all 0 */
        run_on("ref", &c, &weights, &tokens, &got, &grads);
        assert_near(got.y, nothing.y, N_Y, 0, "output");
        assert_near(got.dx, nothing.dx, N_Y, 0, "gradient of the input");
        assert_near(got.sums, nothing.sums, SY_N_SUMS, 0, "sums");
        assert_near((double *)&grads, (const double *)&none, sizeof none / sizeof(double), 0,
                    "gradients");
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

/* ---- shared experts ---- */

/* A gate that is shut is no shared expert; without routed experts what is left is the gate times
   one dense MLP: 1 where there is no gate, one half where its weights are 0. */
static void shared_experts_are_a_gated_dense_mlp(void **state)
{
    (void)state;
    for (int32_t i = 0; i < 3; i++) {
        sy_moe_config c = rig_config(E, 2);
        draw(330 + (uint64_t)i);
        for (int32_t t = 0; t < T; t++) {
            tokens.x[t * H] = 1;
        }
        memset(weights.shared_router, 0, sizeof weights.shared_router);
        if (i == 0) {
            run(&c, &weights, &tokens, &wanted);
            weights.shared_router[0] = -1e4;
        } else {
            memset(weights.down, 0, sizeof weights.down);
        }
        c.shared_experts = 1;
        c.shared_gate = i < 2;
        run(&c, &weights, &tokens, &got);
        for (int32_t t = 0; t < T && i > 0; t++) {
            double out[H];
            plain_ffn(weights.shared_gate_up, weights.shared_down, tokens.x + t * H, out);
            for (int32_t h = 0; h < H; h++) {
                wanted.y[t * H + h] = out[h] * (i == 1 ? 0.5 : 1);
            }
        }
        assert_near(got.y, wanted.y, N_Y, i == 0 ? 0 : 1e-12, "output");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layer_of_every_kind_is_the_plain_sum),
        cmocka_unit_test(fixture_through_the_layer_gives_the_golden_numbers),
        cmocka_unit_test(experts_permuted_with_their_rows_change_nothing),
        cmocka_unit_test(tokens_permuted_permute_the_output),
        cmocka_unit_test(logits_shifted_per_token_change_nothing_for_softmax),
        cmocka_unit_test(logit_gradients_of_a_token_sum_to_zero_for_softmax),
        cmocka_unit_test(router_gradient_of_one_normalized_choice_is_zero),
        cmocka_unit_test(units_of_an_expert_permuted_change_nothing),
        cmocka_unit_test(normalized_weights_are_the_softmax_of_the_chosen_logits),
        cmocka_unit_test(equal_experts_are_one_mlp_times_the_sum_of_weights),
        cmocka_unit_test(bias_equal_for_all_changes_nothing),
        cmocka_unit_test(dropped_tokens_give_exactly_zero),
        cmocka_unit_test(padding_tokens_are_as_if_they_were_not_there),
        cmocka_unit_test(batch_of_padding_alone_gives_zero),
        cmocka_unit_test(balance_loss_of_one_certain_expert_is_the_number_of_experts),
        cmocka_unit_test(bias_of_known_loads_moves_by_the_rate),
        cmocka_unit_test(bias_of_steady_tokens_evens_the_load_and_stays_bounded),
        cmocka_unit_test(shared_experts_are_a_gated_dense_mlp),
    };
    return cmocka_run_group_tests_name("router_identities", tests, NULL, NULL);
}

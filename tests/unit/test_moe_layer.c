/* A MoE layer does what docs/NUMERICS.md 2 and 3 say: against the layer said plainly
   (tests/support/plain_moe.c), and against numbers worked out elsewhere. What becomes of dropped
   tokens and of padding; shared experts. */
#include <math.h>
#include <string.h>

#include "moe/capacity.h"
#include "tests/support/moe_one.h"

static rig_weights weights;
static rig_tokens tokens;
static rig_result got, wanted;

static void draw(uint64_t seed)
{
    rig_draw_weights(seed, &weights);
    rig_draw_tokens(seed, B, S, &tokens);
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
            assert_memory_equal(got.dropped_at, wanted.dropped_at, sizeof got.dropped_at);
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
        cmocka_unit_test(dropped_tokens_give_exactly_zero),
        cmocka_unit_test(padding_tokens_are_as_if_they_were_not_there),
        cmocka_unit_test(batch_of_padding_alone_gives_zero),
        cmocka_unit_test(shared_experts_are_a_gated_dense_mlp),
    };
    return cmocka_run_group_tests_name("moe_layer", tests, NULL, NULL);
}

/* Layers that take some tokens only: which they take; that evaluation does not look ahead, where
   training does; and that a layer's output is the plain formula. Gradients are in
   test_moe_gradient, the cache in test_multipliers, layouts in tests/mpi. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "model/depth_choice.h"
#include "model/flops.h"
#include "tests/support/plain_block.h"
#include "train/engine.h"

enum {
    B = 2,
    S = PLAIN_S,
    T = B * S,
    V = PLAIN_V,
    H = PLAIN_H,
    D = PLAIN_D,
    F = PLAIN_F,
    MAX_SET = 8
};

static void must(sy_status st)
{
    if (st != SY_OK) {
        fail_msg("%s", sy_error_message());
    }
}

/* ---- which tokens ---- */

typedef struct chosen {
    sy_depth_choice c;
    bool taken[T];
    int32_t row[T], row_of[T], token_start[T + 1], token_row[T], order[S];
    uint8_t row_routed[T];
    double row_r[T], token_r[T], dlogit[T];
} chosen;

static void choose(chosen *x, int32_t C, const double *r, const double *logit,
                   const uint8_t *routed)
{
    memset(x, 0, sizeof *x);
    x->c = (sy_depth_choice){.B = B,
                             .S = S,
                             .C = C,
                             .by_predictor = C < 0,
                             .r = r,
                             .logit = logit,
                             .routed = routed,
                             .taken = x->taken,
                             .row = x->row,
                             .row_of = x->row_of,
                             .token_start = x->token_start,
                             .token_row = x->token_row,
                             .row_routed = x->row_routed,
                             .row_r = x->row_r,
                             .token_r = x->token_r,
                             .dlogit = x->dlogit,
                             .order = x->order};
    sy_depth_choose(&x->c);
    sy_depth_place(&x->c);
    sy_depth_judge(&x->c);
}

static const double scores[T] = {1, 5, 5, -2, 5, NAN, 0, 3, 3, 3, 3, 3, 3, 3};
static const double logits[T] = {0.5, -1, 2, 0, -1, -3, 1, -1, -1, -1, -1, -1, 7, -1};

static void training_takes_the_largest_of_every_sequence_ties_to_the_earlier(void **state)
{
    (void)state;
    static const int32_t wanted[6] = {1, 2, 4, 7, 8, 9};
    chosen x;
    choose(&x, 3, scores, logits, NULL);
    assert_memory_equal(x.row, wanted, sizeof wanted);
    for (int32_t j = 0; j < 6; j++) {
        assert_true(x.row_of[wanted[j]] == j && x.row_r[j] == scores[wanted[j]]);
        assert_true(x.token_start[wanted[j]] == j && x.token_start[wanted[j] + 1] == j + 1);
        assert_true(x.token_row[j] == j && x.row_routed[j] == 1);
    }
    assert_true(x.row_of[0] == -1 && x.token_r[0] == 0 && x.token_start[T] == 6);
    /* padding last, although it scores high; NaN after all numbers */
    static const uint8_t routed[T] = {1, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0};
    choose(&x, 4, scores, logits, routed);
    assert_true(x.row[0] == 0 && x.row[1] == 3 && x.row[2] == 4 && x.row[3] == 5);
    assert_true(x.row_routed[4] == 0 && x.row[4] == 7);
    choose(&x, S, scores, logits, NULL);
    assert_int_equal(x.token_start[T], T);
}

static void evaluation_takes_whom_the_predictor_says(void **state)
{
    (void)state;
    static const int32_t wanted[6] = {0, 2, 6, 12, -1, -1};
    double loss = 0;
    chosen x;
    choose(&x, -1, scores, logits, NULL);
    assert_int_equal(x.c.C, 3);
    assert_memory_equal(x.row, wanted, sizeof wanted);
    assert_true(x.row_of[12] == 3 && x.token_row[3] == 3 && x.row_routed[4] == 0);
    for (int32_t t = 0; t < T; t++) { /* it agrees with itself */
        loss += log(1 + exp(-fabs(logits[t])));
        assert_true(fabs(x.dlogit[t] - (1 / (1 + exp(-logits[t])) - (logits[t] > 0))) < 1e-15);
    }
    assert_true(fabs(x.c.loss - loss) < 1e-12);
    const double none[T] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    choose(&x, -1, scores, none, NULL);
    assert_true(x.c.C == 0 && x.token_start[T] == 0 && x.row_of[5] == -1);
}

/* ---- the model ---- */

static const char config_text[] =
    "run: {seed: 3}\n"
    "device: {backend: ref, threads: 1}\n"
    "model: {vocab_size: 64, hidden: 8, layers: 2, heads: 2, kv_heads: 1, ffn_hidden: 10,"
    " seq_len: 7, depth_capacity: 0.5}\n"
    "moe: {experts: 0, top_k: 2, expert_hidden: 6}\n"
    "data: {tokenizer: none}\n"
    "train: {steps: 1, global_batch: 2, micro_batch: 2}\n";

typedef struct rig {
    sy_run_settings settings;
    sy_comm *world;
    sy_engine *e;
    int32_t ids[T], pos[T], doc[T];
    int64_t token_glb[T];
} rig;

static void open_rig(rig *r, const char *const *set)
{
    int32_t n = 0;
    memset(r, 0, sizeof *r);
    while (set[n] != NULL) {
        n++;
    }
    must(sy_comm_world(false, &r->world));
    must(sy_run_settings_parse(config_text, sizeof config_text - 1, "test", set, n, &r->settings));
    sy_engine_spec spec = {.settings = &r->settings,
                           .world = r->world,
                           .use = SY_USE_TRAIN,
                           .B = B,
                           .S = S,
                           .threads = 1};
    must(sy_engine_create(&spec, &r->e));
    for (int32_t i = 0; i < r->e->params->n; i++) {
        const sy_param *p = r->e->params->param[i];
        double x[V * H];
        for (int64_t k = 0; k < sy_tensor_numel(&p->value); k++) {
            x[k] = 0.5 * sy_rng_normal(41, sy_rng_stream_of(p->spec.name), (uint64_t)k) +
                   (p->spec.init == SY_INIT_ONES);
        }
        must(sy_copy_h2d(r->e->compute_stream, p->value.data, x, sy_tensor_bytes(&p->value)));
        must(sy_stream_sync(r->e->compute_stream));
    }
    for (int32_t t = 0; t < T; t++) {
        r->ids[t] = (int32_t)(sy_rng_u64(7, SY_RNG_TEST, (uint64_t)t) % V);
        r->pos[t] = t % S;
        r->doc[t] = t % S >= 3;
        r->token_glb[t] = t;
    }
}

static void close_rig(rig *r)
{
    sy_engine_destroy(&r->e);
    sy_run_settings_free(&r->settings);
    sy_comm_destroy(&r->world);
}

static void run(rig *r, sy_pass_kind kind, double *nll)
{
    sy_batch batch = {.B = B,
                      .S = S,
                      .ids = r->ids,
                      .targets = r->ids,
                      .pos = r->pos,
                      .doc = r->doc,
                      .token_glb = r->token_glb};
    sy_model_saved *saved = NULL;
    sy_pass p;
    must(sy_engine_zero_stats(r->e));
    must(sy_engine_begin(r->e, kind, &batch, 1, 0, &p));
    p.per_routed_token = 1.0 / T;
    must(sy_model_forward(r->e->model, &p, kind == SY_PASS_TRAIN ? &saved : NULL));
    must(sy_engine_end(r->e, &p));
    must(sy_copy_d2h(r->e->compute_stream, nll, p.nll.data, sy_tensor_bytes(&p.nll)));
    must(sy_stream_sync(r->e->compute_stream));
}

/* The last token of each sequence is another: what stands before it keeps its bits in evaluation,
   with dense layers and with experts; in training it may not, since a token that is taken takes
   another one's place. */
static void evaluation_does_not_look_ahead_where_training_does(void **state)
{
    (void)state;
    static const char *const sets[2][MAX_SET] = {{"model.depth_layers=all"},
                                                 {"moe.experts=4", "model.depth_layers=all"}};
    for (int32_t k = 0; k < 2; k++) {
        bool looked = false;
        int32_t n_moved = 0;
        rig r;
        open_rig(&r, sets[k]);
        for (int32_t id = 0; id < V; id++) {
            double was[T], now[T];
            for (int32_t training = 0; training < 2; training++) {
                const sy_pass_kind kind = training ? SY_PASS_TRAIN : SY_PASS_EVAL;
                const int32_t before[B] = {r.ids[S - 1], r.ids[T - 1]};
                run(&r, kind, was);
                r.ids[S - 1] = r.ids[T - 1] = id;
                run(&r, kind, now);
                r.ids[S - 1] = before[0];
                r.ids[T - 1] = before[1];
                for (int32_t t = 0; t < T; t++) {
                    const bool same = memcmp(&was[t], &now[t], sizeof *was) == 0;
                    assert_true(same || training || t % S == S - 1);
                    looked = looked || (training && !same && t % S < S - 1);
                    n_moved += !training && !same;
                }
            }
        }
        assert_true(looked && n_moved > V);
        close_rig(&r);
    }
}

/* ---- the same model, said plainly ---- */

/* Those of x [S] that score best in training, that the predictor names else. */
static int32_t plain_choice(const plain_text *r, int32_t layer, bool training, double (*x)[H],
                            int32_t *at)
{
    int32_t n = 0;
    for (int32_t t = 0; t < S; t++) {
        const double mine = plain_dot(plain_of_layer(r, layer, "depth/router"), x[t], H);
        int32_t n_better = 0;
        for (int32_t o = 0; o < S; o++) {
            n_better += plain_dot(plain_of_layer(r, layer, "depth/router"), x[o], H) > mine;
        }
        const double said = plain_dot(plain_of_layer(r, layer, "depth/predictor"), x[t], H) +
                            plain_of_layer(r, layer, "depth/bias")[0] + log(4.5 / 3.5);
        if (training ? n_better < 4 : said > 0) {
            at[n++] = t;
        }
    }
    return n;
}

/* nll [S] of sequence b. */
static void plain_model(const rig *of, int32_t b, bool training, double *nll)
{
    const plain_text text = {of->e->params, of->pos, of->doc}, *r = &text;
    static const int32_t all[S] = {0, 1, 2, 3, 4, 5, 6};
    double x[S][H], some[S][H], y[H];
    int32_t at[S];
    for (int32_t t = 0; t < S; t++) {
        memcpy(x[t], plain_values(r, "embed") + of->ids[b * S + t] * H, sizeof x[t]);
    }
    plain_block(r, 0, S, all, x);
    const int32_t n = plain_choice(r, 1, training, x, at);
    for (int32_t i = 0; i < n; i++) {
        memcpy(some[i], x[at[i]], sizeof some[i]);
    }
    plain_block(r, 1, n, at, some);
    for (int32_t i = 0; i < n; i++) {
        const double r_t = plain_dot(plain_of_layer(r, 1, "depth/router"), x[at[i]], H);
        for (int32_t h = 0; h < H; h++) {
            x[at[i]][h] += r_t * (some[i][h] - x[at[i]][h]);
        }
    }
    for (int32_t t = 0; t < S; t++) {
        plain_norm(plain_values(r, "norm"), x[t], y);
        nll[t] = plain_nll(r, y, of->ids[b * S + t]);
    }
}

static void losses_are_those_of_the_plain_model(void **state)
{
    (void)state;
    const char *const set[] = {NULL};
    rig r;
    open_rig(&r, set);
    for (int32_t training = 0; training < 2; training++) {
        double got[T], wanted[S];
        run(&r, training ? SY_PASS_TRAIN : SY_PASS_EVAL, got);
        for (int32_t b = 0; b < B; b++) {
            plain_model(&r, b, training, wanted);
            for (int32_t t = 0; t < S; t++) {
                if (!(fabs(got[b * S + t] - wanted[t]) < 1e-12)) {
                    fail_msg("token %d: %.15g, plainly %.15g", b * S + t, got[b * S + t],
                             wanted[t]);
                }
            }
        }
    }
    close_rig(&r);
}

/* Layer 1 takes four of seven tokens. */
static void flops_count_the_tokens_that_are_taken(void **state)
{
    (void)state;
    const char *const set[] = {NULL}, *const plain[] = {"model.depth_capacity=null", NULL};
    int64_t active = 0, all = 0;
    rig r;
    open_rig(&r, plain);
    const double flops_all = sy_engine_flops_per_token(r.e, &all);
    close_rig(&r);
    open_rig(&r, set);
    const double flops = sy_engine_flops_per_token(r.e, &active);
    const int64_t attention = H * (2 * H + 2 * D), mlp = 3 * H * F;
    assert_true(labs(all - active - (attention + mlp) * 3 / 7 + 2 * H) <= 1);
    assert_true(fabs(flops_all - flops - 6.0 * (double)(all - active) -
                     6.0 * S * H * (1 - 16.0 / 49)) < 1e-6);
    assert_true(sy_model_layer_share(r.settings.model, 0) == 1);
    close_rig(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_takes_the_largest_of_every_sequence_ties_to_the_earlier),
        cmocka_unit_test(evaluation_takes_whom_the_predictor_says),
        cmocka_unit_test(evaluation_does_not_look_ahead_where_training_does),
        cmocka_unit_test(losses_are_those_of_the_plain_model),
        cmocka_unit_test(flops_count_the_tokens_that_are_taken),
    };
    return cmocka_run_group_tests_name("depth", tests, NULL, NULL);
}

/* Backward ops against central differences on ref: the combine weights in every form, balance and
   z-loss, and the rows. The choice of experts is held fixed, as it carries no gradient. */
#include <math.h>
#include <stdio.h>

#include "core/rng.h"
#include "tests/ops/op_test.h"

enum { T = 6, E = 5, K = 2 };

/* Logits and everything that hangs on them. */
typedef struct router {
    sy_stream *stream;
    double z[T * E], p[T * E], lse[T], g[T * K], weight[T * K], dz[T * E], sums[2];
    int32_t expert[T * K];
    uint8_t kept[T * K], routed[T];
    int64_t count[2 * E];
    sy_score score;
    bool normalize;
    double scale;
    sy_balance_loss_args balance;
} router;

static sy_tensor mat(double *x, int64_t n0, int64_t n1)
{
    return sy_tensor_2d(x, SY_F64, n0, n1);
}

static void score(router *r)
{
    op_must(
        sy_router_scores(r->stream, &(sy_router_scores_args){.z = mat(r->z, T, E),
                                                             .p = mat(r->p, T, E),
                                                             .lse = sy_tensor_1d(r->lse, SY_F64, T),
                                                             .score = r->score}));
}

/* Choices are drawn, not the best: the formulas hold for any; token 4 has none. */
static void set_up(op_runner *runner, router *r, sy_score score_kind)
{
    static const int32_t expert[T * K] = {2, 0, 1, 4, 3, 1, 0, 4, -1, -1, 4, 3};
    static const uint8_t kept[T * K] = {1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1};
    static const int64_t count[2 * E] = {3, 0, 1, 2, 0, 1, 1, 2, 1, 1};
    *r = (router){.stream = runner->ref_stream, .score = score_kind};
    memcpy(r->expert, expert, sizeof expert);
    memcpy(r->kept, kept, sizeof kept);
    memcpy(r->count, count, sizeof count);
    for (int64_t i = 0; i < T * E; i++) {
        r->z[i] = 1.5 * sy_rng_normal(5, SY_RNG_TEST, (uint64_t)i);
    }
    for (int64_t i = 0; i < T * K; i++) {
        r->g[i] = kept[i] * sy_rng_normal(6, SY_RNG_TEST, (uint64_t)i);
    }
    for (int64_t t = 0; t < T; t++) {
        r->routed[t] = t != 4;
    }
}

/* <G, w(z)>: the part of the loss that the combine weights carry. */
static double weight_loss(void *ctx)
{
    router *r = ctx;
    double loss = 0;
    score(r);
    op_must(sy_topk_weigh(r->stream,
                          &(sy_topk_weigh_args){.p = mat(r->p, T, E),
                                                .expert = sy_tensor_2d(r->expert, SY_I32, T, K),
                                                .kept = sy_tensor_2d(r->kept, SY_U8, T, K),
                                                .weight = mat(r->weight, T, K),
                                                .normalize = r->normalize,
                                                .scale = r->scale}));
    for (int64_t i = 0; i < T * K; i++) {
        loss += r->g[i] * r->weight[i];
    }
    return loss;
}

static void grad_weights(op_runner *runner, const char *form, sy_score score_kind, bool normalize)
{
    router r;
    char what[40];
    set_up(runner, &r, score_kind);
    r.normalize = normalize;
    r.scale = 2.5;
    score(&r);
    op_must(sy_topk_backward(
        r.stream, &(sy_topk_backward_args){.p = mat(r.p, T, E),
                                           .expert = sy_tensor_2d(r.expert, SY_I32, T, K),
                                           .g = mat(r.g, T, K),
                                           .dz = mat(r.dz, T, E),
                                           .score = score_kind,
                                           .normalize = normalize,
                                           .scale = r.scale}));
    snprintf(what, sizeof what, "combine weights, form %s", form);
    op_fd_check(runner, what, weight_loss, &r, r.z, T * E, r.dz);
}

/* Form A with one choice has weight 1: no gradient at all. */
static void form_a_of_one_choice(op_runner *runner)
{
    router r;
    bool zero = true;
    set_up(runner, &r, SY_SCORE_SOFTMAX);
    score(&r);
    op_must(sy_topk_backward(
        r.stream, &(sy_topk_backward_args){.p = mat(r.p, T, E),
                                           .expert = sy_tensor_2d(r.expert, SY_I32, T, 1),
                                           .g = mat(r.g, T, 1),
                                           .dz = mat(r.dz, T, E),
                                           .score = SY_SCORE_SOFTMAX,
                                           .normalize = true,
                                           .scale = 1}));
    for (int64_t i = 0; i < T * E; i++) {
        zero = zero && fabs(r.dz[i]) < 1e-15;
    }
    op_verdict(runner, zero, "topk_backward: form A with one choice has a gradient");
}

/* <G, w'(w)> with what is dropped shared out to the kept ones; r->weight is the weight before. */
static double share_loss(void *ctx)
{
    router *r = ctx;
    double weight[T * K], sum[T], loss = 0;
    memcpy(weight, r->weight, sizeof weight);
    op_must(
        sy_share_kept(r->stream, &(sy_share_kept_args){.weight = mat(weight, T, K),
                                                       .kept = sy_tensor_2d(r->kept, SY_U8, T, K),
                                                       .sum = sy_tensor_1d(sum, SY_F64, T),
                                                       .scale = 2.5}));
    for (int64_t i = 0; i < T * K; i++) {
        loss += r->g[i] * weight[i];
    }
    return loss;
}

static void grad_share_kept(op_runner *runner)
{
    router r;
    double weight[T * K], sum[T], g[T * K];
    set_up(runner, &r, SY_SCORE_SOFTMAX);
    for (int64_t i = 0; i < T * K; i++) {
        weight[i] = r.weight[i] = 0.2 + 0.1 * (double)(i % 5);
        g[i] = r.g[i] = sy_rng_normal(9, SY_RNG_TEST, (uint64_t)i); /* of dropped ones too */
    }
    const sy_tensor kept = sy_tensor_2d(r.kept, SY_U8, T, K), all = sy_tensor_1d(sum, SY_F64, T);
    op_must(sy_share_kept(
        r.stream, &(sy_share_kept_args){
                      .weight = mat(weight, T, K), .kept = kept, .sum = all, .scale = 2.5}));
    op_must(
        sy_share_kept_backward(r.stream, &(sy_share_kept_backward_args){.weight = mat(weight, T, K),
                                                                        .kept = kept,
                                                                        .sum = all,
                                                                        .g = mat(g, T, K),
                                                                        .scale = 2.5}));
    op_fd_check(runner, "weights shared out after drops", share_loss, &r, r.weight, T * K, g);
}

static void run_balance(router *r)
{
    memset(r->sums, 0, sizeof r->sums);
    memset(r->dz, 0, sizeof r->dz);
    op_must(sy_balance_loss(r->stream, &r->balance));
}

static double balance_loss(void *ctx)
{
    router *r = ctx;
    score(r);
    run_balance(r);
    return r->balance.aux_coeff * r->sums[0] + r->balance.z_coeff * r->sums[1];
}

static void grad_balance(op_runner *runner, const char *what, sy_score score_kind)
{
    router r;
    double dz[T * E];
    set_up(runner, &r, score_kind);
    r.balance = (sy_balance_loss_args){.z = mat(r.z, T, E),
                                       .p = mat(r.p, T, E),
                                       .lse = sy_tensor_1d(r.lse, SY_F64, T),
                                       .routed = sy_tensor_1d(r.routed, SY_U8, T),
                                       .count = sy_tensor_2d(r.count, SY_I64, 2, E),
                                       .dz = mat(r.dz, T, E),
                                       .sums = sy_tensor_1d(r.sums, SY_F64, 2),
                                       .aux_coeff = 0.3,
                                       .z_coeff = 0.2,
                                       .per_token = 0.25,
                                       .score = score_kind};
    score(&r);
    run_balance(&r);
    memcpy(dz, r.dz, sizeof dz);
    op_fd_check(runner, what, balance_loss, &r, r.z, T * E, dz);
}

static double group_loss(void *ctx)
{
    router *r = ctx;
    int64_t count[2 * E];
    score(r);
    memset(r->sums, 0, sizeof r->sums);
    memset(r->dz, 0, sizeof r->dz);
    op_must(sy_group_loss(r->stream,
                          &(sy_group_loss_args){.p = mat(r->p, T, E),
                                                .expert = sy_tensor_2d(r->expert, SY_I32, T, K),
                                                .count = sy_tensor_2d(count, SY_I64, 2, E),
                                                .dz = mat(r->dz, T, E),
                                                .sums = sy_tensor_1d(r->sums, SY_F64, 1),
                                                .groups_kept = 2,
                                                .choices_coeff = 0.3,
                                                .visits_coeff = 0.2,
                                                .per_token = 0.25}));
    return r->sums[0];
}

static void grad_groups(op_runner *runner)
{
    router r;
    double dz[T * E];
    set_up(runner, &r, SY_SCORE_SOFTMAX);
    group_loss(&r);
    memcpy(dz, r.dz, sizeof dz);
    op_fd_check(runner, "losses over groups", group_loss, &r, r.z, T * E, dz);
}

/* combine_rows is the transpose of gather_rows: <gather(x), y> = <x, combine(y)>. */
static void rows_are_transposed(op_runner *runner)
{
    enum { N = 3, M = 5, H = 2 };
    double x[N * H], gathered[M * H], y[M * H], combined[N * H], left = 0, right = 0;
    int32_t idx[M] = {2, 0, -1, 2, 1}, token_start[N + 1] = {0, 1, 2, 4},
            token_row[M] = {1, 4, 0, 3, -1};
    for (int64_t i = 0; i < M * H; i++) {
        y[i] = sy_rng_normal(7, SY_RNG_TEST, (uint64_t)i);
        x[i % (N * H)] = sy_rng_normal(8, SY_RNG_TEST, (uint64_t)i);
    }
    op_must(sy_gather_rows(runner->ref_stream,
                           &(sy_gather_rows_args){.x = mat(x, N, H),
                                                  .idx = sy_tensor_1d(idx, SY_I32, M),
                                                  .y = mat(gathered, M, H)}));
    op_must(sy_combine_rows(
        runner->ref_stream,
        &(sy_combine_rows_args){.rows = mat(y, M, H),
                                .token_start = sy_tensor_1d(token_start, SY_I32, N + 1),
                                .token_row = sy_tensor_1d(token_row, SY_I32, M),
                                .y = mat(combined, N, H)}));
    for (int64_t i = 0; i < M * H; i++) {
        left += gathered[i] * y[i];
    }
    for (int64_t i = 0; i < N * H; i++) {
        right += x[i] * combined[i];
    }
    op_verdict(runner, fabs(left - right) < 1e-13,
               "combine_rows is not the transpose of gather_rows: %.12g and %.12g", left, right);
}

void op_grad_router(op_runner *runner)
{
    grad_weights(runner, "A", SY_SCORE_SOFTMAX, true);
    grad_weights(runner, "B", SY_SCORE_SOFTMAX, false);
    grad_weights(runner, "C", SY_SCORE_SIGMOID, true);
    grad_weights(runner, "E", SY_SCORE_SIGMOID, false);
    form_a_of_one_choice(runner);
    grad_share_kept(runner);
    grad_balance(runner, "balance and z-loss, softmax", SY_SCORE_SOFTMAX);
    grad_balance(runner, "balance and z-loss, sigmoid", SY_SCORE_SIGMOID);
    grad_groups(runner);
    rows_are_transposed(runner);
}

/* Cases of the router: scores, choice, capacity, weights and their gradient. */
#include <math.h>
#include <stdlib.h>

#include "tests/ops/op_test.h"

static op_operand *wide_rows(op_instance *in, const char *name, int64_t T, int64_t N)
{
    return op_rows(op_tensor(in, name, OP_W, 0, OP_SHAPE(T, N)), 0);
}

static op_operand *wide_row(op_instance *in, const char *name, int64_t T)
{
    return op_rows(op_tensor(in, name, OP_W, 0, OP_SHAPE(T)), 0);
}

/* p as the router makes it, rounded: softmax (form 0) or sigmoid (form 1) of normal logits. */
static op_operand *fill_scores(op_instance *in, op_operand *p, int64_t form)
{
    const int64_t E = p->shape[1];
    op_normal(in, p, 1.5);
    for (int64_t i = 0; i < op_numel(p); i += E) {
        double sum = 0;
        for (int64_t e = 0; e < E; e++) {
            sum += exp(*op_at(p, i + e));
        }
        for (int64_t e = 0; e < E; e++) {
            const double z = *op_at(p, i + e);
            *op_at(p, i + e) = form == SY_SCORE_SOFTMAX ? exp(z) / sum : 1 / (1 + exp(-z));
        }
    }
    op_round(in, p);
    return p;
}

static void build_scores(op_instance *in, const op_case *c)
{
    OP_ARGS(in, router_scores)->score = (sy_score)c->form;
    op_normal(in, wide_rows(in, "z", c->T, c->E), c->scaled ? 40 : 1.5);
    wide_rows(in, "p", c->T, c->E);
    wide_row(in, "lse", c->T);
}

static const op_case scores_cases[] = {
    {.T = 3, .E = 5},
    {.T = 0, .E = 5},
    {.T = 1, .E = 1},
    {.T = 7, .E = 1, .form = SY_SCORE_SIGMOID},
    {.T = 31, .E = 8, .scaled = 1},
    {.T = 31, .E = 8, .scaled = 1, .form = SY_SCORE_SIGMOID},
    {.T = 300, .E = 130},
    {.T = 300, .E = 130, .form = SY_SCORE_SIGMOID},
};

enum { BIAS = 1, ROUTED = 2, TIES = 4, NANS = 8, ALL_NAN = 16 }; /* mode, bits */

/* p on a grid of 1/64 (1/4: many ties), so that p + bias is exact in every dtype. G groups, N of
 * them kept; form 1: a group counts by two. */
static void build_topk(op_instance *in, const op_case *c)
{
    sy_topk_args *args = OP_ARGS(in, topk);
    args->n_groups = (int32_t)c->G;
    args->groups_kept = (int32_t)c->N;
    args->by_two = c->form != 0;
    const double grid = c->mode & TIES ? 4 : 64;
    op_operand *p = op_ints(in, wide_rows(in, "p", c->T, c->E), 0, (int64_t)grid);
    for (int64_t i = 0; i < op_numel(p); i++) {
        const bool is_nan = (c->mode & ALL_NAN) || ((c->mode & NANS) && op_draw(in, 3) == 0);
        *op_at(p, i) = is_nan ? NAN : *op_at(p, i) / grid;
    }
    if (c->mode & BIAS) {
        op_operand *bias = op_ints(in, op_tensor(in, "bias", OP_W, 0, OP_SHAPE(c->E)), -32, 32);
        for (int64_t e = 0; e < c->E; e++) {
            *op_at(bias, e) /= grid;
        }
    }
    if (c->mode & ROUTED) {
        op_ints(in, op_rows(op_tensor(in, "routed", OP_U8, 0, OP_SHAPE(c->T)), 0), 0, 1);
    }
    op_rows(op_tensor(in, "expert", OP_I32, 0, OP_SHAPE(c->T, c->K)), 0);
    op_operand *token = op_rows(op_tensor(in, "token", OP_I32, 0, OP_SHAPE(c->T, c->K)), 0);
    token->row_numbered = true;
}

/* What expert e of token t is chosen by. */
static double value_of(const op_instance *in, int64_t t, int64_t e)
{
    const op_operand *p = op_see(in, "p"), *bias = op_see(in, "bias");
    const double v = p->values[t * p->shape[1] + e] + (bias->values ? bias->values[e] : 0);
    return isnan(v) ? -INFINITY : v;
}

/* Of all pairs of experts of a group, or of all experts, the best. */
static double group_value(const op_instance *in, int64_t t, int64_t d)
{
    const int64_t n = op_see(in, "p")->shape[1] / in->c->G;
    const bool pairs = in->c->form && n > 1;
    double best = -INFINITY;
    for (int64_t i = d * n; i < (d + 1) * n; i++) {
        for (int64_t j = i + 1; j < (d + 1) * n && pairs; j++) {
            best = fmax(best, value_of(in, t, i) + value_of(in, t, j));
        }
        best = pairs ? best : fmax(best, value_of(in, t, i));
    }
    return best;
}

/* A token's group is kept if fewer than N groups beat it. */
static bool group_kept(const op_instance *in, int64_t t, int64_t d)
{
    int64_t n_before = 0;
    for (int64_t i = 0; i < in->c->G; i++) {
        const double there = group_value(in, t, i), here = group_value(in, t, d);
        n_before += there > here || (there == here && i < d);
    }
    return n_before < in->c->N;
}

/* Another way to say it: a choice is beaten by exactly k experts of kept groups: those with more,
 * and the equal ones before it. */
static const char *judge_topk(const op_instance *in, const op_result *result)
{
    const op_operand *p = op_see(in, "p");
    const op_operand *routed = op_see(in, "routed"), *expert = op_see(in, "expert");
    const double *chosen = result->values[expert - in->operand];
    const int64_t E = p->shape[1], K = expert->shape[1], n = in->c->G > 0 ? E / in->c->G : E;
    bool kept[256] = {true};
    for (int64_t i = 0; i < op_numel(expert); i++) {
        const int64_t t = i / K, mine = (int64_t)chosen[i];
        if (routed->values && routed->values[t] == 0) {
            if (mine != -1) {
                return "a token that is not routed has an expert";
            }
            continue;
        }
        for (int64_t d = 0; d < in->c->G && i % K == 0; d++) {
            kept[d] = group_kept(in, t, d);
        }
        if (!kept[mine / n]) {
            return "an expert of a group that is not kept was chosen";
        }
        int64_t n_before = 0;
        for (int64_t e = 0; e < E; e++) {
            const double v = value_of(in, t, e), v_mine = value_of(in, t, mine);
            n_before += kept[e / n] && (v > v_mine || (v == v_mine && e < mine));
        }
        if (n_before != i % K) {
            return "a choice is not at its place in the order";
        }
    }
    return NULL;
}

static const op_case topk_cases[] = {
    {.T = 3, .E = 5, .K = 2, .mode = BIAS | ROUTED},
    {.T = 3, .E = 5, .K = 2},
    {.T = 0, .E = 5, .K = 2},
    {.T = 3, .E = 5, .K = 0},
    {.T = 1, .E = 1, .K = 1},
    {.T = 31, .E = 8, .K = 8, .mode = TIES},
    {.T = 31, .E = 8, .K = 2, .mode = TIES | BIAS},
    {.T = 31, .E = 8, .K = 3, .mode = NANS},
    {.T = 31, .E = 8, .K = 8, .mode = NANS | TIES | ROUTED},
    {.T = 5, .E = 8, .K = 2, .mode = ALL_NAN},
    {.T = 300, .E = 130, .K = 8, .mode = BIAS},
    {.T = 300, .E = 64, .K = 6, .mode = TIES},
    {.T = 3, .E = 8, .K = 3, .G = 4, .N = 2, .form = 1, .mode = BIAS | ROUTED},
    {.T = 0, .E = 8, .K = 3, .G = 4, .N = 2},
    {.T = 31, .E = 12, .K = 6, .G = 4, .N = 2, .mode = TIES | ROUTED},
    {.T = 31, .E = 12, .K = 3, .G = 4, .N = 2, .form = 1, .mode = TIES | BIAS},
    {.T = 31, .E = 9, .K = 9, .G = 3, .N = 3, .form = 1, .mode = BIAS},
    {.T = 31, .E = 8, .K = 2, .G = 1, .N = 1, .form = 1, .mode = BIAS},
    {.T = 31, .E = 8, .K = 3, .G = 8, .N = 5, .form = 1, .mode = TIES | BIAS},
    {.T = 31, .E = 12, .K = 4, .G = 3, .N = 2, .form = 1, .mode = NANS | TIES},
    {.T = 31, .E = 12, .K = 4, .G = 3, .N = 1, .mode = NANS | BIAS},
    {.T = 5, .E = 8, .K = 4, .G = 2, .N = 1, .form = 1, .mode = ALL_NAN},
    {.T = 5, .E = 100, .K = 7, .G = 50, .N = 40, .mode = TIES},
    {.T = 60, .E = 160, .K = 6, .G = 8, .N = 3},
    {.T = 60, .E = 256, .K = 8, .G = 8, .N = 4, .form = 1, .mode = BIAS},
};

/* form: 0 by choice, then place; 1 by priority; 2 by place; 3 by choice, then priority; scaled: all
 * first choices to expert 0; C - 2 is the capacity (so that 0 in the table: -2, all). */
static void build_capacity(op_instance *in, const op_case *c)
{
    sy_capacity_args *args = OP_ARGS(in, capacity);
    args->E = (int32_t)c->E;
    args->capacity = c->C - 2;
    args->by_choice = c->form == 0 || c->form == 3;
    op_choices(in, op_tensor(in, "expert", OP_I32, 0, OP_SHAPE(c->T, c->K)), c->K, c->E,
               c->mode ? 3 : 0, c->scaled);
    if (c->form % 2 == 1) {
        op_operand *priority = op_tensor(in, "priority", OP_W, 0, OP_SHAPE(c->T, c->K));
        op_ints(in, priority, 0, 9);
        for (int64_t i = 0; i < op_numel(priority); i++) {
            *op_at(priority, i) /= 16; /* few values: ties */
        }
    }
    op_tensor(in, "kept", OP_U8, 0, OP_SHAPE(c->T, c->K));
}

typedef struct claim {
    double key;
    int64_t choice;
} claim;

static int by_key_then_choice(const void *a, const void *b)
{
    const claim *x = a, *y = b;
    return x->key != y->key ? (x->key < y->key ? -1 : 1) : (x->choice < y->choice ? -1 : 1);
}

/* Another way to do it: put all choices in one order and hand out places. */
static const char *judge_capacity(const op_instance *in, const op_result *result)
{
    const op_operand *expert = op_see(in, "expert"), *priority = op_see(in, "priority");
    const double *kept = result->values[op_see(in, "kept") - in->operand];
    const int64_t K = expert->shape[1], n = expert->shape[0] * K;
    const int64_t capacity = in->c->C - 2;
    int64_t given[256] = {0};
    const char *wrong = NULL;
    claim *claims = malloc((size_t)(n + 1) * sizeof *claims);
    for (int64_t i = 0; i < n; i++) {
        const bool by_choice = in->c->form == 0 || in->c->form == 3;
        const double slot = by_choice ? (double)(i % K) : 0;
        const double *p = priority->values;
        claims[i] = (claim){slot - (p ? p[by_choice ? i - i % K : i] : 0), i};
    }
    qsort(claims, (size_t)n, sizeof *claims, by_key_then_choice);
    for (int64_t i = 0; i < n; i++) {
        const int64_t choice = claims[i].choice, e = (int64_t)expert->values[choice];
        const bool keep = e >= 0 && (capacity < 0 || given[e] < capacity);
        if (keep != (kept[choice] != 0)) {
            wrong = "another choice was kept than places handed out in order would";
        }
        given[e >= 0 ? e : 255] += keep;
    }
    free(claims);
    return wrong;
}

static const op_case capacity_cases[] = {
    {.T = 6, .E = 4, .K = 2, .C = 2 + 2, .form = 1},
    {.T = 6, .E = 4, .K = 2, .C = 2 + 2},
    {.T = 6, .E = 4, .K = 2, .C = 2 + 0},
    {.T = 6, .E = 4, .K = 2, .C = 2 - 1},
    {.T = 0, .E = 4, .K = 2, .C = 2 + 2},
    {.T = 1, .E = 1, .K = 1, .C = 2 + 1},
    {.T = 31, .E = 8, .K = 3, .C = 2 + 5, .mode = 1},
    {.T = 31, .E = 8, .K = 3, .C = 2 + 5, .mode = 1, .form = 1},
    {.T = 31, .E = 8, .K = 2, .C = 2 + 7, .scaled = 1},
    {.T = 31, .E = 8, .K = 2, .C = 2 + 7, .scaled = 1, .form = 1},
    {.T = 9, .E = 3, .K = 3, .C = 2 + 100},
    {.T = 300, .E = 130, .K = 8, .C = 2 + 12},
    {.T = 300, .E = 16, .K = 4, .C = 2 + 40, .form = 1},
    {.T = 31, .E = 8, .K = 3, .C = 2 + 5, .mode = 1, .form = 2},
    {.T = 300, .E = 130, .K = 8, .C = 2 + 12, .form = 2},
    {.T = 31, .E = 8, .K = 3, .C = 2 + 5, .mode = 1, .form = 3},
    {.T = 300, .E = 16, .K = 4, .C = 2 + 40, .form = 3},
    {.T = 0, .E = 4, .K = 2, .C = 2 + 2, .form = 3},
};

/* As a sigmoid of logits far below 0 is in fp32. */
static void scores_vanish(op_operand *p)
{
    for (int64_t i = 0; i < op_numel(p); i++) {
        *op_at(p, i) = 0;
    }
}

/* mode 1: kept; align 1: normalize; form: score; C 1: all scores are 0. */
static void build_topk_weigh(op_instance *in, const op_case *c)
{
    sy_topk_weigh_args *args = OP_ARGS(in, topk_weigh);
    args->normalize = c->align != 0;
    args->scale = c->scaled ? 2.5 : 1;
    op_operand *p = wide_rows(in, "p", c->T, c->E);
    fill_scores(in, p, c->form);
    if (c->C) {
        scores_vanish(p);
    }
    op_operand *expert = op_rows(op_tensor(in, "expert", OP_I32, 0, OP_SHAPE(c->T, c->K)), 0);
    op_choices(in, expert, c->K, c->E, 4, false);
    if (c->mode) {
        op_ints(in, op_rows(op_tensor(in, "kept", OP_U8, 0, OP_SHAPE(c->T, c->K)), 0), 0, 1);
    }
    wide_rows(in, "weight", c->T, c->K);
}

/* align 1: normalize; form: score; C 1: all scores are 0. */
static void build_topk_backward(op_instance *in, const op_case *c)
{
    sy_topk_backward_args *args = OP_ARGS(in, topk_backward);
    args->normalize = c->align != 0;
    args->scale = c->scaled ? 2.5 : 1;
    args->score = (sy_score)c->form;
    op_operand *p = wide_rows(in, "p", c->T, c->E);
    fill_scores(in, p, c->form);
    if (c->C) {
        scores_vanish(p);
    }
    op_operand *expert = op_rows(op_tensor(in, "expert", OP_I32, 0, OP_SHAPE(c->T, c->K)), 0);
    op_choices(in, expert, c->K, c->E, 4, false);
    op_operand *g = op_normal(in, wide_rows(in, "g", c->T, c->K), 1);
    for (int64_t i = 0; i < op_numel(g); i++) {
        *op_at(g, i) *= op_draw(in, 4) > 0; /* dropped choices */
    }
    wide_rows(in, "dz", c->T, c->E);
}

static const op_case weigh_cases[] = {
    {.T = 3, .E = 5, .K = 2, .align = 1, .mode = 1},
    {.T = 3, .E = 5, .K = 2},
    {.T = 3, .E = 5, .K = 2, .form = SY_SCORE_SIGMOID, .scaled = 1},
    {.T = 0, .E = 5, .K = 2, .align = 1, .mode = 1},
    {.T = 1, .E = 1, .K = 1, .align = 1},
    {.T = 31, .E = 8, .K = 8, .align = 1, .mode = 1},
    {.T = 31, .E = 8, .K = 1, .form = SY_SCORE_SIGMOID},
    {.T = 31, .E = 8, .K = 3, .align = 1, .form = SY_SCORE_SIGMOID, .scaled = 1, .mode = 1},
    {.T = 300, .E = 130, .K = 8, .align = 1, .mode = 1},
    {.T = 300, .E = 130, .K = 8, .mode = 1},
    {.T = 2500, .E = 12, .K = 8, .align = 1},
    {.T = 7, .E = 5, .K = 2, .align = 1, .form = SY_SCORE_SIGMOID, .scaled = 1, .C = 1},
};

/* Kept or not, and no token without a kept choice unless scaled. */
static op_operand *kept_choices(op_instance *in, const op_case *c)
{
    op_operand *kept = op_ints(in, op_tensor(in, "kept", OP_U8, 0, OP_SHAPE(c->T, c->K)), 0, 1);
    for (int64_t i = 0; i < op_numel(kept) && !c->scaled; i += c->K) {
        *op_at(kept, i) = 1;
    }
    return kept;
}

/* scaled: some tokens have no choice left, or only one that weighs nothing. */
static void build_share_kept(op_instance *in, const op_case *c)
{
    OP_ARGS(in, share_kept)->scale = 2.5;
    op_operand *weight =
        op_ints(in, op_tensor(in, "weight", OP_W, 0, OP_SHAPE(c->T, c->K)), c->scaled ? 0 : 1, 32);
    for (int64_t i = 0; i < op_numel(weight); i++) {
        *op_at(weight, i) /= 64;
    }
    kept_choices(in, c);
    op_tensor(in, "sum", OP_W, 0, OP_SHAPE(c->T));
}

static void build_share_kept_backward(op_instance *in, const op_case *c)
{
    OP_ARGS(in, share_kept_backward)->scale = 2.5;
    op_operand *weight = op_tensor(in, "weight", OP_W, 0, OP_SHAPE(c->T, c->K));
    op_ints(in, weight, 0, 32);
    op_operand *kept = kept_choices(in, c);
    op_operand *sum = op_tensor(in, "sum", OP_W, 0, OP_SHAPE(c->T));
    op_ints(in, sum, c->scaled ? 0 : 1, 8);
    for (int64_t i = 0; i < op_numel(weight); i++) {
        *op_at(weight, i) *= *op_at(kept, i) * (*op_at(sum, i / c->K) > 0) / 16.;
    }
    op_normal(in, op_tensor(in, "g", OP_W, 0, OP_SHAPE(c->T, c->K)), 1);
}

static const op_case share_cases[] = {
    {.T = 3, .K = 2}, {.T = 3, .K = 2, .scaled = 1},  {.T = 0, .K = 2},
    {.T = 1, .K = 1}, {.T = 31, .K = 8, .scaled = 1}, {.T = 2500, .K = 8},
};

static const op_test tests[] = {
    {.op = SY_OP_router_scores,
     .build = build_scores,
     OP_CASES(scores_cases),
     .tol = {.f32 = 2e-6}},
    {.op = SY_OP_topk, .build = build_topk, OP_CASES(topk_cases), .judge = judge_topk},
    {.op = SY_OP_capacity,
     .build = build_capacity,
     OP_CASES(capacity_cases),
     .judge = judge_capacity},
    {.op = SY_OP_topk_weigh,
     .build = build_topk_weigh,
     OP_CASES(weigh_cases),
     .tol = {.f32 = 1e-6}},
    {.op = SY_OP_topk_backward,
     .build = build_topk_backward,
     OP_CASES(weigh_cases),
     .tol = {.f32 = 1e-5}},
    {.op = SY_OP_share_kept,
     .build = build_share_kept,
     OP_CASES(share_cases),
     .tol = {.f32 = 1e-6}},
    {.op = SY_OP_share_kept_backward,
     .build = build_share_kept_backward,
     OP_CASES(share_cases),
     .tol = {.f32 = 1e-5}},
};
OP_GROUP_DEFINE(router, tests);

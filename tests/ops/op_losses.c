/* Cases of routing counts and statistics, and of the balance and z-loss. */
#include <math.h>

#include "tests/ops/op_test.h"

/* mode 1: some tokens are not routed; scaled: all first choices to expert 0. */
static void build_expert_count(op_instance *in, const op_case *c)
{
    op_choices(in, op_tensor(in, "expert", OP_I32, 0, OP_SHAPE(c->T * c->K)), c->K, c->E,
               c->mode ? 3 : 0, c->scaled);
    op_tensor(in, "count", OP_I64, 0, OP_SHAPE(c->scopes, c->E));
}

static const op_case count_cases[] = {
    {.T = 6, .E = 4, .K = 2, .scopes = 2},
    {.T = 0, .E = 4, .K = 2, .scopes = 2},
    {.T = 1, .E = 1, .K = 1, .scopes = 1},
    {.T = 30, .E = 9, .K = 3, .scopes = 5, .mode = 1},
    {.T = 31, .E = 8, .K = 1, .scopes = 1, .scaled = 1},
    {.T = 300, .E = 130, .K = 8, .scopes = 3},
};

static double sum_exp(const op_operand *z, int64_t first, int64_t E)
{
    double sum = 0;
    for (int64_t e = 0; e < E; e++) {
        sum += exp(*op_at(z, first + e));
    }
    return sum;
}

/* p of logits z, rounded. */
static void fill_scores(op_instance *in, const op_operand *z, op_operand *p, int64_t form)
{
    const int64_t E = p->shape[1];
    for (int64_t i = 0; i < op_numel(p); i++) {
        const double e = *op_at(z, i);
        *op_at(p, i) =
            form == SY_SCORE_SOFTMAX ? exp(e) / sum_exp(z, i / E * E, E) : 1 / (1 + exp(-e));
    }
    op_round(in, p);
}

/* mode bit 1: kept; bit 2: some tokens are not routed; form: score; scopes: parts of sequences of N
 * tokens. */
static void build_router_stats(op_instance *in, const op_case *c)
{
    op_operand *p = op_normal(in, op_tensor(in, "p", OP_W, 0, OP_SHAPE(c->T, c->E)), 1.5);
    fill_scores(in, p, p, c->form);
    op_choices(in, op_tensor(in, "expert", OP_I32, 0, OP_SHAPE(c->T, c->K)), c->K, c->E,
               c->mode & 2 ? 3 : 0, c->scaled);
    if (c->mode & 1) {
        op_ints(in, op_tensor(in, "kept", OP_U8, 0, OP_SHAPE(c->T, c->K)), 0, 1);
    }
    op_ints(in, op_tensor(in, "load", OP_I64, 0, OP_SHAPE(c->E)), 0, 9);
    op_ints(in, op_tensor(in, "kept_load", OP_I64, 0, OP_SHAPE(c->E)), 0, 9);
    if (c->scopes > 0) {
        op_ints(in, op_tensor(in, "dropped_at", OP_I64, 0, OP_SHAPE(c->scopes)), 0, 9);
        OP_ARGS(in, router_stats)->S = c->N;
    }
    op_normal(in, op_tensor(in, "sums", OP_F64, 0, OP_SHAPE(2)), 1);
}

static const op_case stats_cases[] = {
    {.T = 6, .E = 4, .K = 2, .mode = 3, .scopes = 2, .N = 3},
    {.T = 6, .E = 4, .K = 2, .form = SY_SCORE_SIGMOID, .scopes = 8, .N = 6},
    {.T = 0, .E = 4, .K = 2, .mode = 1, .scopes = 8},
    {.T = 1, .E = 1, .K = 1},
    {.T = 31, .E = 8, .K = 8, .mode = 3},
    {.T = 31, .E = 8, .K = 2, .scaled = 1},
    {.T = 300, .E = 130, .K = 8, .mode = 3, .form = SY_SCORE_SIGMOID, .scopes = 8, .N = 100},
};

/* mode bit 1: routed; bit 2: one scope without counts; bit 3: costs; form: score. */
static void build_balance_loss(op_instance *in, const op_case *c)
{
    sy_balance_loss_args *args = OP_ARGS(in, balance_loss);
    args->aux_coeff = c->scaled ? 0 : 0.01;
    args->z_coeff = 0.001;
    args->per_token = c->T > 0 ? 1 / (double)c->T : 1;
    args->score = (sy_score)c->form;
    op_operand *z = op_normal(in, op_tensor(in, "z", OP_W, 0, OP_SHAPE(c->T, c->E)), 1.5);
    fill_scores(in, z, op_tensor(in, "p", OP_W, 0, OP_SHAPE(c->T, c->E)), c->form);
    op_operand *lse = op_tensor(in, "lse", OP_W, 0, OP_SHAPE(c->T));
    for (int64_t t = 0; t < c->T; t++) {
        *op_at(lse, t) = log(sum_exp(z, t * c->E, c->E));
    }
    op_round(in, lse);
    if (c->mode & 1) {
        op_ints(in, op_tensor(in, "routed", OP_U8, 0, OP_SHAPE(c->T)), 0, 1);
    }
    op_operand *count =
        op_ints(in, op_tensor(in, "count", OP_I64, 0, OP_SHAPE(c->scopes, c->E)), 0, 50);
    for (int64_t e = 0; e < c->E && (c->mode & 2); e++) {
        *op_at(count, e) = 0;
    }
    if (c->mode & 4) {
        op_normal(in, op_tensor(in, "cost", OP_W, 0, OP_SHAPE(c->E)), 1);
    }
    op_normal(in, op_tensor(in, "dz", OP_W, 0, OP_SHAPE(c->T, c->E)), 1e-3);
    op_normal(in, op_tensor(in, "sums", OP_F64, 0, OP_SHAPE(2)), 1);
}

static const op_case balance_cases[] = {
    {.T = 30, .E = 9, .scopes = 5, .mode = 5},
    {.T = 30, .E = 70, .scopes = 2, .mode = 4, .form = SY_SCORE_SIGMOID},
    {.T = 6, .E = 4, .scopes = 2, .mode = 1},
    {.T = 6, .E = 4, .scopes = 2, .form = SY_SCORE_SIGMOID},
    {.T = 0, .E = 4, .scopes = 2, .mode = 1},
    {.T = 1, .E = 1, .scopes = 1},
    {.T = 30, .E = 9, .scopes = 5, .mode = 3},
    {.T = 31, .E = 8, .scopes = 1, .scaled = 1},
    {.T = 300, .E = 130, .scopes = 3, .mode = 1, .form = SY_SCORE_SIGMOID},
    {.T = 300, .E = 64, .scopes = 1},
};

/* G groups, N kept; mode bit 1: some tokens are not routed; bit 2: none is; form 1: no loss of
 * visits. */
static void build_group_loss(op_instance *in, const op_case *c)
{
    sy_group_loss_args *args = OP_ARGS(in, group_loss);
    args->groups_kept = (int32_t)c->N;
    args->choices_coeff = 0.5;
    args->visits_coeff = c->form ? 0 : 0.2;
    args->per_token = c->T > 0 ? 1 / (double)c->T : 1;
    op_operand *p = op_normal(in, op_tensor(in, "p", OP_W, 0, OP_SHAPE(c->T, c->E)), 1.5);
    fill_scores(in, p, p, SY_SCORE_SOFTMAX);
    op_choices(in, op_tensor(in, "expert", OP_I32, 0, OP_SHAPE(c->T, c->K)), c->K, c->E,
               c->mode & 2   ? 1
               : c->mode & 1 ? 3
                             : 0,
               c->scaled);
    op_tensor(in, "count", OP_I64, 0, OP_SHAPE(2, c->G));
    op_normal(in, op_tensor(in, "dz", OP_W, 0, OP_SHAPE(c->T, c->E)), 1e-3);
    op_normal(in, op_tensor(in, "sums", OP_F64, 0, OP_SHAPE(1)), 1);
}

static const op_case group_cases[] = {
    {.T = 6, .E = 4, .K = 2, .G = 2, .N = 2, .mode = 1},
    {.T = 0, .E = 4, .K = 2, .G = 2, .N = 1},
    {.T = 1, .E = 1, .K = 1, .G = 1, .N = 1},
    {.T = 9, .E = 8, .K = 2, .G = 4, .N = 2, .mode = 2},
    {.T = 31, .E = 12, .K = 3, .G = 12, .N = 3, .form = 1},
    {.T = 31, .E = 8, .K = 3, .G = 4, .N = 2, .scaled = 1},
    {.T = 300, .E = 130, .K = 8, .G = 10, .N = 3, .mode = 1},
    {.T = 600, .E = 64, .K = 6, .G = 8, .N = 3},
};

static const op_test tests[] = {
    {.op = SY_OP_expert_count, .build = build_expert_count, OP_CASES(count_cases)},
    {.op = SY_OP_router_stats,
     .build = build_router_stats,
     OP_CASES(stats_cases),
     .tol = {.f64 = 1e-6}},
    {.op = SY_OP_balance_loss,
     .build = build_balance_loss,
     OP_CASES(balance_cases),
     .tol = {.f32 = 1e-5, .f64 = 1e-6}},
    {.op = SY_OP_group_loss,
     .build = build_group_loss,
     OP_CASES(group_cases),
     .tol = {.f32 = 1e-5, .f64 = 1e-6}},
};
OP_GROUP_DEFINE(losses, tests);

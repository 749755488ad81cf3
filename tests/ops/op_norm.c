/* Cases of embedding, RMSNorm and rotary positions. */
#include <math.h>

#include "tests/ops/op_test.h"

static void build_embed(op_instance *in, const op_case *c)
{
    op_normal(in, op_tensor(in, "w", OP_A, 0, OP_SHAPE(c->V, c->H)), 1);
    op_ints(in, op_rows(op_tensor(in, "ids", OP_I32, 0, OP_SHAPE(c->T)), 0), 0, c->V - 1);
    op_rows(op_tensor(in, "y", OP_A, 0, OP_SHAPE(c->T, c->H)), 0);
}

static void build_embed_backward(op_instance *in, const op_case *c)
{
    op_ints(in, op_tensor(in, "ids", OP_I32, 0, OP_SHAPE(c->T)), 0, c->mode ? 0 : c->V - 1);
    op_normal(in, op_tensor(in, "dy", OP_A, 0, OP_SHAPE(c->T, c->H)), 1);
    op_normal(in, op_tensor(in, "dw", OP_W, 0, OP_SHAPE(c->V, c->H)), 1);
}

static const op_case embed_cases[] = {
    {.T = 3, .V = 7, .H = 5},
    {.T = 0, .V = 7, .H = 5},
    {.T = 1, .V = 1, .H = 1},
    {.T = 64, .V = 3, .H = 33},
    {.T = 64, .V = 5, .H = 33, .mode = 1}, /* one id for all */
    {.T = 300, .V = 1000, .H = 64},
};

static void build_rmsnorm(op_instance *in, const op_case *c)
{
    OP_ARGS(in, rmsnorm)->eps = 1e-5;
    op_operand *x = op_tensor(in, "x", OP_A, c->pad, OP_SHAPE(c->T, c->G, c->D));
    op_normal(in, op_rows(x, 0), c->scaled ? 1e-4 : 2);
    op_normal(in, op_tensor(in, "w", OP_A, 0, OP_SHAPE(c->D)), 1);
    op_rows(op_tensor(in, "y", OP_A, 2 * c->pad, OP_SHAPE(c->T, c->G, c->D)), 0);
    op_rows(op_tensor(in, "rstd", OP_W, 0, OP_SHAPE(c->T, c->G)), 0);
}

static const op_case rmsnorm_cases[] = {
    {.T = 3, .G = 1, .D = 5},
    {.T = 0, .G = 1, .D = 5},
    {.T = 3, .G = 0, .D = 5},
    {.T = 1, .G = 1, .D = 1},
    {.T = 5, .G = 3, .D = 7, .pad = 4},
    {.T = 5, .G = 1, .D = 64, .scaled = 1}, /* eps counts */
    {.T = 33, .G = 8, .D = 16, .pad = 64},
    {.T = 300, .G = 1, .D = 257},
    {.T = 2, .G = 1, .D = 4099},
};

/* mode 1: no dw; alias: dx is dy. */
static void build_rmsnorm_backward(op_instance *in, const op_case *c)
{
    OP_ARGS(in, rmsnorm_backward)->beta = (double)c->beta;
    op_operand *x = op_tensor(in, "x", OP_A, c->pad, OP_SHAPE(c->T, c->G, c->D));
    op_normal(in, op_rows(x, 0), 2);
    op_normal(in, op_tensor(in, "w", OP_A, 0, OP_SHAPE(c->D)), 1);
    op_operand *rstd = op_rows(op_tensor(in, "rstd", OP_W, 0, OP_SHAPE(c->T, c->G)), 0);
    for (int64_t i = 0; i < op_numel(rstd); i++) {
        double sum = 0;
        for (int64_t d = 0; d < c->D; d++) {
            sum += pow(*op_at(x, i * c->D + d), 2);
        }
        *op_at(rstd, i) = 1 / sqrt(sum / (double)c->D + 1e-5);
    }
    op_round(in, rstd);
    op_operand *dy = op_tensor(in, "dy", OP_A, c->pad, OP_SHAPE(c->T, c->G, c->D));
    op_normal(in, op_rows(dy, 0), 1);
    if (c->alias) {
        op_alias(in, "dx", dy);
    } else {
        op_operand *dx = op_tensor(in, "dx", OP_A, 3 * c->pad, OP_SHAPE(c->T, c->G, c->D));
        op_normal(in, op_rows(dx, 0), 1);
    }
    if (c->mode == 0) {
        op_normal(in, op_tensor(in, "dw", OP_W, 0, OP_SHAPE(c->D)), 1);
    }
}

static const op_case rmsnorm_backward_cases[] = {
    {.T = 3, .G = 1, .D = 5},
    {.T = 0, .G = 1, .D = 5},
    {.T = 1, .G = 1, .D = 1},
    {.T = 5, .G = 3, .D = 7, .pad = 4, .beta = 1},
    {.T = 5, .G = 3, .D = 7, .pad = 4, .alias = 1},
    {.T = 5, .G = 3, .D = 7, .mode = 1},
    {.T = 33, .G = 8, .D = 16, .pad = 64},
    {.T = 300, .G = 1, .D = 257, .beta = 1},
    {.T = 2, .G = 1, .D = 4099},
};

/* S positions in the table; alias unused; form 1: inverse. */
static void build_rope(op_instance *in, const op_case *c)
{
    OP_ARGS(in, rope)->inverse = (c->form & 1) != 0;
    OP_ARGS(in, rope)->interleaved = (c->form & 2) != 0;
    op_operand *x = op_tensor(in, "x", OP_A, c->pad, OP_SHAPE(c->T, c->N, c->D));
    op_normal(in, op_rows(x, 0), 1);
    op_ints(in, op_rows(op_tensor(in, "pos", OP_I32, 0, OP_SHAPE(c->T)), 0), 0, c->S - 1);
    op_operand *table = op_tensor(in, "table", OP_W, 0, OP_SHAPE(c->S, c->D));
    for (int64_t i = 0; i < op_numel(table); i++) {
        const int64_t d = i % c->D, half = c->D / 2;
        const double angle = (double)(i / c->D) * pow(10000, -(double)(d % half) / (double)half);
        *op_at(table, i) = d < half ? cos(angle) : sin(angle);
    }
    op_round(in, table);
}

static const op_case rope_cases[] = {
    {.T = 3, .N = 2, .D = 4, .S = 9},
    {.T = 0, .N = 2, .D = 4, .S = 9},
    {.T = 3, .N = 0, .D = 4, .S = 9},
    {.T = 1, .N = 1, .D = 2, .S = 1},
    {.T = 7, .N = 3, .D = 6, .S = 40, .pad = 12},
    {.T = 7, .N = 3, .D = 6, .S = 40, .pad = 12, .form = 1},
    {.T = 300, .N = 4, .D = 64, .S = 300, .pad = 128},
    {.T = 300, .N = 4, .D = 64, .S = 300, .form = 1},
    {.T = 7, .N = 3, .D = 6, .S = 40, .pad = 12, .form = 2},
    {.T = 3, .N = 2, .D = 1030, .S = 9, .form = 3},
};

static const op_test tests[] = {
    {.op = SY_OP_embed, .build = build_embed, OP_CASES(embed_cases)},
    {.op = SY_OP_embed_backward,
     .build = build_embed_backward,
     OP_CASES(embed_cases),
     .tol = {.f32 = 2e-6}},
    {.op = SY_OP_rmsnorm,
     .build = build_rmsnorm,
     OP_CASES(rmsnorm_cases),
     .tol = {.f32 = 2e-6, .bf16 = 4e-3}},
    {.op = SY_OP_rmsnorm_backward,
     .build = build_rmsnorm_backward,
     OP_CASES(rmsnorm_backward_cases),
     .tol = {.f32 = 1e-5, .bf16 = 4e-3, .floor = 1e-2}},
    {.op = SY_OP_rope,
     .build = build_rope,
     OP_CASES(rope_cases),
     .tol = {.f32 = 1e-6, .bf16 = 4e-3}},
};
OP_GROUP_DEFINE(norm, tests);

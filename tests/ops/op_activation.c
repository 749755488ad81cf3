/* Cases of SwiGLU, the other activations, four-bit weights, and of the cross-entropy. */
#include <string.h>

#include "backend/nf4.h"
#include "tests/ops/op_test.h"

static void build_swiglu(op_instance *in, const op_case *c)
{
    op_operand *x = op_tensor(in, "x", OP_A, 0, OP_SHAPE(c->R, 2 * c->F));
    op_normal(in, op_rows(x, 0), c->scaled ? 60 : 1.5);
    op_rows(op_tensor(in, "y", OP_A, 0, OP_SHAPE(c->R, c->F)), 0);
}

static const op_case swiglu_cases[] = {
    {.R = 3, .F = 5},     {.R = 0, .F = 5},   {.R = 3, .F = 0},
    {.R = 1, .F = 1},     {.R = 31, .F = 33}, {.R = 31, .F = 33, .scaled = 1},
    {.R = 300, .F = 257},
};

enum { WEIGHT = 1, WA = 2, DOT = 4 }; /* mode, bits: what is there */

static void build_backward(op_instance *in, const op_case *c, int64_t width)
{
    op_operand *x = op_tensor(in, "x", OP_A, 0, OP_SHAPE(c->R, width));
    op_normal(in, op_rows(x, 0), c->scaled ? 60 : 1.5);
    op_normal(in, op_rows(op_tensor(in, "dy", OP_A, 0, OP_SHAPE(c->R, c->F)), 0), 1);
    op_rows(op_tensor(in, "dx", OP_A, 0, OP_SHAPE(c->R, width)), 0);
    if (c->mode & WEIGHT) {
        op_uniform(in, op_rows(op_tensor(in, "weight", OP_W, 0, OP_SHAPE(c->R)), 0), 0, 1);
    }
    if (c->mode & WA) {
        op_rows(op_tensor(in, "wa", OP_A, 0, OP_SHAPE(c->R, c->F)), 0);
    }
    if (c->mode & DOT) {
        op_rows(op_tensor(in, "dot", OP_W, 0, OP_SHAPE(c->R)), 0);
    }
}

static void build_swiglu_backward(op_instance *in, const op_case *c)
{
    build_backward(in, c, 2 * c->F);
}

/* Any codes; scales of weights, one of them zero. */
static void build_dequantize_nf4(op_instance *in, const op_case *c)
{
    const int64_t row_bytes = sy_nf4_row_bytes(c->K);
    op_operand *x = op_tensor(in, "x", OP_U8, 0, OP_SHAPE(c->N, row_bytes));
    op_ints(in, op_rows(x, 0), 0, 255);
    for (int64_t r = 0; r < c->N; r++) {
        for (int64_t b = 0; b * SY_NF4_BLOCK < c->K; b++) {
            const float scale = (float)(op_draw(in, 2000)) / 1000;
            uint8_t bytes[sizeof scale];
            memcpy(bytes, &scale, sizeof scale);
            for (int64_t i = 0; i < 4; i++) {
                *op_at(x, r * row_bytes + c->K / 2 + 4 * b + i) = bytes[i];
            }
        }
    }
    op_rows(op_tensor(in, "y", OP_A, 0, OP_SHAPE(c->N, c->K)), 0);
}

static const op_case nf4_cases[] = {
    {.N = 3, .K = 8},  {.N = 0, .K = 8},   {.N = 3, .K = 0},
    {.N = 5, .K = 64}, {.N = 31, .K = 72}, {.N = 120, .K = 520},
};

static const op_case swiglu_backward_cases[] = {
    {.R = 3, .F = 5, .mode = WEIGHT | WA | DOT},
    {.R = 3, .F = 5},
    {.R = 3, .F = 5, .mode = WA},
    {.R = 3, .F = 5, .mode = DOT},
    {.R = 3, .F = 5, .mode = WEIGHT},
    {.R = 0, .F = 5, .mode = WEIGHT | WA | DOT},
    {.R = 3, .F = 0, .mode = DOT},
    {.R = 1, .F = 1, .mode = WEIGHT | WA | DOT},
    {.R = 31, .F = 33, .mode = WEIGHT | WA | DOT, .scaled = 1},
    {.R = 300, .F = 257, .mode = WEIGHT | WA | DOT},
};

/* form: sy_act. */
static void build_activation(op_instance *in, const op_case *c)
{
    const sy_act act = (sy_act)c->form;
    OP_ARGS(in, activation)->act = act;
    op_operand *x = op_tensor(in, "x", OP_A, 0, OP_SHAPE(c->R, sy_act_parts(act) * c->F));
    op_normal(in, op_rows(x, 0), c->scaled ? 60 : 1.5);
    op_rows(op_tensor(in, "y", OP_A, 0, OP_SHAPE(c->R, c->F)), 0);
}

static const op_case activation_cases[] = {
    {.form = SY_ACT_GEGLU, .R = 3, .F = 5},
    {.form = SY_ACT_GEGLU, .R = 300, .F = 257},
    {.form = SY_ACT_GEGLU, .R = 31, .F = 33, .scaled = 1},
    {.form = SY_ACT_RELU, .R = 31, .F = 1100},
    {.form = SY_ACT_GELU, .R = 31, .F = 33},
    {.form = SY_ACT_GELU, .R = 0, .F = 5},
    {.form = SY_ACT_GELU_ERF, .R = 1, .F = 1},
    {.form = SY_ACT_GELU_ERF, .R = 3, .F = 5},
    {.form = SY_ACT_GELU_ERF, .R = 0, .F = 5},
    {.form = SY_ACT_GELU_ERF, .R = 3, .F = 0},
    {.form = SY_ACT_GELU_ERF, .R = 31, .F = 33, .scaled = 1},
    {.form = SY_ACT_GELU_ERF, .R = 300, .F = 257},
    {.form = SY_ACT_SWIGLU_LINEAR, .R = 31, .F = 33},
    {.form = SY_ACT_SWIGLU_LINEAR, .R = 3, .F = 0},
    {.form = SY_ACT_SWIGLU_LINEAR, .R = 70, .F = 1100},
};

static void build_activation_backward(op_instance *in, const op_case *c)
{
    const sy_act act = (sy_act)c->form;
    OP_ARGS(in, activation_backward)->act = act;
    build_backward(in, c, sy_act_parts(act) * c->F);
}

static const op_case activation_backward_cases[] = {
    {.form = SY_ACT_GEGLU, .R = 3, .F = 5, .mode = WEIGHT | WA | DOT},
    {.form = SY_ACT_GEGLU, .R = 300, .F = 257},
    {.form = SY_ACT_GEGLU, .R = 31, .F = 33, .mode = WEIGHT | WA | DOT, .scaled = 1},
    {.form = SY_ACT_RELU, .R = 31, .F = 1100, .mode = WEIGHT | WA | DOT},
    {.form = SY_ACT_GELU, .R = 31, .F = 33, .mode = WA},
    {.form = SY_ACT_GELU, .R = 0, .F = 5, .mode = DOT},
    {.form = SY_ACT_GELU_ERF, .R = 1, .F = 1, .mode = WEIGHT | WA | DOT},
    {.form = SY_ACT_GELU_ERF, .R = 3, .F = 5, .mode = WEIGHT},
    {.form = SY_ACT_GELU_ERF, .R = 3, .F = 0, .mode = DOT},
    {.form = SY_ACT_GELU_ERF, .R = 31, .F = 33, .mode = WEIGHT | WA | DOT, .scaled = 1},
    {.form = SY_ACT_GELU_ERF, .R = 300, .F = 257, .mode = WEIGHT | WA | DOT},
    {.form = SY_ACT_SWIGLU_LINEAR, .R = 31, .F = 33, .mode = WEIGHT | WA | DOT},
    {.form = SY_ACT_SWIGLU_LINEAR, .R = 70, .F = 1100, .mode = WEIGHT | WA | DOT},
};

enum { LOSS_WEIGHT = 1, DLOGITS = 2, NO_LOSS = 4 /* no token has a target */, Z_LOSS = 8 };

static void build_xent(op_instance *in, const op_case *c)
{
    OP_ARGS(in, xent)->grad_scale = 0.125;
    op_operand *logits = op_tensor(in, "logits", OP_W, 0, OP_SHAPE(c->N, c->V));
    op_normal(in, op_rows(logits, 0), c->scaled ? 60 : 1);
    op_operand *targets = op_rows(op_tensor(in, "targets", OP_I32, 0, OP_SHAPE(c->N)), 0);
    op_ints(in, targets, c->mode & NO_LOSS ? -1 : 0, c->mode & NO_LOSS ? -1 : c->V - 1);
    for (int64_t i = 3; i < c->N; i += 5) {
        *op_at(targets, i) = -1;
    }
    if (c->mode & LOSS_WEIGHT) {
        op_uniform(in, op_rows(op_tensor(in, "loss_weight", OP_F32, 0, OP_SHAPE(c->N)), 0), 0, 2);
    }
    op_rows(op_tensor(in, "nll", OP_W, 0, OP_SHAPE(c->N)), 0);
    if (c->mode & Z_LOSS) {
        OP_ARGS(in, xent)->z_coeff = 0.25;
        op_rows(op_tensor(in, "lse", OP_W, 0, OP_SHAPE(c->N)), 0);
    }
    if (c->alias) {
        op_alias(in, "dlogits", logits);
    } else if (c->mode & DLOGITS) {
        op_rows(op_tensor(in, "dlogits", OP_A, 0, OP_SHAPE(c->N, c->V)), 0);
    }
}

static const op_case xent_cases[] = {
    {.N = 5, .V = 7, .mode = LOSS_WEIGHT | DLOGITS},
    {.N = 5, .V = 7},
    {.N = 5, .V = 7, .alias = 1, .mode = LOSS_WEIGHT},
    {.N = 0, .V = 7, .mode = DLOGITS},
    {.N = 33, .V = 300, .mode = LOSS_WEIGHT | DLOGITS | Z_LOSS},
    {.N = 1, .V = 1, .mode = DLOGITS},
    {.N = 9, .V = 33, .mode = DLOGITS | NO_LOSS},
    {.N = 31, .V = 256, .mode = LOSS_WEIGHT | DLOGITS, .scaled = 1},
    {.N = 64, .V = 2003, .mode = DLOGITS},
    {.N = 64, .V = 2003, .alias = 1},
};

static const op_test tests[] = {
    {.op = SY_OP_swiglu,
     .build = build_swiglu,
     OP_CASES(swiglu_cases),
     .tol = {.f32 = 2e-6, .bf16 = 4e-3}},
    {.op = SY_OP_swiglu_backward,
     .build = build_swiglu_backward,
     OP_CASES(swiglu_backward_cases),
     .tol = {.f32 = 1e-5, .bf16 = 4e-3}},
    {.op = SY_OP_dequantize_nf4,
     .build = build_dequantize_nf4,
     OP_CASES(nf4_cases),
     .tol = {.f32 = 2e-7, .bf16 = 4e-3}},
    {.op = SY_OP_activation,
     .build = build_activation,
     OP_CASES(activation_cases),
     .tol = {.f32 = 2e-6, .bf16 = 4e-3}},
    {.op = SY_OP_activation_backward,
     .build = build_activation_backward,
     OP_CASES(activation_backward_cases),
     .tol = {.f32 = 1e-5, .bf16 = 4e-3}},
    {.op = SY_OP_xent,
     .build = build_xent,
     OP_CASES(xent_cases),
     .tol = {.f32 = 1e-5, .bf16 = 4e-3}},
};
OP_GROUP_DEFINE(activation, tests);

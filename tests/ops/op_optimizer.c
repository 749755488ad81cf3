/* Cases of AdamW and Adafactor. */
#include "tests/ops/op_test.h"

enum { PARAM = 1, SKIP = 2 }; /* mode, bits */

static void build_adamw(op_instance *in, const op_case *c)
{
    sy_adamw_args *args = OP_ARGS(in, adamw);
    *args = (sy_adamw_args){.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = c->scaled ? 0.1 : 0};
    op_normal(in, op_tensor(in, "master", OP_W, 0, OP_SHAPE(c->N)), 0.1);
    op_normal(in, op_tensor(in, "m", OP_W, 0, OP_SHAPE(c->N)), 0.01);
    op_uniform(in, op_tensor(in, "v", OP_W, 0, OP_SHAPE(c->N)), 0, 1e-3);
    op_normal(in, op_tensor(in, "grad", OP_W, 0, OP_SHAPE(c->N)), 0.1);
    if (c->mode & PARAM) {
        op_normal(in, op_tensor(in, "param", OP_A, 0, OP_SHAPE(c->N)), 0.1);
    }
    op_operand *ctl = op_tensor(in, "ctl", OP_F64, 0, OP_SHAPE(SY_CTL_N));
    *op_at(ctl, SY_CTL_LR) = 3e-3;
    *op_at(ctl, SY_CTL_GRAD_SCALE) = 0.7;
    *op_at(ctl, SY_CTL_SKIP) = c->mode & SKIP ? 1 : 0;
    *op_at(ctl, SY_CTL_BIAS1) = 1 - 0.9 * 0.9;
    *op_at(ctl, SY_CTL_BIAS2) = 1 - 0.95 * 0.95;
}

static const op_case adamw_cases[] = {
    {.N = 7, .mode = PARAM},
    {.N = 7},
    {.N = 0, .mode = PARAM},
    {.N = 1, .mode = PARAM, .scaled = 1},
    {.N = 33, .mode = PARAM | SKIP, .scaled = 1},
    {.N = 70001, .mode = PARAM, .scaled = 1},
};

/* ---- Adafactor: B matrices [M, K], elements S .. S+N-1 ---- */

enum { MOMENTUM = 4, SCALE_PARAMETER = 8, CLIP = 16 };

static sy_factored shape_of(const op_case *c)
{
    return (sy_factored){.rows = c->M, .columns = c->K, .first = c->S};
}

static op_operand *add_ctl(op_instance *in, const op_case *c)
{
    op_operand *ctl = op_tensor(in, "ctl", OP_F64, 0, OP_SHAPE(SY_CTL_N));
    *op_at(ctl, SY_CTL_LR) = 3e-2;
    *op_at(ctl, SY_CTL_GRAD_SCALE) = 0.7;
    *op_at(ctl, SY_CTL_SKIP) = c->mode & SKIP ? 1 : 0;
    *op_at(ctl, SY_CTL_DECAY) = 0.6;
    return ctl;
}

static void add_factors(op_instance *in, const op_case *c)
{
    op_uniform(in, op_tensor(in, "row", OP_W, 0, OP_SHAPE(c->B * c->M)), 0.1, 1);
    op_uniform(in, op_tensor(in, "column", OP_W, 0, OP_SHAPE(c->B * c->K)), 0.1, 1);
    op_uniform(in, op_tensor(in, "total", OP_F64, 0, OP_SHAPE(c->B)), 1, 2);
}

static void build_sums(op_instance *in, const op_case *c)
{
    sy_adafactor_sums_args *args = OP_ARGS(in, adafactor_sums);
    args->shape = shape_of(c);
    args->eps1 = 1e-3;
    op_normal(in, op_tensor(in, "grad", OP_W, 0, OP_SHAPE(c->N)), 0.1);
    op_normal(in, op_tensor(in, "master", OP_W, 0, OP_SHAPE(c->N)), 0.1);
    add_ctl(in, c);
    op_uniform(in, op_tensor(in, "row_sum", OP_F64, 0, OP_SHAPE(c->B * c->M)), 0, 1);
    op_uniform(in, op_tensor(in, "column_sum", OP_F64, 0, OP_SHAPE(c->B * c->K)), 0, 1);
    op_uniform(in, op_tensor(in, "squares", OP_F64, 0, OP_SHAPE(c->B)), 0, 1);
}

static void build_moments(op_instance *in, const op_case *c)
{
    op_uniform(in, op_tensor(in, "row_sum", OP_F64, 0, OP_SHAPE(c->B * c->M)), 0, 1);
    op_uniform(in, op_tensor(in, "column_sum", OP_F64, 0, OP_SHAPE(c->B * c->K)), 0, 1);
    add_ctl(in, c);
    op_uniform(in, op_tensor(in, "row", OP_W, 0, OP_SHAPE(c->B * c->M)), 0, 1);
    op_uniform(in, op_tensor(in, "column", OP_W, 0, OP_SHAPE(c->B * c->K)), 0, 1);
    op_tensor(in, "total", OP_F64, 0, OP_SHAPE(c->B));
}

static void build_squares(op_instance *in, const op_case *c)
{
    OP_ARGS(in, adafactor_squares)->shape = shape_of(c);
    op_normal(in, op_tensor(in, "grad", OP_W, 0, OP_SHAPE(c->N)), 0.1);
    add_ctl(in, c);
    add_factors(in, c);
    op_uniform(in, op_tensor(in, "squares", OP_F64, 0, OP_SHAPE(c->B)), 0, 1);
}

static void build_adafactor(op_instance *in, const op_case *c)
{
    sy_adafactor_args *args = OP_ARGS(in, adafactor);
    *args = (sy_adafactor_args){.shape = shape_of(c),
                                .beta1 = 0.9,
                                .clip = c->mode & CLIP ? 0.05 : 0,
                                .eps2 = 1e-3,
                                .decay = c->scaled ? 0.1 : 0,
                                .scale_parameter = (c->mode & SCALE_PARAMETER) != 0};
    op_normal(in, op_tensor(in, "master", OP_W, 0, OP_SHAPE(c->N)), 0.1);
    if (c->mode & MOMENTUM) {
        op_normal(in, op_tensor(in, "m", OP_W, 0, OP_SHAPE(c->N)), 0.01);
    }
    op_normal(in, op_tensor(in, "grad", OP_W, 0, OP_SHAPE(c->N)), 0.1);
    if (c->mode & PARAM) {
        op_normal(in, op_tensor(in, "param", OP_A, 0, OP_SHAPE(c->N)), 0.1);
    }
    add_ctl(in, c);
    add_factors(in, c);
    op_uniform(in, op_tensor(in, "param_squares", OP_F64, 0, OP_SHAPE(c->B)), 0, 1);
    op_uniform(in, op_tensor(in, "update_squares", OP_F64, 0, OP_SHAPE(c->B)), 0, 1);
}

/* Whole matrices, parts that begin and end inside rows, one row (a whole second moment). */
static const op_case factored_cases[] = {
    {.B = 1, .M = 3, .K = 5, .N = 15, .mode = PARAM},
    {.B = 1, .M = 3, .K = 5, .S = 4, .N = 7, .mode = PARAM | SCALE_PARAMETER | MOMENTUM},
    {.B = 3, .M = 4, .K = 7, .S = 33, .N = 40, .mode = CLIP | SCALE_PARAMETER, .scaled = 1},
    {.B = 2, .M = 4, .K = 7, .N = 0, .mode = PARAM},
    {.B = 1, .M = 1, .K = 1, .N = 1, .mode = CLIP | PARAM},
    {.B = 3, .M = 1, .K = 3000, .S = 1000, .N = 6000, .mode = PARAM | CLIP | SCALE_PARAMETER},
    {.B = 5, .M = 33, .K = 65, .N = 5 * 33 * 65, .mode = PARAM | MOMENTUM | CLIP, .scaled = 1},
    {.B = 2, .M = 33, .K = 1500, .S = 700, .N = 70001, .mode = SKIP | MOMENTUM | PARAM},
    {.B = 2, .M = 33, .K = 1500, .S = 700, .N = 70001, .mode = PARAM | CLIP | SCALE_PARAMETER},
};

static const op_test tests[] = {
    {.op = SY_OP_adamw,
     .build = build_adamw,
     OP_CASES(adamw_cases),
     .tol = {.f32 = 2e-6, .bf16 = 4e-3}},
    {.op = SY_OP_adafactor_sums,
     .build = build_sums,
     OP_CASES(factored_cases),
     .tol = {.f32 = 2e-6}},
    {.op = SY_OP_adafactor_moments,
     .build = build_moments,
     OP_CASES(factored_cases),
     .tol = {.f32 = 2e-6}},
    {.op = SY_OP_adafactor_squares,
     .build = build_squares,
     OP_CASES(factored_cases),
     .tol = {.f32 = 4e-6}},
    {.op = SY_OP_adafactor,
     .build = build_adafactor,
     OP_CASES(factored_cases),
     .tol = {.f32 = 4e-6, .bf16 = 4e-3}},
};
OP_GROUP_DEFINE(optimizer, tests);

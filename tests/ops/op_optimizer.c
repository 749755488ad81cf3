/* Cases of AdamW. */
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

static const op_test tests[] = {
    {.op = SY_OP_adamw,
     .build = build_adamw,
     OP_CASES(adamw_cases),
     .tol = {.f32 = 2e-6, .bf16 = 4e-3}},
};
OP_GROUP_DEFINE(optimizer, tests);

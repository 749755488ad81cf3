/* Cases of the elementwise ops and plain sums. */
#include "tests/ops/op_test.h"

static void build_fill(op_instance *in, const op_case *c)
{
    OP_ARGS(in, fill)->value = c->scaled ? -1.5 : 3;
    op_tensor(in, "y", (op_kind)c->mode, 0, OP_SHAPE(c->T, c->H));
}

static const op_case fill_cases[] = {
    {.T = 3, .H = 5, .mode = OP_A, .scaled = 1},
    {.T = 0, .H = 5, .mode = OP_A},
    {.T = 1, .H = 1, .mode = OP_F64, .scaled = 1},
    {.T = 7, .H = 9, .mode = OP_W, .scaled = 1},
    {.T = 7, .H = 9, .mode = OP_I32},
    {.T = 7, .H = 9, .mode = OP_I64},
    {.T = 7, .H = 9, .mode = OP_U8},
    {.T = 301, .H = 257, .mode = OP_A},
};

/* form: from, mode: to; G dimensions. */
static void build_cast(op_instance *in, const op_case *c)
{
    const int64_t shape[3] = {c->T, c->N, c->H};
    const int64_t *used = shape + (c->G == 1 ? 2 : 0);
    const int64_t two[2] = {c->T, c->H};
    const int64_t *dims = c->G == 2 ? two : used;
    op_operand *x = op_tensor(in, "x", (op_kind)c->form, c->pad, (int32_t)c->G, dims);
    op_operand *y = op_tensor(in, "y", (op_kind)c->mode, 2 * c->pad, (int32_t)c->G, dims);
    if (c->form >= OP_I32) {
        op_ints(in, x, 0, 99);
    } else {
        op_normal(in, x, 3);
    }
    if (c->G > 1) {
        op_rows(x, 0);
        op_rows(y, 0);
    }
}

static const op_case cast_cases[] = {
    {.G = 1, .H = 9, .form = OP_A, .mode = OP_W},
    {.G = 1, .H = 0, .form = OP_A, .mode = OP_W},
    {.G = 1, .H = 1, .form = OP_W, .mode = OP_A},
    {.G = 1, .H = 70001, .form = OP_W, .mode = OP_A},
    {.G = 2, .T = 5, .H = 7, .form = OP_W, .mode = OP_A, .pad = 3},
    {.G = 2, .T = 5, .H = 7, .form = OP_A, .mode = OP_A, .pad = 3},
    {.G = 2, .T = 0, .H = 7, .form = OP_A, .mode = OP_W, .pad = 3},
    {.G = 2, .T = 300, .H = 257, .form = OP_A, .mode = OP_W, .pad = 1},
    {.G = 3, .T = 4, .N = 3, .H = 5, .form = OP_A, .mode = OP_W, .pad = 6},
    {.G = 3, .T = 4, .N = 3, .H = 5, .form = OP_F64, .mode = OP_A},
    {.G = 3, .T = 4, .N = 3, .H = 5, .form = OP_A, .mode = OP_F64, .pad = 2},
    {.G = 2, .T = 6, .H = 5, .form = OP_F64, .mode = OP_F32, .pad = 2},
    {.G = 2, .T = 6, .H = 5, .form = OP_BF16, .mode = OP_F32, .pad = 2},
    {.G = 2, .T = 5, .H = 7, .form = OP_I32, .mode = OP_I32, .pad = 3},
    {.G = 2, .T = 5, .H = 7, .form = OP_I64, .mode = OP_I64, .pad = 3},
    {.G = 1, .H = 77, .form = OP_U8, .mode = OP_U8},
};

/* mode: the dtype; alias 1: y is a, 2: y is b. */
static void build_add(op_instance *in, const op_case *c)
{
    const op_kind kind = (op_kind)c->mode;
    op_operand *a = op_rows(op_tensor(in, "a", kind, c->pad, OP_SHAPE(c->T, c->H)), 0);
    op_operand *b = op_rows(op_tensor(in, "b", kind, 2 * c->pad, OP_SHAPE(c->T, c->H)), 0);
    op_normal(in, a, 1);
    op_normal(in, b, 1);
    if (c->alias) {
        op_alias(in, "y", c->alias == 1 ? a : b);
    } else {
        op_rows(op_tensor(in, "y", kind, 3 * c->pad, OP_SHAPE(c->T, c->H)), 0);
    }
}

static const op_case add_cases[] = {
    {.T = 3, .H = 5, .mode = OP_A},
    {.T = 0, .H = 5, .mode = OP_A},
    {.T = 1, .H = 1, .mode = OP_W},
    {.T = 3, .H = 5, .mode = OP_A, .alias = 1},
    {.T = 31, .H = 5, .mode = OP_W, .alias = 2},
    {.T = 300, .H = 257, .mode = OP_A},
    {.T = 5, .H = 7, .mode = OP_A, .pad = 3},
    {.T = 31, .H = 5, .mode = OP_W, .pad = 2, .alias = 1},
    {.T = 300, .H = 1030, .mode = OP_A, .pad = 1},
};

/* mode: the dtype; alias: y is x. */
static void build_scale(op_instance *in, const op_case *c)
{
    const op_kind kind = (op_kind)c->mode;
    OP_ARGS(in, scale)->factor = c->scaled ? -0.22 : 12;
    op_operand *x = op_rows(op_tensor(in, "x", kind, 0, OP_SHAPE(c->T, c->H)), 0);
    op_normal(in, x, 1);
    if (c->alias) {
        op_alias(in, "y", x);
    } else {
        op_rows(op_tensor(in, "y", kind, 0, OP_SHAPE(c->T, c->H)), 0);
    }
}

static const op_case scale_cases[] = {
    {.T = 3, .H = 5, .mode = OP_A},
    {.T = 0, .H = 5, .mode = OP_A},
    {.T = 1, .H = 1, .mode = OP_W, .scaled = 1},
    {.T = 3, .H = 5, .mode = OP_A, .scaled = 1, .alias = 1},
    {.T = 31, .H = 5, .mode = OP_W, .alias = 1},
    {.T = 300, .H = 257, .mode = OP_A, .scaled = 1},
};

static void build_add_bias(op_instance *in, const op_case *c)
{
    op_normal(in, op_rows(op_tensor(in, "y", OP_A, c->pad, OP_SHAPE(c->T, c->N)), 0), 1);
    op_normal(in, op_tensor(in, "bias", OP_A, 0, OP_SHAPE(c->N)), 1);
}

static void build_column_sum(op_instance *in, const op_case *c)
{
    op_normal(in, op_tensor(in, "x", (op_kind)c->mode, c->pad, OP_SHAPE(c->T, c->N)), 1);
    op_normal(in, op_tensor(in, "out", OP_W, 0, OP_SHAPE(c->N)), 1);
}

static const op_case column_cases[] = {
    {.T = 3, .N = 5},
    {.T = 0, .N = 5},
    {.T = 3, .N = 0},
    {.T = 1, .N = 1},
    {.T = 31, .N = 33, .pad = 3},
    {.T = 31, .N = 33, .pad = 3, .mode = OP_W},
    {.T = 1025, .N = 3},
    {.T = 300, .N = 257, .pad = 1},
};

static void build_sum(op_instance *in, const op_case *c)
{
    OP_ARGS(in, sum)->scale = c->scaled ? -0.25 : 1;
    op_normal(in, op_tensor(in, "x", (op_kind)c->mode, 0, OP_SHAPE(c->T, c->H)), 1);
    op_normal(in, op_tensor(in, "out", OP_F64, 0, OP_SHAPE(1)), 1);
}

static void build_sum_squares(op_instance *in, const op_case *c)
{
    op_normal(in, op_tensor(in, "x", (op_kind)c->mode, 0, OP_SHAPE(c->T, c->H)), 1);
    op_normal(in, op_tensor(in, "out", OP_F64, 0, OP_SHAPE(1)), 1);
}

static const op_case sum_cases[] = {
    {.T = 3, .H = 5, .mode = OP_W},
    {.T = 0, .H = 5, .mode = OP_W},
    {.T = 1, .H = 1, .mode = OP_W, .scaled = 1},
    {.T = 31, .H = 33, .mode = OP_F64, .scaled = 1},
    {.T = 301, .H = 513, .mode = OP_W, .scaled = 1},
};
static const op_case sum_squares_cases[] = {
    {.T = 3, .H = 5, .mode = OP_W},
    {.T = 0, .H = 5, .mode = OP_W},
    {.T = 1, .H = 1, .mode = OP_W},
    {.T = 301, .H = 513, .mode = OP_W},
};

/* scaled: some rows only. */
static void build_row_squares(op_instance *in, const op_case *c)
{
    op_normal(in, op_tensor(in, "x", (op_kind)c->mode, c->pad, OP_SHAPE(c->T, c->H)), 1);
    if (c->scaled) {
        op_ints(in, op_tensor(in, "rows", OP_U8, 0, OP_SHAPE(c->T)), 0, 1);
    }
    op_normal(in, op_tensor(in, "out", OP_F64, 0, OP_SHAPE(1)), 1);
}

static const op_case row_squares_cases[] = {
    {.T = 3, .H = 5, .mode = OP_A},
    {.T = 0, .H = 5, .mode = OP_W, .scaled = 1},
    {.T = 1, .H = 1, .mode = OP_A, .scaled = 1},
    {.T = 70, .H = 1100, .mode = OP_A, .scaled = 1, .pad = 3},
    {.T = 301, .H = 65, .mode = OP_W, .scaled = 1},
};

static void build_jitter(op_instance *in, const op_case *c)
{
    sy_jitter_args *args = OP_ARGS(in, jitter);
    args->eps = c->scaled ? 0 : 0.01;
    args->seed = 11;
    args->stream = 3;
    op_operand *x = op_normal(in, op_rows(op_tensor(in, "x", OP_A, 0, OP_SHAPE(c->T, c->H)), 0), 1);
    op_ints(in, op_rows(op_tensor(in, "token_glb", OP_I64, 0, OP_SHAPE(c->T)), 0), 0,
            (int64_t)1 << 40);
    if (c->alias) {
        op_alias(in, "y", x);
    } else {
        op_rows(op_tensor(in, "y", OP_A, 0, OP_SHAPE(c->T, c->H)), 0);
    }
}

static const op_case jitter_cases[] = {
    {.T = 3, .H = 5},
    {.T = 0, .H = 5},
    {.T = 1, .H = 1},
    {.T = 3, .H = 5, .scaled = 1},
    {.T = 31, .H = 33, .alias = 1},
    {.T = 300, .H = 65},
};

static void build_gate(op_instance *in, const op_case *c)
{
    OP_ARGS(in, gate)->plain = c->mode;
    op_normal(in, op_rows(op_tensor(in, "x", OP_A, 0, OP_SHAPE(c->T, c->H)), 0), 1);
    op_normal(in, op_rows(op_tensor(in, "s", OP_W, 0, OP_SHAPE(c->T)), 0), c->scaled ? 40 : 2);
    op_rows(op_tensor(in, "y", OP_A, 0, OP_SHAPE(c->T, c->H)), 0);
}

static void build_gate_backward(op_instance *in, const op_case *c)
{
    OP_ARGS(in, gate_backward)->plain = c->mode;
    op_normal(in, op_rows(op_tensor(in, "x", OP_A, 0, OP_SHAPE(c->T, c->H)), 0), 1);
    op_normal(in, op_rows(op_tensor(in, "s", OP_W, 0, OP_SHAPE(c->T)), 0), c->scaled ? 40 : 2);
    op_normal(in, op_rows(op_tensor(in, "dy", OP_A, 0, OP_SHAPE(c->T, c->H)), 0), 1);
    op_rows(op_tensor(in, "dx", OP_A, 0, OP_SHAPE(c->T, c->H)), 0);
    op_rows(op_tensor(in, "ds", OP_W, 0, OP_SHAPE(c->T)), 0);
}

static const op_case gate_cases[] = {
    {.T = 3, .H = 5},
    {.T = 0, .H = 5},
    {.T = 3, .H = 0},
    {.T = 1, .H = 1},
    {.T = 31, .H = 33},
    {.T = 31, .H = 33, .scaled = 1},
    {.T = 300, .H = 257},
    {.T = 31, .H = 1, .mode = 1},
    {.T = 31, .H = 33, .mode = 1},
};

static const op_test tests[] = {
    {.op = SY_OP_fill, .build = build_fill, OP_CASES(fill_cases)},
    {.op = SY_OP_cast, .build = build_cast, OP_CASES(cast_cases)},
    {.op = SY_OP_add, .build = build_add, OP_CASES(add_cases), .tol = {.f32 = 2e-7, .bf16 = 4e-3}},
    {.op = SY_OP_scale,
     .build = build_scale,
     OP_CASES(scale_cases),
     .tol = {.f32 = 2e-7, .bf16 = 4e-3}},
    {.op = SY_OP_add_bias,
     .build = build_add_bias,
     OP_CASES(column_cases),
     .tol = {.f32 = 2e-7, .bf16 = 4e-3}},
    {.op = SY_OP_column_sum,
     .build = build_column_sum,
     OP_CASES(column_cases),
     .tol = {.f32 = 5e-6}},
    {.op = SY_OP_sum, .build = build_sum, OP_CASES(sum_cases), .tol = {.f64 = 1e-12}},
    {.op = SY_OP_sum_squares,
     .build = build_sum_squares,
     OP_CASES(sum_squares_cases),
     .tol = {.f64 = 1e-12}},
    {.op = SY_OP_row_squares,
     .build = build_row_squares,
     OP_CASES(row_squares_cases),
     .tol = {.f64 = 1e-12}},
    {.op = SY_OP_jitter,
     .build = build_jitter,
     OP_CASES(jitter_cases),
     .tol = {.f32 = 3e-7, .bf16 = 4e-3}},
    {.op = SY_OP_gate,
     .build = build_gate,
     OP_CASES(gate_cases),
     .tol = {.f32 = 2e-6, .bf16 = 4e-3}},
    {.op = SY_OP_gate_backward,
     .build = build_gate_backward,
     OP_CASES(gate_cases),
     .tol = {.f32 = 1e-5, .bf16 = 4e-3}},
};
OP_GROUP_DEFINE(elementwise, tests);

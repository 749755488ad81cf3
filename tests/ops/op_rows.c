/* Cases of the row permutations. */
#include "tests/ops/op_test.h"

/* mode: the dtype; form 1: some idx are -1. */
static void build_gather_rows(op_instance *in, const op_case *c)
{
    const op_kind kind = (op_kind)c->mode;
    op_operand *x = op_tensor(in, "x", kind, c->pad, OP_SHAPE(c->N, c->D));
    if (kind >= OP_I32) {
        op_ints(in, x, 0, 99);
    } else {
        op_normal(in, x, 1);
    }
    op_operand *idx = op_rows(op_tensor(in, "idx", OP_I32, 0, OP_SHAPE(c->M)), 0);
    op_ints(in, idx, c->form || c->N == 0 ? -1 : 0, c->N - 1);
    op_rows(op_tensor(in, "y", kind, 0, OP_SHAPE(c->M, c->D)), 0);
}

static const op_case gather_cases[] = {
    {.N = 3, .M = 7, .D = 5, .mode = OP_A, .form = 1},
    {.N = 3, .M = 0, .D = 5, .mode = OP_A},
    {.N = 0, .M = 4, .D = 5, .mode = OP_A, .form = 1},
    {.N = 3, .M = 7, .D = 0, .mode = OP_A},
    {.N = 1, .M = 1, .D = 1, .mode = OP_W},
    {.N = 9, .M = 31, .D = 33, .mode = OP_W, .pad = 3, .form = 1},
    {.N = 9, .M = 31, .D = 3, .mode = OP_I32},
    {.N = 9, .M = 31, .D = 3, .mode = OP_I64, .pad = 1},
    {.N = 9, .M = 31, .D = 3, .mode = OP_U8, .form = 1},
    {.N = 9, .M = 31, .D = 1, .mode = OP_F64, .form = 1},
    {.N = 300, .M = 600, .D = 129, .mode = OP_A, .form = 1},
};

/* N rows dealt to T tokens in shuffled order, up to K each; some tokens have none. mode 1: weights.
 */
static void build_combine_rows(op_instance *in, const op_case *c)
{
    OP_ARGS(in, combine_rows)->beta = (double)c->beta;
    op_normal(in, op_tensor(in, "rows", OP_A, 0, OP_SHAPE(c->N, c->H)), 1);
    if (c->mode) {
        op_uniform(in, op_tensor(in, "weight", OP_W, 0, OP_SHAPE(c->N)), 0, 1);
    }
    op_operand *start = op_rows(op_tensor(in, "token_start", OP_I32, 0, OP_SHAPE(c->T + 1)), 0);
    start->row_extra = 1;
    op_operand *row = op_tensor(in, "token_row", OP_I32, 0, OP_SHAPE(c->N));
    int64_t next = 0;
    for (int64_t t = 0; t < c->T; t++) {
        const int64_t n = c->K > 0 ? op_draw(in, c->K + 1) : 0;
        next += n < c->N - next ? n : c->N - next;
        *op_at(start, t + 1) = (double)next;
    }
    for (int64_t i = 0; i < c->N; i++) { /* shuffle; what no token takes stays -1 */
        const int64_t j = op_draw(in, i + 1);
        *op_at(row, i) = *op_at(row, j);
        *op_at(row, j) = (double)i;
    }
    for (int64_t i = next; i < c->N; i++) {
        *op_at(row, i) = -1;
    }
    op_normal(in, op_rows(op_tensor(in, "y", OP_A, 0, OP_SHAPE(c->T, c->H)), 0), 1);
}

static const op_case combine_cases[] = {
    {.T = 4, .N = 6, .K = 2, .H = 5, .mode = 1},
    {.T = 4, .N = 6, .K = 2, .H = 5, .beta = 1},
    {.T = 0, .N = 6, .K = 2, .H = 5, .mode = 1},
    {.T = 4, .N = 0, .K = 2, .H = 5, .mode = 1},
    {.T = 4, .N = 6, .K = 0, .H = 5, .beta = 1, .mode = 1},
    {.T = 1, .N = 1, .K = 1, .H = 1},
    {.T = 31, .N = 70, .K = 8, .H = 33, .mode = 1, .beta = 1},
    {.T = 300, .N = 600, .K = 3, .H = 129, .mode = 1},
};

static const op_test tests[] = {
    {.op = SY_OP_gather_rows, .build = build_gather_rows, OP_CASES(gather_cases)},
    {.op = SY_OP_combine_rows,
     .build = build_combine_rows,
     OP_CASES(combine_cases),
     .tol = {.f32 = 2e-6, .bf16 = 4e-3}},
};
OP_GROUP_DEFINE(rows, tests);

/* Cases of the matrix products. K up to 2100 crosses the borders at which libraries split it among
 * threads. */
#include <math.h>

#include "core/alloc.h"
#include "tests/ops/op_test.h"

enum { C_IS_A, C_IS_W }; /* mode */

static void build_gemm(op_instance *in, const op_case *c)
{
    sy_gemm_args *args = OP_ARGS(in, gemm);
    args->trans_a = c->ta;
    args->trans_b = c->tb;
    args->alpha = c->scaled ? -0.5 : 1;
    args->beta = (double)c->beta;
    op_operand *a = c->ta ? op_tensor(in, "a", OP_A, c->pad, OP_SHAPE(c->K, c->M))
                          : op_tensor(in, "a", OP_A, c->pad, OP_SHAPE(c->M, c->K));
    op_operand *b = c->tb ? op_tensor(in, "b", OP_A, c->pad, OP_SHAPE(c->N, c->K))
                          : op_tensor(in, "b", OP_A, c->pad, OP_SHAPE(c->K, c->N));
    op_operand *out =
        op_tensor(in, "c", c->mode == C_IS_W ? OP_W : OP_A, c->pad, OP_SHAPE(c->M, c->N));
    op_rows(op_normal(in, a, 1), c->ta ? 1 : 0);
    op_normal(in, b, 1);
    op_rows(op_normal(in, out, 1), 0);
}

static const op_case gemm_cases[] = {
    {.M = 3, .N = 5, .K = 4},
    {.M = 0, .N = 5, .K = 4},
    {.M = 3, .N = 0, .K = 4},
    {.M = 3, .N = 5, .K = 0},
    {.M = 3, .N = 5, .K = 0, .beta = 1, .mode = C_IS_W},
    {.M = 1, .N = 1, .K = 1},
    {.M = 1, .N = 64, .K = 64, .tb = 1},
    {.M = 17, .N = 33, .K = 65, .pad = 3},
    {.M = 17, .N = 33, .K = 65, .tb = 1, .pad = 3, .mode = C_IS_W},
    {.M = 17, .N = 33, .K = 65, .ta = 1, .pad = 3, .mode = C_IS_W, .beta = 1},
    {.M = 17, .N = 33, .K = 65, .ta = 1, .tb = 1, .pad = 3},
    {.M = 17, .N = 33, .K = 65, .beta = 1, .scaled = 1},
    {.M = 64, .N = 48, .K = 128, .tb = 1, .scaled = 1, .mode = C_IS_W, .beta = 1},
    {.M = 7, .N = 1, .K = 300, .tb = 1},
    {.M = 300, .N = 70, .K = 96, .tb = 1},
    {.M = 96, .N = 70, .K = 300, .ta = 1, .mode = C_IS_W, .beta = 1},
    {.M = 5, .N = 9, .K = 2047},
    {.M = 5, .N = 9, .K = 2048, .tb = 1},
    {.M = 33, .N = 40, .K = 2100, .tb = 1},
    {.M = 33, .N = 40, .K = 2100, .ta = 1, .mode = C_IS_W, .beta = 1},
    {.M = 4, .N = 3, .K = 4097, .ta = 1, .mode = C_IS_W},
    {.M = 130, .N = 257, .K = 513, .tb = 1},
};

/* mode: how rows are dealt to experts. */
enum {
    SPREAD,
    ALL_TO_ONE,
    SOME_EMPTY,
    NO_ROWS,
    WITH_TAIL /* TN: rows behind start[G] */,
    NAN_TAIL, /* and they are NaN */
    AT_TILES  /* experts that end with a tile of 128 rows, before, behind */
};

static void deal_rows(op_instance *in, op_operand *start, int64_t G, int64_t R, int64_t mode)
{
    static const double at_tiles[] = {0, 1, 1, 129, 259, 300}; /* of 5 experts */
    const int64_t taken = mode == WITH_TAIL || mode == NAN_TAIL ? R - R / 4 : R;
    for (int64_t e = 1; e <= G; e++) {
        const double even = (double)(taken * e / G);
        const double one = e > G / 2 ? (double)taken : 0;
        const double some = (double)(taken * (e / 2 * 2) / (G / 2 * 2 > 0 ? G / 2 * 2 : 1));
        *op_at(start, e) = mode == ALL_TO_ONE   ? one
                           : mode == SOME_EMPTY ? some
                           : mode == AT_TILES   ? at_tiles[e]
                                                : even;
    }
    *op_at(start, G) = (double)taken;
    for (int64_t e = 1; e < G && mode == SPREAD; e++) { /* uneven borders */
        const double lo = *op_at(start, e - 1), at = *op_at(start, e) - (double)op_draw(in, 3);
        *op_at(start, e) = at > lo ? at : lo;
    }
}

/* Rows that belong to no expert. */
static void spoil_tail(op_operand *o, int64_t first)
{
    const int64_t width = o->shape[1];
    for (int64_t i = first * width; i < op_numel(o); i++) {
        *op_at(o, i) = (double)NAN;
    }
}

/* Experts of different size: from nothing to all units. scaled 1: rows, 2: columns. */
static void build_widths(op_instance *in, const op_case *c)
{
    sy_grouped_gemm_args *args = OP_ARGS(in, grouped_gemm);
    op_operand *width = op_tensor(in, "width", OP_I32, 0, OP_SHAPE(c->G));
    const int64_t all = c->scaled == 1 ? c->N : c->K;
    args->units = c->scaled == 1 ? SY_UNITS_ROWS : SY_UNITS_COLUMNS;
    for (int64_t e = 0; e < c->G; e++) {
        *op_at(width, e) = (double)(all * e / (c->G > 1 ? c->G - 1 : 1));
    }
}

/* N is the width of an expert's output, K that of its input: b (or c) is [G, N, K]. */
static void build_grouped(op_instance *in, const op_case *c)
{
    sy_grouped_gemm_args *args = OP_ARGS(in, grouped_gemm);
    const op_kind out_kind = c->align ? OP_W : OP_A; /* forward into W */
    args->form = (sy_grouped_form)c->form;
    args->beta = c->form == SY_GROUPED_TN ? 1 : 0;
    op_operand *start = op_tensor(in, "start", OP_I32, 0, OP_SHAPE(c->G + 1));
    deal_rows(in, start, c->G, c->R, c->mode);
    const int64_t a_width = c->form == SY_GROUPED_NT ? c->K : c->N;
    op_operand *a = op_normal(in, op_tensor(in, "a", OP_A, c->pad, OP_SHAPE(c->R, a_width)), 1);
    if (c->form == SY_GROUPED_TN) {
        op_operand *b = op_normal(in, op_tensor(in, "b", OP_A, c->pad, OP_SHAPE(c->R, c->K)), 1);
        if (c->mode == NAN_TAIL) {
            spoil_tail(a, c->R - c->R / 4);
            spoil_tail(b, c->R - c->R / 4);
        }
        op_normal(in, op_tensor(in, "c", OP_W, c->scaled ? 5 : 0, OP_SHAPE(c->G, c->N, c->K)), 1);
        if (c->scaled) {
            build_widths(in, c);
        }
        return;
    }
    if (c->scaled) {
        build_widths(in, c);
    }
    const int64_t c_width = c->form == SY_GROUPED_NT ? c->N : c->K;
    op_normal(in, op_tensor(in, "b", OP_A, c->scaled ? 5 : 0, OP_SHAPE(c->G, c->N, c->K)), 1);
    op_rows(a, 0);
    op_operand *out = op_tensor(in, "c", out_kind, c->scaled, OP_SHAPE(c->R, c_width));
    args->beta = c->beta ? 1 : args->beta;
    op_rows(c->beta ? op_normal(in, out, 1) : out, 0);
}

/* Rows first .. first+n-1 alone: each expert keeps what it has of them. */
static void cut_grouped(op_instance *in, int64_t first, int64_t n)
{
    op_operand *start = op_find(in, "start");
    const double *whole = start->values;
    op_must(sy_alloc(start->span, sizeof(double), (void **)&start->values));
    for (int64_t e = 0; e < start->span; e++) {
        const double at = whole[e] - (double)first;
        start->values[e] = at < 0 ? 0 : at > (double)n ? (double)n : at;
    }
}

#define GROUPED_FORM(f)                                                                            \
    {.form = f, .G = 3, .R = 7, .N = 5, .K = 4}, {.form = f, .G = 1, .R = 1, .N = 1, .K = 1},      \
        {.form = f, .G = 4, .R = 0, .N = 5, .K = 4, .mode = NO_ROWS},                              \
        {.form = f, .G = 4, .R = 37, .N = 33, .K = 65, .pad = 3},                                  \
        {.form = f, .G = 4, .R = 37, .N = 33, .K = 65, .mode = ALL_TO_ONE},                        \
        {.form = f, .G = 8, .R = 50, .N = 24, .K = 16, .mode = SOME_EMPTY},                        \
        {.form = f, .G = 8, .R = 301, .N = 96, .K = 70, .pad = 2},                                 \
        {.form = f, .G = 2, .R = 9, .N = 40, .K = 2100},                                           \
    {                                                                                              \
        .form = f, .G = 2, .R = 9, .N = 2100, .K = 40                                              \
    }

#define WIDTHS(f)                                                                                  \
    {.form = f, .G = 4, .R = 37, .N = 33, .K = 65, .scaled = 1},                                   \
        {.form = f, .G = 4, .R = 37, .N = 33, .K = 65, .scaled = 2},                               \
        {.form = f, .G = 5, .R = 300, .N = 160, .K = 136, .scaled = 1, .beta = 1},                 \
    {                                                                                              \
        .form = f, .G = 5, .R = 300, .N = 160, .K = 136, .scaled = 2, .beta = 1                    \
    }

/* Rows of 16 bytes and wide enough: product_hopper.cu on a Hopper GPU, 128 x 256 tiles, 64 deep. */
#define WIDE(f)                                                                                    \
    {.form = f, .G = 5, .R = 300, .N = 264, .K = 136, .mode = AT_TILES},                           \
        {.form = f, .G = 5, .R = 300, .N = 136, .K = 264, .mode = AT_TILES, .pad = 8, .align = 1}, \
        {.form = f, .G = 2, .R = 150, .N = 520, .K = 136, .mode = SOME_EMPTY},                     \
        {.form = f, .G = 3, .R = 0, .N = 136, .K = 136, .mode = NO_ROWS},                          \
    {                                                                                              \
        .form = f, .G = 2, .R = 9, .N = 136, .K = 520, .beta = 1                                   \
    }

static const op_case grouped_cases[] = {
    GROUPED_FORM(SY_GROUPED_NT),
    GROUPED_FORM(SY_GROUPED_NN),
    GROUPED_FORM(SY_GROUPED_TN),
    {.form = SY_GROUPED_NT, .G = 4, .R = 37, .N = 33, .K = 65, .align = 1},
    {.form = SY_GROUPED_NN, .G = 4, .R = 37, .N = 33, .K = 65, .align = 1},
    WIDTHS(SY_GROUPED_NT),
    WIDTHS(SY_GROUPED_NN),
    WIDTHS(SY_GROUPED_TN),
    {.form = SY_GROUPED_TN, .G = 3, .R = 40, .N = 9, .K = 10, .mode = WITH_TAIL},
    {.form = SY_GROUPED_TN, .G = 2, .R = 2200, .N = 16, .K = 24},
    WIDE(SY_GROUPED_NT),
    WIDE(SY_GROUPED_NN),
    WIDE(SY_GROUPED_TN),
    {.form = SY_GROUPED_NT, .G = 2, .R = 70, .N = 200, .K = 72, .beta = 1},
    /* more tiles than blocks */
    {.form = SY_GROUPED_NT, .G = 2, .R = 300, .N = 2104, .K = 72},
    {.form = SY_GROUPED_NN, .G = 2, .R = 300, .N = 72, .K = 2104},
    {.form = SY_GROUPED_TN, .G = 2, .R = 40, .N = 264, .K = 1032},
    {.form = SY_GROUPED_TN, .G = 3, .R = 40, .N = 128, .K = 136, .mode = NAN_TAIL},
};

static const op_test tests[] = {
    {.op = SY_OP_gemm,
     .build = build_gemm,
     OP_CASES(gemm_cases),
     .tol = {.f32 = 2e-5, .bf16 = 8e-3, .bf16_wide = 2e-5}},
    {.op = SY_OP_grouped_gemm,
     .build = build_grouped,
     OP_CASES(grouped_cases),
     .cut = cut_grouped,
     .tol = {.f32 = 2e-5, .bf16 = 8e-3, .bf16_wide = 2e-5}},
};
OP_GROUP_DEFINE(gemm, tests);

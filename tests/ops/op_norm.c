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

/* form 1: a row is added; 2: a part of it. */
static void build_rmsnorm(op_instance *in, const op_case *c)
{
    OP_ARGS(in, rmsnorm)->eps = 1e-5;
    op_operand *x = op_tensor(in, "x", OP_A, c->pad, OP_SHAPE(c->T, c->G, c->D));
    op_normal(in, op_rows(x, 0), c->scaled ? 1e-4 : 2);
    if (c->form > 0) {
        OP_ARGS(in, rmsnorm)->factor = c->form == 1 ? 1 : -0.22;
        op_operand *add = op_tensor(in, "add", OP_A, 3 * c->pad, OP_SHAPE(c->T, c->G, c->D));
        op_normal(in, op_rows(add, 0), 1);
        op_rows(op_tensor(in, "sum", OP_A, c->pad, OP_SHAPE(c->T, c->G, c->D)), 0);
    }
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
    {.T = 9, .G = 1, .D = 1024},
};

static const op_case rmsnorm_sum_cases[] = {
    {.T = 3, .G = 1, .D = 5, .form = 1},
    {.T = 0, .G = 1, .D = 5, .form = 1},
    {.T = 5, .G = 1, .D = 7, .pad = 4, .form = 2},
    {.T = 33, .G = 1, .D = 64, .pad = 8, .form = 2}, /* rows begin at 16 bytes */
    {.T = 2, .G = 1, .D = 4104, .form = 1},
    {.T = 3, .G = 1, .D = 1032, .pad = 3, .form = 2},
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
    {.op = SY_OP_rmsnorm, /* ref rounds no sum */
     .build = build_rmsnorm,
     OP_CASES(rmsnorm_sum_cases),
     .tol = {.f32 = 2e-6, .bf16 = 8e-3, .bf16_wide = 4e-3}},
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

static bool same_values(const op_operand *a, const double *a_values, const op_operand *b,
                        const double *b_values)
{
    op_operand x = *a, y = *b;
    int64_t n = 0;
    x.values = (double *)a_values;
    y.values = (double *)b_values;
    while (n < op_numel(a) && *op_at(&x, n) == *op_at(&y, n)) {
        n++;
    }
    return n == op_numel(a);
}

/* A sum that is normed at once, beside the two ops one after the other. */
static bool fused_is_as_apart(const op_instance *in, sy_device *dev, sy_stream *stream, sy_dtype a)
{
    op_loaded l;
    op_result fused, apart;
    op_load(&l, in, dev, stream, a);
    const sy_rmsnorm_args *args = (const sy_rmsnorm_args *)(const void *)l.args.bytes;
    op_must(op_launch(&l));
    op_fetch(&l, &fused);
    op_must(sy_add(stream, &(sy_add_args){.a = args->x, .b = args->add, .y = args->add}));
    op_must(sy_rmsnorm(
        stream,
        &(sy_rmsnorm_args){
            .x = args->add, .w = args->w, .y = args->y, .rstd = args->rstd, .eps = args->eps}));
    op_fetch(&l, &apart);
    static const char *const outputs[][2] = {{"sum", "add"}, {"y", "y"}, {"rstd", "rstd"}};
    bool same = true;
    for (int32_t i = 0; i < 3; i++) {
        const op_operand *f = op_see(in, outputs[i][0]), *s = op_see(in, outputs[i][1]);
        same =
            same && same_values(f, fused.values[f - in->operand], s, apart.values[s - in->operand]);
    }
    op_result_free(&fused);
    op_result_free(&apart);
    op_unload(&l);
    return same;
}

void op_norm_of_sum(op_runner *runner)
{
    const op_test *test = &tests[3];
    for (int32_t k = 0; k < test->n_cases; k++) {
        for (sy_dtype a = 0; a < SY_N_DTYPES && test->cases[k].form == 1; a++) {
            op_instance in;
            if (!runner->dev[0]->supports[a]) {
                continue;
            }
            op_instance_build(&in, runner, test, &test->cases[k], a, runner->dev[0]->wide);
            op_verdict(runner, fused_is_as_apart(&in, runner->dev[0], runner->stream[0], a),
                       "rmsnorm of a sum in %s: other bits than those of add and rmsnorm",
                       sy_dtype_name(a));
            op_instance_free(&in);
        }
    }
}

/* Cases of attention: sizes around the tiles, grouped heads, documents, and queries behind a filled
 * cache. */
#include <math.h>

#include "core/alloc.h"
#include "tests/ops/op_test.h"

enum { DOCS = 1, Q_START = 2 }; /* mode, bits */

/* Documents of 1 to 9 tokens, numbered within the sequence. */
static void fill_docs(op_instance *in, op_operand *doc, int64_t S)
{
    double number = 0;
    int64_t left = 0;
    for (int64_t i = 0; i < op_numel(doc); i++) {
        if (i % S == 0 || left == 0) {
            number = i % S == 0 ? 0 : number + 1;
            left = 1 + op_draw(in, S > 64 ? 70 : 9);
        }
        left--;
        *op_at(doc, i) = number;
    }
}

static op_operand *heads(op_instance *in, const char *name, int64_t pad, int64_t B, int64_t S,
                         int64_t N, int64_t D)
{
    op_operand *o = op_tensor(in, name, OP_A, pad, OP_SHAPE(B * S, N, D));
    o->row_unit = S > 0 ? S : 1; /* a sequence is what stands alone */
    return op_rows(o, 0);
}

/* Values may be wider or narrower than keys. */
static int64_t value_dim(const op_case *c)
{
    return c->N ? c->N : c->D;
}

static void optional_inputs(op_instance *in, const op_case *c, int64_t Sq, int64_t Skv)
{
    if (c->mode & DOCS) {
        op_operand *doc = op_rows(op_tensor(in, "doc", OP_I32, 0, OP_SHAPE(c->B * Sq)), 0);
        doc->row_unit = Sq;
        fill_docs(in, doc, Sq);
    }
    if (c->mode & Q_START) {
        op_ints(in, op_rows(op_tensor(in, "q_start", OP_I32, 0, OP_SHAPE(c->B)), 0), 0, Skv - Sq);
    }
}

static void build_attention(op_instance *in, const op_case *c)
{
    sy_attention_args *args = OP_ARGS(in, attention);
    const int64_t Skv = c->Skv ? c->Skv : c->S;
    args->B = (int32_t)c->B;
    args->scale = c->scaled ? 2 : 1 / sqrt((double)c->D);
    op_normal(in, heads(in, "q", c->pad, c->B, c->S, c->Nh, c->D), 1);
    op_normal(in, heads(in, "k", c->pad, c->B, Skv, c->Nkv, c->D), 1);
    op_normal(in, heads(in, "v", 2 * c->pad, c->B, Skv, c->Nkv, value_dim(c)), 1);
    optional_inputs(in, c, c->S, Skv);
    heads(in, "o", 3 * c->pad, c->B, c->S, c->Nh, value_dim(c));
    op_operand *lse = op_rows(op_tensor(in, "lse", OP_W, 0, OP_SHAPE(c->B * c->S, c->Nh)), 0);
    lse->row_unit = c->S > 0 ? c->S : 1;
}

static void cut_attention(op_instance *in, int64_t first, int64_t n)
{
    (void)first;
    OP_ARGS(in, attention)->B = (int32_t)n;
}

static const op_case attention_cases[] = {
    {.B = 2, .S = 3, .Nh = 2, .Nkv = 1, .D = 4},
    {.B = 2, .S = 3, .Skv = 5, .Nh = 2, .Nkv = 1, .D = 4, .mode = Q_START},
    {.B = 2, .S = 3, .Nh = 2, .Nkv = 1, .D = 4, .mode = DOCS},
    {.B = 0, .S = 3, .Nh = 2, .Nkv = 1, .D = 4},
    {.B = 2, .S = 0, .Nh = 2, .Nkv = 1, .D = 4},
    {.B = 1, .S = 1, .Nh = 1, .Nkv = 1, .D = 2},
    {.B = 3, .S = 17, .Nh = 4, .Nkv = 4, .D = 10, .pad = 5},
    {.B = 2, .S = 40, .Nh = 6, .Nkv = 2, .D = 16, .pad = 16, .mode = DOCS},
    {.B = 2, .S = 40, .Nh = 6, .Nkv = 2, .D = 16, .scaled = 1},
    {.B = 3, .S = 1, .Skv = 50, .Nh = 8, .Nkv = 2, .D = 16, .mode = Q_START},
    {.B = 2, .S = 7, .Skv = 133, .Nh = 4, .Nkv = 1, .D = 32, .mode = Q_START, .pad = 8},
    {.B = 1, .S = 9, .Skv = 20, .Nh = 2, .Nkv = 2, .D = 8},
    {.B = 1, .S = 64, .Nh = 2, .Nkv = 1, .D = 64},
    {.B = 2, .S = 129, .Nh = 2, .Nkv = 2, .D = 24, .mode = DOCS},
    {.B = 2, .S = 70, .Nh = 2, .Nkv = 1, .D = 80, .pad = 8, .mode = DOCS},
    {.B = 2, .S = 300, .Nh = 4, .Nkv = 2, .D = 64, .pad = 256},
    {.B = 2, .S = 3, .Nh = 2, .Nkv = 1, .D = 6, .N = 2},
    {.B = 2, .S = 70, .Nh = 2, .Nkv = 2, .D = 48, .N = 32, .pad = 16, .mode = DOCS},
    {.B = 2, .S = 7, .Skv = 70, .Nh = 2, .Nkv = 1, .D = 24, .N = 80, .mode = Q_START},
    {.B = 1, .S = 40, .Nh = 2, .Nkv = 2, .D = 192, .N = 128},
    {.B = 1, .S = 5, .Nh = 1, .Nkv = 1, .D = 88},
};

/* o and lse of the rounded q, k, v, and rounded themselves. */
static void run_forward(op_instance *in, const op_case *c)
{
    const op_operand *doc = op_find(in, "doc"), *o = op_find(in, "o"), *lse = op_find(in, "lse");
    int32_t *h_doc = NULL;
    sy_attention_args args = {.q = op_host(op_find(in, "q")),
                              .k = op_host(op_find(in, "k")),
                              .v = op_host(op_find(in, "v")),
                              .o = op_host(o),
                              .lse = op_host(lse),
                              .B = (int32_t)c->B,
                              .scale = OP_ARGS(in, attention_backward)->scale};
    op_must(sy_alloc(doc->span, sizeof *h_doc, (void **)&h_doc));
    for (int64_t i = 0; doc->values && i < doc->span; i++) {
        h_doc[i] = (int32_t)doc->values[i];
    }
    args.doc = sy_tensor_1d(doc->values ? h_doc : NULL, SY_I32, doc->span);
    op_must(sy_attention(in->runner->ref_stream, &args));
    op_must(sy_stream_sync(in->runner->ref_stream));
    op_round(in, op_find(in, "o"));
    op_round(in, op_find(in, "lse"));
    sy_free(&h_doc);
}

static void build_attention_backward(op_instance *in, const op_case *c)
{
    sy_attention_backward_args *args = OP_ARGS(in, attention_backward);
    args->B = (int32_t)c->B;
    args->scale = c->scaled ? 2 : 1 / sqrt((double)c->D);
    op_normal(in, heads(in, "q", c->pad, c->B, c->S, c->Nh, c->D), 1);
    op_normal(in, heads(in, "k", c->pad, c->B, c->S, c->Nkv, c->D), 1);
    op_normal(in, heads(in, "v", 2 * c->pad, c->B, c->S, c->Nkv, value_dim(c)), 1);
    optional_inputs(in, c, c->S, c->S);
    heads(in, "o", 3 * c->pad, c->B, c->S, c->Nh, value_dim(c));
    op_operand *lse = op_rows(op_tensor(in, "lse", OP_W, 0, OP_SHAPE(c->B * c->S, c->Nh)), 0);
    lse->row_unit = c->S;
    run_forward(in, c);
    op_normal(in, heads(in, "dout", c->pad, c->B, c->S, c->Nh, value_dim(c)), 1);
    heads(in, "dq", c->pad, c->B, c->S, c->Nh, c->D);
    heads(in, "dk", c->pad, c->B, c->S, c->Nkv, c->D);
    heads(in, "dv", 4 * c->pad, c->B, c->S, c->Nkv, value_dim(c));
}

static void cut_attention_backward(op_instance *in, int64_t first, int64_t n)
{
    (void)first;
    OP_ARGS(in, attention_backward)->B = (int32_t)n;
}

static const op_case attention_backward_cases[] = {
    {.B = 2, .S = 3, .Nh = 2, .Nkv = 1, .D = 4, .mode = DOCS},
    {.B = 2, .S = 3, .Nh = 2, .Nkv = 1, .D = 4},
    {.B = 0, .S = 3, .Nh = 2, .Nkv = 1, .D = 4},
    {.B = 2, .S = 0, .Nh = 2, .Nkv = 1, .D = 4},
    {.B = 1, .S = 1, .Nh = 1, .Nkv = 1, .D = 2},
    {.B = 3, .S = 17, .Nh = 4, .Nkv = 4, .D = 10, .pad = 5},
    {.B = 2, .S = 40, .Nh = 6, .Nkv = 2, .D = 16, .pad = 16, .mode = DOCS},
    {.B = 1, .S = 64, .Nh = 2, .Nkv = 1, .D = 64},
    {.B = 2, .S = 129, .Nh = 2, .Nkv = 2, .D = 24, .mode = DOCS},
    {.B = 2, .S = 70, .Nh = 2, .Nkv = 1, .D = 80, .pad = 8, .mode = DOCS},
    {.B = 2, .S = 300, .Nh = 4, .Nkv = 2, .D = 64, .pad = 256},
    {.B = 2, .S = 3, .Nh = 2, .Nkv = 1, .D = 6, .N = 2},
    {.B = 2, .S = 70, .Nh = 2, .Nkv = 2, .D = 48, .N = 32, .pad = 16, .mode = DOCS},
    {.B = 1, .S = 40, .Nh = 2, .Nkv = 1, .D = 24, .N = 80},
    {.B = 1, .S = 40, .Nh = 2, .Nkv = 2, .D = 192, .N = 128},
    {.B = 1, .S = 5, .Nh = 1, .Nkv = 1, .D = 60},
    {.B = 1, .S = 5, .Nh = 1, .Nkv = 1, .D = 72},
};

static const op_test tests[] = {
    {.op = SY_OP_attention,
     .build = build_attention,
     OP_CASES(attention_cases),
     .cut = cut_attention,
     .tol = {.f32 = 1e-5, .bf16 = 1.2e-2, .bf16_wide = 1e-4}},
    {.op = SY_OP_attention_backward,
     .build = build_attention_backward,
     OP_CASES(attention_backward_cases),
     .cut = cut_attention_backward,
     /* cuDNN rounds each head's dk and dv before it sums those of a group */
     .tol = {.f32 = 2e-5, .bf16 = 2e-2, .bf16_cudnn = 4e-2, .floor = 1e-2}},
};
OP_GROUP_DEFINE(attention, tests);

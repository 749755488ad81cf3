/* Backward ops against central differences on ref: the ops of a block. The loss is <dy, y(x)> with
   random dy, so the gradient of x is what the backward op makes of dy. */
#include <math.h>
#include <stdio.h>

#include "core/rng.h"
#include "tests/ops/op_test.h"

void op_fd_check(op_runner *runner, const char *what, double (*loss)(void *ctx), void *ctx,
                 double *x, int64_t n, const double *grad)
{
    double worst = 0, worst_fd = 0;
    int64_t worst_at = 0;
    for (int64_t i = 0; i < n; i++) {
        const double kept = x[i], h = 1e-5;
        x[i] = kept + h;
        const double above = loss(ctx);
        x[i] = kept - h;
        const double below = loss(ctx);
        x[i] = kept;
        const double fd = (above - below) / (2 * h);
        const double error = fabs(fd - grad[i]) / (1 + fabs(fd));
        if (!(error <= worst)) { /* NaN too */
            worst = error;
            worst_fd = fd;
            worst_at = i;
        }
    }
    op_verdict(runner, worst < 1e-8, "gradient of %s: element %lld is %.12g, the slope is %.12g",
               what, (long long)worst_at, grad[worst_at], worst_fd);
}

/* ---- a forward op as a loss ---- */

typedef struct forward {
    sy_stream *stream;
    sy_op op;
    const void *args;
    const double *y, *dy;
    int64_t n;
} forward;

static double loss_of(void *ctx)
{
    const forward *f = ctx;
    double loss = 0;
    op_must(op_call(f->op, f->stream, f->args));
    for (int64_t i = 0; i < f->n; i++) {
        loss += f->dy[i] * f->y[i];
    }
    return loss;
}

static void fill(double *x, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++) {
        x[i] = sy_rng_normal(seed, SY_RNG_TEST, (uint64_t)i);
    }
}

static sy_tensor vec(double *x, int64_t n)
{
    return sy_tensor_1d(x, SY_F64, n);
}
static sy_tensor mat(double *x, int64_t n0, int64_t n1)
{
    return sy_tensor_2d(x, SY_F64, n0, n1);
}
static sy_tensor cube(double *x, int64_t n0, int64_t n1, int64_t n2)
{
    return sy_tensor_3d(x, SY_F64, n0, n1, n2);
}

/* ---- ops ---- */

static void grad_rmsnorm(op_runner *runner)
{
    enum { T = 3, G = 2, D = 5, N = T * G * D };
    double x[N], w[D], y[N], rstd[T * G], dy[N], dx[N], before[N], dw[D] = {0};
    fill(x, N, 1);
    fill(w, D, 2);
    fill(dy, N, 3);
    fill(before, N, 4);
    memcpy(dx, before, sizeof dx);
    sy_rmsnorm_args args = {.x = cube(x, T, G, D),
                            .w = vec(w, D),
                            .y = cube(y, T, G, D),
                            .rstd = mat(rstd, T, G),
                            .eps = 0.1};
    op_must(sy_rmsnorm(runner->ref_stream, &args));
    op_must(
        sy_rmsnorm_backward(runner->ref_stream, &(sy_rmsnorm_backward_args){.x = args.x,
                                                                            .w = args.w,
                                                                            .rstd = args.rstd,
                                                                            .dy = cube(dy, T, G, D),
                                                                            .dx = cube(dx, T, G, D),
                                                                            .dw = vec(dw, D),
                                                                            .beta = 1}));
    for (int64_t i = 0; i < N; i++) {
        dx[i] -= before[i];
    }
    forward f = {runner->ref_stream, SY_OP_rmsnorm, &args, y, dy, N};
    op_fd_check(runner, "rmsnorm: x", loss_of, &f, x, N, dx);
    op_fd_check(runner, "rmsnorm: w", loss_of, &f, w, D, dw);
}

static void grad_rope(op_runner *runner)
{
    enum { T = 3, H = 2, D = 6, P = 4, N = T * H * D };
    double x[N], y[N], dy[N], dx[N], table[P * D];
    int32_t pos[T] = {3, 0, 2};
    fill(dy, N, 2);
    for (int64_t i = 0; i < P * D; i++) {
        const double angle = 0.7 * (double)(i / D) / (double)(1 + i % (D / 2));
        table[i] = i % D < D / 2 ? cos(angle) : sin(angle);
    }
    sy_rope_args args = {.x = cube(dx, T, H, D),
                         .pos = sy_tensor_1d(pos, SY_I32, T),
                         .table = mat(table, P, D),
                         .inverse = true};
    memcpy(dx, dy, sizeof dx);
    op_must(sy_rope(runner->ref_stream, &args)); /* backward */
    args.x = cube(y, T, H, D);
    args.inverse = false;
    /* The op is linear and in place, so the slope in x[i] is its answer to the unit vector i. */
    for (int64_t i = 0; i < N; i++) {
        memset(y, 0, sizeof y);
        y[i] = 1;
        op_must(sy_rope(runner->ref_stream, &args));
        x[i] = 0;
        for (int64_t k = 0; k < N; k++) {
            x[i] += dy[k] * y[k];
        }
        op_verdict(runner, fabs(x[i] - dx[i]) < 1e-12,
                   "gradient of rope: element %lld is %.12g, the slope is %.12g", (long long)i,
                   dx[i], x[i]);
    }
}

/* Two sequences of 5 tokens, 4 query heads on 2 key/value heads, documents or one. */
static void grad_attention(op_runner *runner, const char *what, int32_t *doc)
{
    enum { B = 2, S = 5, NH = 4, NKV = 2, D = 3, R = B * S, NQ = R * NH * D, NK = R * NKV * D };
    double q[NQ], k[NK], v[NK], o[NQ], lse[R * NH], dout[NQ], dq[NQ], dk[NK], dv[NK];
    char name[64];
    fill(q, NQ, 1);
    fill(k, NK, 2);
    fill(v, NK, 3);
    fill(dout, NQ, 4);
    sy_attention_args args = {.q = cube(q, R, NH, D),
                              .k = cube(k, R, NKV, D),
                              .v = cube(v, R, NKV, D),
                              .doc = sy_tensor_1d(doc, SY_I32, R),
                              .o = cube(o, R, NH, D),
                              .lse = mat(lse, R, NH),
                              .B = B,
                              .scale = 0.6};
    op_must(sy_attention(runner->ref_stream, &args));
    op_must(sy_attention_backward(runner->ref_stream,
                                  &(sy_attention_backward_args){.q = args.q,
                                                                .k = args.k,
                                                                .v = args.v,
                                                                .doc = args.doc,
                                                                .o = args.o,
                                                                .lse = args.lse,
                                                                .dout = cube(dout, R, NH, D),
                                                                .dq = cube(dq, R, NH, D),
                                                                .dk = cube(dk, R, NKV, D),
                                                                .dv = cube(dv, R, NKV, D),
                                                                .B = B,
                                                                .scale = 0.6}));
    forward f = {runner->ref_stream, SY_OP_attention, &args, o, dout, NQ};
    snprintf(name, sizeof name, "attention (%s): q", what);
    op_fd_check(runner, name, loss_of, &f, q, NQ, dq);
    snprintf(name, sizeof name, "attention (%s): k", what);
    op_fd_check(runner, name, loss_of, &f, k, NK, dk);
    snprintf(name, sizeof name, "attention (%s): v", what);
    op_fd_check(runner, name, loss_of, &f, v, NK, dv);
}

/* A query sees nothing of the future nor of another document: changing those keys changes no bit of
 * its output. */
static void mask_attention(op_runner *runner)
{
    enum { S = 5, D = 3 };
    double q[S * D], k[S * D], v[S * D], o[S * D], lse[S], before[S * D];
    int32_t doc[S] = {0, 0, 1, 1, 1};
    fill(q, S * D, 1);
    fill(k, S * D, 2);
    fill(v, S * D, 3);
    sy_attention_args args = {.q = cube(q, S, 1, D),
                              .k = cube(k, S, 1, D),
                              .v = cube(v, S, 1, D),
                              .doc = sy_tensor_1d(doc, SY_I32, S),
                              .o = cube(o, S, 1, D),
                              .lse = mat(lse, S, 1),
                              .B = 1,
                              .scale = 1};
    for (int64_t j = 0; j < S; j++) {
        op_must(sy_attention(runner->ref_stream, &args));
        memcpy(before, o, sizeof o);
        k[j * D] += 1;
        v[j * D] += 1;
        op_must(sy_attention(runner->ref_stream, &args));
        for (int64_t i = 0; i < S; i++) {
            const bool changed = memcmp(o + i * D, before + i * D, D * sizeof *o) != 0;
            op_verdict(runner, changed == (j <= i && doc[i] == doc[j]),
                       "attention: query %lld %s key %lld", (long long)i,
                       changed ? "sees" : "does not see", (long long)j);
        }
    }
}

typedef struct weighted_swiglu {
    sy_stream *stream;
    sy_swiglu_backward_args args;
} weighted_swiglu;

/* Weighted rows: the loss is sum_r w_r <dy_r, a_r>, so dot is its slope in w. */
static double loss_of_swiglu(void *ctx)
{
    const weighted_swiglu *w = ctx;
    const sy_swiglu_backward_args *args = &w->args;
    const int64_t R = args->dy.shape[0], F = args->dy.shape[1];
    double a[64], loss = 0;
    op_must(sy_swiglu(w->stream, &(sy_swiglu_args){.x = args->x, .y = mat(a, R, F)}));
    for (int64_t i = 0; i < R * F; i++) {
        loss += ((double *)args->weight.data)[i / F] * ((double *)args->dy.data)[i] * a[i];
    }
    return loss;
}

static void grad_swiglu(op_runner *runner)
{
    enum { R = 3, F = 4 };
    double x[R * 2 * F], dy[R * F], weight[R], dx[R * 2 * F], wa[R * F], dot[R], a[R * F];
    fill(x, R * 2 * F, 1);
    fill(dy, R * F, 2);
    fill(weight, R, 3);
    weighted_swiglu ctx = {runner->ref_stream,
                           {.x = mat(x, R, 2 * F),
                            .dy = mat(dy, R, F),
                            .weight = vec(weight, R),
                            .dx = mat(dx, R, 2 * F),
                            .wa = mat(wa, R, F),
                            .dot = vec(dot, R)}};
    op_must(sy_swiglu_backward(runner->ref_stream, &ctx.args));
    op_fd_check(runner, "swiglu: x", loss_of_swiglu, &ctx, x, R * 2 * F, dx);
    op_fd_check(runner, "swiglu: weight (dot)", loss_of_swiglu, &ctx, weight, R, dot);
    op_must(sy_swiglu(runner->ref_stream, &(sy_swiglu_args){.x = ctx.args.x, .y = mat(a, R, F)}));
    for (int64_t i = 0; i < R * F; i++) {
        op_verdict(runner, fabs(wa[i] - weight[i / F] * a[i]) < 1e-14,
                   "swiglu_backward: wa is not weight times a");
    }
}

typedef struct weighted_act {
    sy_stream *stream;
    sy_activation_backward_args args;
} weighted_act;

static double loss_of_act(void *ctx)
{
    const weighted_act *w = ctx;
    const sy_activation_backward_args *args = &w->args;
    const int64_t R = args->dy.shape[0], F = args->dy.shape[1];
    double a[64], loss = 0;
    op_must(sy_activation(
        w->stream, &(sy_activation_args){.x = args->x, .y = mat(a, R, F), .act = args->act}));
    for (int64_t i = 0; i < R * F; i++) {
        loss += ((double *)args->weight.data)[i / F] * ((double *)args->dy.data)[i] * a[i];
    }
    return loss;
}

static void grad_activation(op_runner *runner)
{
    enum { R = 3, F = 4, MOST = 3 };
    double x[R * MOST * F], dy[R * F], weight[R], dx[R * MOST * F], wa[R * F], dot[R];
    for (sy_act act = SY_ACT_GEGLU; act <= SY_ACT_SWIGLU_LINEAR; act++) {
        const int64_t P = sy_act_parts(act);
        fill(x, R * P * F, 1);
        fill(dy, R * F, 2);
        fill(weight, R, 3);
        weighted_act ctx = {runner->ref_stream,
                            {.x = mat(x, R, P * F),
                             .dy = mat(dy, R, F),
                             .weight = vec(weight, R),
                             .dx = mat(dx, R, P * F),
                             .wa = mat(wa, R, F),
                             .dot = vec(dot, R),
                             .act = act}};
        op_must(sy_activation_backward(runner->ref_stream, &ctx.args));
        op_fd_check(runner, "activation: x", loss_of_act, &ctx, x, R * P * F, dx);
        op_fd_check(runner, "activation: weight (dot)", loss_of_act, &ctx, weight, R, dot);
    }
}

static void grad_gate(op_runner *runner)
{
    enum { T = 3, H = 4, N = T * H };
    double x[N], s[T], y[N], dy[N], dx[N], ds[T];
    fill(x, N, 1);
    fill(s, T, 2);
    fill(dy, N, 3);
    sy_gate_args args = {.x = mat(x, T, H), .s = vec(s, T), .y = mat(y, T, H)};
    op_must(sy_gate_backward(
        runner->ref_stream,
        &(sy_gate_backward_args){
            .x = args.x, .s = args.s, .dy = mat(dy, T, H), .dx = mat(dx, T, H), .ds = vec(ds, T)}));
    forward f = {runner->ref_stream, SY_OP_gate, &args, y, dy, N};
    op_fd_check(runner, "gate: x", loss_of, &f, x, N, dx);
    op_fd_check(runner, "gate: s", loss_of, &f, s, T, ds);
}

static void grad_embed(op_runner *runner)
{
    enum { V = 5, H = 3, T = 6 };
    double w[V * H], y[T * H], dy[T * H], dw[V * H] = {0};
    int32_t ids[T] = {4, 0, 2, 4, 4, 2};
    fill(w, V * H, 1);
    fill(dy, T * H, 2);
    sy_embed_args args = {
        .w = mat(w, V, H), .ids = sy_tensor_1d(ids, SY_I32, T), .y = mat(y, T, H)};
    op_must(sy_embed_backward(
        runner->ref_stream,
        &(sy_embed_backward_args){.ids = args.ids, .dy = mat(dy, T, H), .dw = mat(dw, V, H)}));
    forward f = {runner->ref_stream, SY_OP_embed, &args, y, dy, T * H};
    op_fd_check(runner, "embed: w", loss_of, &f, w, V * H, dw);
}

typedef struct with_z {
    sy_stream *stream;
    const sy_xent_args *args;
    const double *upstream;
} with_z;

static double loss_with_z(void *ctx)
{
    const with_z *w = ctx;
    const double *nll = w->args->nll.data, *lse = w->args->lse.data;
    double loss = 0;
    op_must(sy_xent(w->stream, w->args));
    for (int64_t i = 0; i < w->args->logits.shape[0]; i++) {
        loss += w->upstream[i] * (nll[i] + w->args->z_coeff * lse[i] * lse[i]);
    }
    return loss;
}

static void grad_xent(op_runner *runner)
{
    enum { N = 4, V = 5 };
    double logits[N * V], nll[N], dlogits[N * V], upstream[N];
    int32_t targets[N] = {3, -1, 0, 4};
    float loss_weight[N] = {1, 2, 0.5F, 3};
    fill(logits, N * V, 1);
    sy_xent_args args = {.logits = mat(logits, N, V),
                         .targets = sy_tensor_1d(targets, SY_I32, N),
                         .loss_weight = sy_tensor_1d(loss_weight, SY_F32, N),
                         .nll = vec(nll, N),
                         .dlogits = mat(dlogits, N, V),
                         .grad_scale = 0.25};
    double grad[N * V];
    op_must(sy_xent(runner->ref_stream, &args));
    memcpy(grad, dlogits, sizeof grad);
    for (int64_t i = 0; i < N; i++) {
        upstream[i] = 0.25 * loss_weight[i];
    }
    forward f = {runner->ref_stream, SY_OP_xent, &args, nll, upstream, N};
    op_fd_check(runner, "xent: logits", loss_of, &f, logits, N * V, grad);
    double lse[N];
    args.lse = vec(lse, N);
    args.z_coeff = 0.3;
    op_must(sy_xent(runner->ref_stream, &args));
    memcpy(grad, dlogits, sizeof grad);
    with_z z = {runner->ref_stream, &args, upstream};
    op_fd_check(runner, "xent: logits, with z_coeff", loss_with_z, &z, logits, N * V, grad);
}

/* dgrad and wgrad of c = a b^T are gemms of other forms. */
static void grad_gemm(op_runner *runner)
{
    enum { M = 3, N = 4, K = 5 };
    double a[M * K], b[N * K], c[M * N], dc[M * N], da[M * K], db[N * K];
    sy_stream *stream = runner->ref_stream;
    fill(a, M * K, 1);
    fill(b, N * K, 2);
    fill(dc, M * N, 3);
    sy_gemm_args args = {
        .a = mat(a, M, K), .b = mat(b, N, K), .c = mat(c, M, N), .trans_b = true, .alpha = 0.5};
    op_must(sy_gemm(
        stream,
        &(sy_gemm_args){.a = mat(dc, M, N), .b = args.b, .c = mat(da, M, K), .alpha = 0.5}));
    op_must(sy_gemm(
        stream,
        &(sy_gemm_args){
            .a = mat(dc, M, N), .b = args.a, .c = mat(db, N, K), .trans_a = true, .alpha = 0.5}));
    forward f = {stream, SY_OP_gemm, &args, c, dc, M * N};
    op_fd_check(runner, "gemm: a", loss_of, &f, a, M * K, da);
    op_fd_check(runner, "gemm: b", loss_of, &f, b, N * K, db);
}

static void grad_grouped_gemm(op_runner *runner)
{
    enum { G = 3, R = 6, N = 2, K = 4 };
    double a[R * K], b[G * N * K], c[R * N], dc[R * N], da[R * K], db[G * N * K] = {0};
    int32_t start[G + 1] = {0, 2, 2, 6};
    const sy_tensor borders = sy_tensor_1d(start, SY_I32, G + 1);
    sy_stream *stream = runner->ref_stream;
    fill(a, R * K, 1);
    fill(b, G * N * K, 2);
    fill(dc, R * N, 3);
    sy_grouped_gemm_args args = {.a = mat(a, R, K),
                                 .b = cube(b, G, N, K),
                                 .c = mat(c, R, N),
                                 .start = borders,
                                 .form = SY_GROUPED_NT};
    op_must(sy_grouped_gemm(stream, &(sy_grouped_gemm_args){.a = mat(dc, R, N),
                                                            .b = args.b,
                                                            .c = mat(da, R, K),
                                                            .start = borders,
                                                            .form = SY_GROUPED_NN}));
    op_must(sy_grouped_gemm(stream, &(sy_grouped_gemm_args){.a = mat(dc, R, N),
                                                            .b = args.a,
                                                            .c = cube(db, G, N, K),
                                                            .start = borders,
                                                            .form = SY_GROUPED_TN,
                                                            .beta = 1}));
    forward f = {stream, SY_OP_grouped_gemm, &args, c, dc, R * N};
    op_fd_check(runner, "grouped_gemm: a", loss_of, &f, a, R * K, da);
    op_fd_check(runner, "grouped_gemm: b", loss_of, &f, b, G * N * K, db);
}

void op_grad_model(op_runner *runner)
{
    int32_t doc[10] = {0, 0, 1, 1, 1, 0, 1, 1, 2, 2};
    grad_rmsnorm(runner);
    grad_rope(runner);
    grad_attention(runner, "causal", NULL);
    grad_attention(runner, "documents", doc);
    mask_attention(runner);
    grad_swiglu(runner);
    grad_activation(runner);
    grad_gate(runner);
    grad_embed(runner);
    grad_xent(runner);
    grad_gemm(runner);
    grad_grouped_gemm(runner);
}

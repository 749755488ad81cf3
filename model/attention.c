#include "model/attention.h"

#include <math.h>
#include <stdio.h>

#include "core/alloc.h"
#include "model/kv.h"
#include "model/rope.h"

typedef struct attention {
    const sy_model_config *config;
    int64_t n_q, n_kv; /* N_h * D, N_kv * D */
    sy_param *qkv, *bias, *q_norm, *k_norm, *o;
    sy_sublayer on[2]; /* what keys and values pass through; ops NULL: nothing */
} attention;

typedef struct attention_saved {
    sy_tensor qkv; /* [T, n_q + 2 n_kv]; where there is a norm, as that saw q and k */
    sy_tensor qk;  /* [T, n_q + n_kv] rotated, as attention saw them: columns of qkv, or normed */
    sy_tensor rstd_q, rstd_k; /* [T, G] wide */
    sy_tensor out, lse;       /* [T, n_q]; [T, N_h] wide */
    sy_tensor in[2];          /* [T, n_kv] what on[i] read */
    void *on[2];
} attention_saved;

typedef struct qkv_view {
    sy_tensor q, k, v;
} qkv_view;

/* q and k of a matrix that begins with them, v of a [T, n_q + 2 n_kv] one. */
static qkv_view split(const attention *at, const sy_tensor *qk, const sy_tensor *qkv)
{
    return (qkv_view){.q = sy_tensor_cols(qk, 0, at->n_q),
                      .k = sy_tensor_cols(qk, at->n_q, at->n_kv),
                      .v = sy_tensor_cols(qkv, at->n_q + at->n_kv, at->n_kv)};
}

static sy_status declare_norm(sy_params *params, const char *prefix, const char *name, int64_t n,
                              sy_param **out)
{
    const sy_param_spec spec = sy_param_vector(n, SY_INIT_ONES, "%s/attn/%s", prefix, name);
    return sy_params_declare(params, &spec, out);
}

/* One parameter of three pieces: <prefix>/attn/q<suffix>, k, v. */
static sy_status declare_qkv(attention *at, const char *prefix, const char *suffix,
                             sy_param_spec spec, sy_params *params, sy_param **out)
{
    const char *part[3] = {"q", "k", "v"};
    int64_t extent[3] = {at->n_q, at->n_kv, at->n_kv};
    spec.n_pieces = 3;
    for (int32_t i = 0; i < 3; i++) {
        snprintf(spec.piece[i].name, sizeof spec.piece[i].name, "%s/attn/%s%s", prefix, part[i],
                 suffix);
        spec.piece[i].extent = extent[i];
    }
    return sy_params_declare(params, &spec, out);
}

static sy_status attention_declare(void *self, const char *prefix, sy_params *params)
{
    sy_status st = SY_OK;
    attention *at = self;
    const sy_model_config *c = at->config;
    const int64_t n_qkv = at->n_q + 2 * at->n_kv;
    const sy_param_spec qkv = sy_param_matrix(n_qkv, c->hidden, c->init_std, "%s/attn/qkv", prefix);
    const sy_param_spec bias = sy_param_vector(n_qkv, SY_INIT_ZEROS, "%s/attn/qkv_bias", prefix);
    const sy_param_spec o = sy_param_matrix(c->hidden, at->n_q, c->init_std / sqrt(2.0 * c->layers),
                                            "%s/attn/o", prefix);

    SY_TRY(declare_qkv(at, prefix, "", qkv, params, &at->qkv));
    if (c->attention_bias) {
        SY_TRY(declare_qkv(at, prefix, "_bias", bias, params, &at->bias));
    }
    if (c->qk_norm != SY_QK_NORM_NONE) {
        const bool head = c->qk_norm == SY_QK_NORM_HEAD;
        SY_TRY(declare_norm(params, prefix, "q_norm", head ? c->head_dim : at->n_q, &at->q_norm));
        SY_TRY(declare_norm(params, prefix, "k_norm", head ? c->head_dim : at->n_kv, &at->k_norm));
    }
    SY_TRY(sy_params_declare(params, &o, &at->o));
    for (int32_t i = 0; i < 2; i++) {
        SY_TRY(at->on[i].ops == NULL ? SY_OK
                                     : at->on[i].ops->declare(at->on[i].self, prefix, params));
    }
cleanup:
    return st;
}

/* Keys (i = 0) or values through their sublayer, in place; what it reads is copied out first. */
static sy_status pass_on(attention *at, sy_pass *p, sy_arena *arena, int32_t i,
                         const sy_tensor *part, attention_saved *s)
{
    sy_status st = SY_OK;
    const sy_sublayer *sub = &at->on[i];
    const int64_t T = part->shape[0];
    sy_tensor out;
    if (sub->ops == NULL) {
        return SY_OK;
    }
    SY_TRY(sy_arena_2d(arena, p->compute, T, at->n_kv, &s->in[i]));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, at->n_kv, &out));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = *part, .y = s->in[i]}));
    SY_TRY(
        sub->ops->forward(sub->self, p, &s->in[i], &out, arena == p->scratch ? NULL : &s->on[i]));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = out, .y = *part}));
cleanup:
    return st;
}

/* The gradient of what came out becomes that of what went in. */
static sy_status pass_back(attention *at, sy_pass *p, int32_t i, const attention_saved *s,
                           const sy_tensor *d)
{
    sy_status st = SY_OK;
    const sy_sublayer *sub = &at->on[i];
    const int64_t mark = sy_arena_mark(p->scratch), T = d->shape[0];
    sy_tensor dy, dx;
    if (sub->ops == NULL) {
        return SY_OK;
    }
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, at->n_kv, &dy));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, at->n_kv, &dx));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = *d, .y = dy}));
    SY_TRY(sub->ops->backward(sub->self, p, s->on[i], &s->in[i], &dy, &dx));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = dx, .y = *d}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* Rows per token of the norm of q or k. */
static int64_t groups(const attention *at, int64_t heads)
{
    return at->config->qk_norm == SY_QK_NORM_HEAD ? heads : 1;
}

/* y = norm(x), one of q, k. */
static sy_status norm_part(attention *at, sy_pass *p, sy_arena *arena, const sy_param *w,
                           int64_t heads, const sy_tensor *x, const sy_tensor *y, sy_tensor *rstd)
{
    sy_status st = SY_OK;
    const int64_t G = groups(at, heads);
    SY_TRY(sy_arena_2d(arena, p->wide, x->shape[0], G, rstd));
    SY_TRY(sy_rmsnorm(p->stream, &(sy_rmsnorm_args){.x = sy_tensor_heads(x, G),
                                                    .w = w->value,
                                                    .y = sy_tensor_heads(y, G),
                                                    .rstd = *rstd,
                                                    .eps = at->config->norm_eps}));
cleanup:
    return st;
}

/* q and k, the first columns of x, at once. */
static sy_status rotate(const attention *at, sy_pass *p, const sy_tensor *x, bool inverse)
{
    const sy_model_config *c = at->config;
    const sy_tensor qk = sy_tensor_cols(x, 0, at->n_q + at->n_kv);
    return sy_rope(p->stream, &(sy_rope_args){.x = sy_tensor_heads(&qk, c->heads + c->kv_heads),
                                              .pos = p->batch->pos,
                                              .table = p->rope,
                                              .inverse = inverse,
                                              .interleaved = c->rope_interleaved});
}

/* qkv = x W^T + b; qk = rotate(norm(q and k of it)). */
static sy_status project(attention *at, sy_pass *p, sy_arena *arena, const sy_tensor *x,
                         attention_saved *s)
{
    sy_status st = SY_OK;
    const sy_model_config *c = at->config;
    qkv_view raw, normed;
    SY_TRY(sy_arena_2d(arena, p->compute, x->shape[0], at->n_q + 2 * at->n_kv, &s->qkv));
    SY_TRY(sy_linear_forward(p, x, &at->qkv->value, &s->qkv));
    if (at->bias != NULL) {
        SY_TRY(sy_add_bias(p->stream, &(sy_add_bias_args){.y = s->qkv, .bias = at->bias->value}));
    }
    raw = split(at, &s->qkv, &s->qkv);
    SY_TRY(pass_on(at, p, arena, 0, &raw.k, s));
    SY_TRY(pass_on(at, p, arena, 1, &raw.v, s));
    s->qk = sy_tensor_cols(&s->qkv, 0, at->n_q + at->n_kv);
    if (at->q_norm != NULL) {
        SY_TRY(sy_arena_2d(arena, p->compute, x->shape[0], at->n_q + at->n_kv, &s->qk));
        normed = split(at, &s->qk, &s->qkv);
        SY_TRY(norm_part(at, p, arena, at->q_norm, c->heads, &raw.q, &normed.q, &s->rstd_q));
        SY_TRY(norm_part(at, p, arena, at->k_norm, c->kv_heads, &raw.k, &normed.k, &s->rstd_k));
    }
    SY_TRY(rotate(at, p, &s->qk, false));
cleanup:
    return st;
}

static sy_status attend(attention *at, sy_pass *p, const attention_saved *s)
{
    sy_status st = SY_OK;
    const sy_model_config *c = at->config;
    qkv_view view = split(at, &s->qk, &s->qkv);
    sy_attention_args args = {.q = sy_tensor_heads(&view.q, c->heads),
                              .doc = p->batch->doc,
                              .o = sy_tensor_heads(&s->out, c->heads),
                              .lse = s->lse,
                              .B = p->batch->B,
                              .scale = sy_score_scale(c)};
    if (p->kind == SY_PASS_DECODE && p->batch->T > 0) {
        sy_tensor k_all, v_all;
        SY_TRY(sy_kv_append(p->kv, p, &view.k, &view.v, &k_all, &v_all, &args.q_start));
        args.k = sy_tensor_heads(&k_all, c->kv_heads);
        args.v = sy_tensor_heads(&v_all, c->kv_heads);
        args.doc = sy_tensor_none();
    } else {
        args.k = sy_tensor_heads(&view.k, c->kv_heads);
        args.v = sy_tensor_heads(&view.v, c->kv_heads);
    }
    SY_TRY(sy_attention(p->stream, &args));
cleanup:
    return st;
}

static sy_status attention_forward(void *self, sy_pass *p, const sy_tensor *x, sy_tensor *y,
                                   void **saved)
{
    sy_status st = SY_OK;
    attention *at = self;
    sy_arena *arena = saved != NULL ? p->saved : p->scratch;
    int64_t mark = sy_arena_mark(p->scratch);
    attention_saved *s = saved != NULL ? *saved : NULL;

    if (s == NULL) {
        SY_TRY(sy_host_arena_alloc(p->host, sizeof *s, (void **)&s));
    }
    SY_TRY(project(at, p, arena, x, s));
    SY_TRY(sy_arena_2d(arena, p->compute, x->shape[0], at->n_q, &s->out));
    SY_TRY(sy_arena_2d(arena, p->wide, x->shape[0], at->config->heads, &s->lse));
    SY_TRY(attend(at, p, s));
    SY_TRY(sy_linear_forward(p, &s->out, &at->o->value, y));
    if (saved != NULL) {
        *saved = s;
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* Through the norm, in place on one of dq, dk. */
static sy_status norm_part_backward(attention *at, sy_pass *p, const sy_param *w, int64_t heads,
                                    const sy_tensor *x, const sy_tensor *rstd, const sy_tensor *d)
{
    const int64_t G = groups(at, heads);
    const sy_tensor view = sy_tensor_heads(d, G);
    return sy_rmsnorm_backward(p->stream, &(sy_rmsnorm_backward_args){.x = sy_tensor_heads(x, G),
                                                                      .w = w->value,
                                                                      .rstd = *rstd,
                                                                      .dy = view,
                                                                      .dx = view,
                                                                      .dw = w->grad});
}

static sy_status attention_grad(attention *at, sy_pass *p, const attention_saved *s,
                                const sy_tensor *dout, const sy_tensor *dqkv)
{
    const sy_model_config *c = at->config;
    qkv_view x = split(at, &s->qk, &s->qkv), d = split(at, dqkv, dqkv);
    return sy_attention_backward(
        p->stream, &(sy_attention_backward_args){.q = sy_tensor_heads(&x.q, c->heads),
                                                 .k = sy_tensor_heads(&x.k, c->kv_heads),
                                                 .v = sy_tensor_heads(&x.v, c->kv_heads),
                                                 .doc = p->batch->doc,
                                                 .o = sy_tensor_heads(&s->out, c->heads),
                                                 .lse = s->lse,
                                                 .dout = sy_tensor_heads(dout, c->heads),
                                                 .dq = sy_tensor_heads(&d.q, c->heads),
                                                 .dk = sy_tensor_heads(&d.k, c->kv_heads),
                                                 .dv = sy_tensor_heads(&d.v, c->kv_heads),
                                                 .B = p->batch->B,
                                                 .scale = sy_score_scale(c)});
}

static sy_status attention_backward(void *self, sy_pass *p, void *saved, const sy_tensor *x,
                                    const sy_tensor *dy, sy_tensor *dx)
{
    sy_status st = SY_OK;
    attention *at = self;
    const sy_model_config *c = at->config;
    const attention_saved *s = saved;
    int64_t mark = sy_arena_mark(p->scratch), T = x->shape[0];
    sy_tensor dout, dqkv;
    qkv_view d, raw;

    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, at->n_q, &dout));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, at->n_q + 2 * at->n_kv, &dqkv));
    SY_TRY(sy_linear_dgrad(p, dy, &at->o->value, &dout, 0));
    SY_TRY(sy_linear_wgrad(p, dy, &s->out, &at->o->grad));
    SY_TRY(attention_grad(at, p, s, &dout, &dqkv));
    SY_TRY(rotate(at, p, &dqkv, true));
    d = split(at, &dqkv, &dqkv);
    if (at->q_norm != NULL) {
        raw = split(at, &s->qkv, &s->qkv);
        SY_TRY(norm_part_backward(at, p, at->q_norm, c->heads, &raw.q, &s->rstd_q, &d.q));
        SY_TRY(norm_part_backward(at, p, at->k_norm, c->kv_heads, &raw.k, &s->rstd_k, &d.k));
    }
    SY_TRY(pass_back(at, p, 0, s, &d.k));
    SY_TRY(pass_back(at, p, 1, s, &d.v));
    if (at->bias != NULL && at->bias->grad.data != NULL) {
        SY_TRY(sy_column_sum(p->stream, &(sy_column_sum_args){.x = dqkv, .out = at->bias->grad}));
    }
    if (dx->data != NULL) {
        SY_TRY(sy_linear_dgrad(p, &dqkv, &at->qkv->value, dx, 0));
    }
    SY_TRY(sy_linear_wgrad(p, &dqkv, x, &at->qkv->grad));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static void attention_destroy(void *self)
{
    attention *at = self;
    for (int32_t i = 0; i < 2; i++) {
        if (at->on[i].ops != NULL) {
            at->on[i].ops->destroy(at->on[i].self);
        }
    }
    sy_free(&at);
}

static const sy_sublayer_ops attention_ops = {
    .name = "attention",
    .declare = attention_declare,
    .forward = attention_forward,
    .backward = attention_backward,
    .destroy = attention_destroy,
};

sy_status sy_attention_create(const sy_model_config *config, sy_sublayer *out)
{
    sy_status st = SY_OK;
    attention *at = NULL;
    SY_TRY(sy_alloc(1, sizeof *at, (void **)&at));
    at->config = config;
    at->n_q = (int64_t)config->heads * config->head_dim;
    at->n_kv = (int64_t)config->kv_heads * config->head_dim;
    *out = (sy_sublayer){&attention_ops, at};
cleanup:
    return st;
}

void sy_attention_on_keys(sy_sublayer *attention_sub, sy_sublayer sub)
{
    attention *at = attention_sub->self;
    at->on[0] = sub;
}

void sy_attention_on_values(sy_sublayer *attention_sub, sy_sublayer sub)
{
    attention *at = attention_sub->self;
    at->on[1] = sub;
}

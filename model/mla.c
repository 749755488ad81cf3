#include "model/mla.h"

#include <math.h>
#include <stdio.h>

#include "core/alloc.h"
#include "model/kv.h"
#include "model/rope.h"

typedef struct mla {
    const sy_model_config *config;
    int64_t N, R_q, R_kv, D_n, D_r, D_v;
    sy_param *q_a, *q_a_norm, *q; /* R_q 0: q alone, else it is the second of two */
    sy_param *kv_a, *kv_a_norm, *kv_b, *o;
} mla;

/* A latent and its norm. */
typedef struct latent {
    sy_tensor raw, normed, rstd; /* [T, R]; [T, 1] wide */
} latent;

typedef struct mla_saved {
    latent q_latent, kv_latent;
    sy_tensor kv_a; /* [T, R_kv + D_r]: kv_latent.raw, and the shared key, rotated */
    sy_tensor q, k; /* [T, N (D_n + D_r)], rotated */
    sy_tensor kv;   /* [T, N (D_n + D_v)] */
    sy_tensor out;  /* [T, N D_v] */
    sy_tensor lse;  /* [T, N] wide */
} mla_saved;

/* ---- views ---- */

/* Elements [first, first + n) of every head of x [T, N D]: [T, N, n]. */
static sy_tensor part(const mla *m, const sy_tensor *x, int64_t first, int64_t n)
{
    const sy_tensor heads = sy_tensor_heads(x, m->N);
    return sy_tensor_cols(&heads, first, n);
}

/* Heads [first, first + n) of x [T, N, D]. */
static sy_tensor some_heads(const sy_tensor *x, int64_t first, int64_t n)
{
    sy_tensor y = *x;
    y.data = (char *)x->data + first * x->stride[1] * (int64_t)sy_dtype_bytes(x->dtype);
    y.shape[1] = n;
    return y;
}

/* ---- parameters ---- */

static sy_status declare(sy_params *params, const char *prefix, const char *name, int64_t n_out,
                         int64_t n_in, double std, sy_param **out)
{
    const sy_param_spec spec = sy_param_matrix(n_out, n_in, std, "%s/attn/%s", prefix, name);
    return sy_params_declare(params, &spec, out);
}

static sy_status declare_norm(sy_params *params, const char *prefix, const char *name, int64_t n,
                              sy_param **out)
{
    const sy_param_spec spec = sy_param_vector(n, SY_INIT_ONES, "%s/attn/%s", prefix, name);
    return sy_params_declare(params, &spec, out);
}

static sy_status mla_declare(void *self, const char *prefix, sy_params *params)
{
    sy_status st = SY_OK;
    mla *m = self;
    const sy_model_config *c = m->config;
    const int64_t H = c->hidden, n_q = m->N * (m->D_n + m->D_r);
    const double std = c->init_std, o_std = std / sqrt(2.0 * c->layers);

    if (m->R_q > 0) {
        SY_TRY(declare(params, prefix, "q_a", m->R_q, H, std, &m->q_a));
        SY_TRY(declare_norm(params, prefix, "q_a_norm", m->R_q, &m->q_a_norm));
        SY_TRY(declare(params, prefix, "q_b", n_q, m->R_q, std, &m->q));
    } else {
        SY_TRY(declare(params, prefix, "q", n_q, H, std, &m->q));
    }
    SY_TRY(declare(params, prefix, "kv_a", m->R_kv + m->D_r, H, std, &m->kv_a));
    SY_TRY(declare_norm(params, prefix, "kv_a_norm", m->R_kv, &m->kv_a_norm));
    SY_TRY(declare(params, prefix, "kv_b", m->N * (m->D_n + m->D_v), m->R_kv, std, &m->kv_b));
    SY_TRY(declare(params, prefix, "o", H, m->N * m->D_v, o_std, &m->o));
cleanup:
    return st;
}

/* ---- parts of both directions ---- */

static sy_status rotate(const mla *m, sy_pass *p, const sy_tensor *x, bool inverse)
{
    return sy_rope(p->stream, &(sy_rope_args){.x = *x,
                                              .pos = p->batch->pos,
                                              .table = p->rope,
                                              .inverse = inverse,
                                              .interleaved = m->config->rope_interleaved});
}

/* x[t, h] = x[t, 0] for all heads: twice as many in each turn. */
static sy_status spread(sy_pass *p, const sy_tensor *x)
{
    sy_status st = SY_OK;
    const int64_t N = x->shape[1];
    for (int64_t done = 1, n = 0; done < N; done += n) {
        n = done < N - done ? done : N - done;
        SY_TRY(sy_cast(p->stream,
                       &(sy_cast_args){.x = some_heads(x, 0, n), .y = some_heads(x, done, n)}));
    }
cleanup:
    return st;
}

/* x[t, 0] = sum over heads of x[t, h]: half as many in each turn. The others are not needed. */
static sy_status fold(sy_pass *p, const sy_tensor *x)
{
    sy_status st = SY_OK;
    for (int64_t left = x->shape[1]; left > 1; left -= left / 2) {
        const int64_t n = left / 2;
        const sy_tensor to = some_heads(x, 0, n), from = some_heads(x, left - n, n);
        SY_TRY(sy_add(p->stream, &(sy_add_args){.a = to, .b = from, .y = to}));
    }
cleanup:
    return st;
}

static sy_status normalise(const mla *m, sy_pass *p, sy_arena *arena, const sy_param *w, latent *l)
{
    sy_status st = SY_OK;
    const int64_t T = l->raw.shape[0];
    SY_TRY(sy_arena_2d(arena, p->compute, T, l->raw.shape[1], &l->normed));
    SY_TRY(sy_arena_2d(arena, p->wide, T, 1, &l->rstd));
    SY_TRY(sy_rmsnorm(p->stream, &(sy_rmsnorm_args){.x = sy_tensor_heads(&l->raw, 1),
                                                    .w = w->value,
                                                    .y = sy_tensor_heads(&l->normed, 1),
                                                    .rstd = l->rstd,
                                                    .eps = m->config->norm_eps}));
cleanup:
    return st;
}

/* dx = d/dx of the norm, from d = W^T dy; the gradient of the norm's weight. */
static sy_status normalise_backward(sy_pass *p, const sy_param *w, const latent *l,
                                    const sy_tensor *d, const sy_tensor *dx)
{
    return sy_rmsnorm_backward(p->stream,
                               &(sy_rmsnorm_backward_args){.x = sy_tensor_heads(&l->raw, 1),
                                                           .w = w->value,
                                                           .rstd = l->rstd,
                                                           .dy = sy_tensor_heads(d, 1),
                                                           .dx = sy_tensor_heads(dx, 1),
                                                           .dw = w->grad});
}

/* ---- forward ---- */

static sy_status queries(const mla *m, sy_pass *p, sy_arena *arena, const sy_tensor *x,
                         mla_saved *s)
{
    sy_status st = SY_OK;
    const int64_t T = x->shape[0];
    const sy_tensor *in = x;
    sy_tensor turned;
    if (m->R_q > 0) {
        SY_TRY(sy_arena_2d(arena, p->compute, T, m->R_q, &s->q_latent.raw));
        SY_TRY(sy_linear_forward(p, x, &m->q_a->value, &s->q_latent.raw));
        SY_TRY(normalise(m, p, arena, m->q_a_norm, &s->q_latent));
        in = &s->q_latent.normed;
    }
    SY_TRY(sy_arena_2d(arena, p->compute, T, m->N * (m->D_n + m->D_r), &s->q));
    SY_TRY(sy_linear_forward(p, in, &m->q->value, &s->q));
    turned = part(m, &s->q, m->D_n, m->D_r);
    SY_TRY(rotate(m, p, &turned, false));
cleanup:
    return st;
}

/* Latent and shared key of the tokens of this pass. */
static sy_status compress(const mla *m, sy_pass *p, sy_arena *arena, const sy_tensor *x,
                          mla_saved *s)
{
    sy_status st = SY_OK;
    sy_tensor key, turned;
    SY_TRY(sy_arena_2d(arena, p->compute, x->shape[0], m->R_kv + m->D_r, &s->kv_a));
    SY_TRY(sy_linear_forward(p, x, &m->kv_a->value, &s->kv_a));
    s->kv_latent.raw = sy_tensor_cols(&s->kv_a, 0, m->R_kv);
    SY_TRY(normalise(m, p, arena, m->kv_a_norm, &s->kv_latent));
    key = sy_tensor_cols(&s->kv_a, m->R_kv, m->D_r);
    turned = sy_tensor_heads(&key, 1);
    SY_TRY(rotate(m, p, &turned, false));
cleanup:
    return st;
}

/* Keys and values of all heads from latents [n, R_kv] and shared keys [n, D_r]. */
static sy_status expand(const mla *m, sy_pass *p, sy_arena *arena, const sy_tensor *normed,
                        const sy_tensor *key, mla_saved *s)
{
    sy_status st = SY_OK;
    const int64_t n = normed->shape[0];
    sy_tensor shared, first;
    SY_TRY(sy_arena_2d(arena, p->compute, n, m->N * (m->D_n + m->D_v), &s->kv));
    SY_TRY(sy_arena_2d(arena, p->compute, n, m->N * (m->D_n + m->D_r), &s->k));
    SY_TRY(sy_linear_forward(p, normed, &m->kv_b->value, &s->kv));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = part(m, &s->kv, 0, m->D_n),
                                              .y = part(m, &s->k, 0, m->D_n)}));
    shared = part(m, &s->k, m->D_n, m->D_r);
    first = some_heads(&shared, 0, 1);
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = sy_tensor_heads(key, 1), .y = first}));
    SY_TRY(spread(p, &shared));
cleanup:
    return st;
}

static sy_status attend(const mla *m, sy_pass *p, sy_arena *arena, mla_saved *s)
{
    sy_status st = SY_OK;
    sy_tensor normed = s->kv_latent.normed, key = sy_tensor_cols(&s->kv_a, m->R_kv, m->D_r);
    sy_attention_args args = {.q = sy_tensor_heads(&s->q, m->N),
                              .doc = p->batch->doc,
                              .o = sy_tensor_heads(&s->out, m->N),
                              .lse = s->lse,
                              .B = p->batch->B,
                              .scale = sy_score_scale(m->config)};
    if (p->kind == SY_PASS_DECODE && p->batch->T > 0) {
        SY_TRY(sy_kv_append(p->kv, p, &s->kv_latent.normed, &key, &normed, &key, &args.q_start));
        args.doc = sy_tensor_none();
    }
    SY_TRY(expand(m, p, arena, &normed, &key, s));
    args.k = sy_tensor_heads(&s->k, m->N);
    args.v = part(m, &s->kv, m->D_n, m->D_v);
    SY_TRY(sy_attention(p->stream, &args));
cleanup:
    return st;
}

static sy_status mla_forward(void *self, sy_pass *p, const sy_tensor *x, sy_tensor *y, void **saved)
{
    sy_status st = SY_OK;
    const mla *m = self;
    sy_arena *arena = saved != NULL ? p->saved : p->scratch;
    int64_t mark = sy_arena_mark(p->scratch), T = x->shape[0];
    mla_saved *s = saved != NULL ? *saved : NULL;

    if (s == NULL) {
        SY_TRY(sy_host_arena_alloc(p->host, sizeof *s, (void **)&s));
    }
    SY_TRY(queries(m, p, arena, x, s));
    SY_TRY(compress(m, p, arena, x, s));
    SY_TRY(sy_arena_2d(arena, p->compute, T, m->N * m->D_v, &s->out));
    SY_TRY(sy_arena_2d(arena, p->wide, T, m->N, &s->lse));
    SY_TRY(attend(m, p, arena, s));
    SY_TRY(sy_linear_forward(p, &s->out, &m->o->value, y));
    if (saved != NULL) {
        *saved = s;
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* ---- backward ---- */

/* dx = what comes through the queries (written, not added). */
static sy_status queries_backward(const mla *m, sy_pass *p, const mla_saved *s, const sy_tensor *x,
                                  const sy_tensor *dq, sy_tensor *dx)
{
    sy_status st = SY_OK;
    const sy_tensor turned = part(m, dq, m->D_n, m->D_r), *d = dq;
    const sy_param *w = m->q;
    sy_tensor dlatent;
    SY_TRY(rotate(m, p, &turned, true));
    if (m->R_q > 0) {
        SY_TRY(sy_arena_2d(p->scratch, p->compute, x->shape[0], m->R_q, &dlatent));
        SY_TRY(sy_linear_dgrad(p, dq, &m->q->value, &dlatent, 0));
        SY_TRY(sy_linear_wgrad(p, dq, &s->q_latent.normed, &m->q->grad));
        SY_TRY(normalise_backward(p, m->q_a_norm, &s->q_latent, &dlatent, &dlatent));
        d = &dlatent;
        w = m->q_a;
    }
    SY_TRY(sy_linear_wgrad(p, d, x, &w->grad));
    if (dx->data != NULL) {
        SY_TRY(sy_linear_dgrad(p, d, &w->value, dx, 0));
    }
cleanup:
    return st;
}

/* From dk [T, N (D_n + D_r)] and dkv, whose values' part is there; dx += . */
static sy_status keys_backward(const mla *m, sy_pass *p, const mla_saved *s, const sy_tensor *x,
                               const sy_tensor *dk, const sy_tensor *dkv, sy_tensor *dx)
{
    sy_status st = SY_OK;
    const sy_tensor shared = part(m, dk, m->D_n, m->D_r), first = some_heads(&shared, 0, 1);
    sy_tensor dnormed, da, dlatent, dkey, turned;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, x->shape[0], m->R_kv, &dnormed));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, x->shape[0], m->R_kv + m->D_r, &da));
    dlatent = sy_tensor_cols(&da, 0, m->R_kv);
    dkey = sy_tensor_cols(&da, m->R_kv, m->D_r);
    turned = sy_tensor_heads(&dkey, 1);

    SY_TRY(sy_cast(p->stream,
                   &(sy_cast_args){.x = part(m, dk, 0, m->D_n), .y = part(m, dkv, 0, m->D_n)}));
    SY_TRY(sy_linear_dgrad(p, dkv, &m->kv_b->value, &dnormed, 0));
    SY_TRY(sy_linear_wgrad(p, dkv, &s->kv_latent.normed, &m->kv_b->grad));
    SY_TRY(normalise_backward(p, m->kv_a_norm, &s->kv_latent, &dnormed, &dlatent));
    SY_TRY(fold(p, &shared));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = first, .y = turned}));
    SY_TRY(rotate(m, p, &turned, true));
    SY_TRY(sy_linear_wgrad(p, &da, x, &m->kv_a->grad));
    if (dx->data != NULL) {
        SY_TRY(sy_linear_dgrad(p, &da, &m->kv_a->value, dx, 1));
    }
cleanup:
    return st;
}

static sy_status mla_backward(void *self, sy_pass *p, void *saved, const sy_tensor *x,
                              const sy_tensor *dy, sy_tensor *dx)
{
    sy_status st = SY_OK;
    const mla *m = self;
    const mla_saved *s = saved;
    const int64_t mark = sy_arena_mark(p->scratch), T = x->shape[0];
    const int64_t width = m->N * (m->D_n + m->D_r);
    sy_tensor dout, dq, dk, dkv;

    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, m->N * m->D_v, &dout));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, width, &dq));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, width, &dk));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, m->N * (m->D_n + m->D_v), &dkv));
    SY_TRY(sy_linear_dgrad(p, dy, &m->o->value, &dout, 0));
    SY_TRY(sy_linear_wgrad(p, dy, &s->out, &m->o->grad));
    SY_TRY(sy_attention_backward(
        p->stream, &(sy_attention_backward_args){.q = sy_tensor_heads(&s->q, m->N),
                                                 .k = sy_tensor_heads(&s->k, m->N),
                                                 .v = part(m, &s->kv, m->D_n, m->D_v),
                                                 .doc = p->batch->doc,
                                                 .o = sy_tensor_heads(&s->out, m->N),
                                                 .lse = s->lse,
                                                 .dout = sy_tensor_heads(&dout, m->N),
                                                 .dq = sy_tensor_heads(&dq, m->N),
                                                 .dk = sy_tensor_heads(&dk, m->N),
                                                 .dv = part(m, &dkv, m->D_n, m->D_v),
                                                 .B = p->batch->B,
                                                 .scale = sy_score_scale(m->config)}));
    SY_TRY(queries_backward(m, p, s, x, &dq, dx));
    SY_TRY(keys_backward(m, p, s, x, &dk, &dkv, dx));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static void mla_destroy(void *self)
{
    mla *m = self;
    sy_free(&m);
}

static const sy_sublayer_ops mla_ops = {
    .name = "attention",
    .declare = mla_declare,
    .forward = mla_forward,
    .backward = mla_backward,
    .destroy = mla_destroy,
};

sy_status sy_mla_create(const sy_model_config *c, sy_sublayer *out)
{
    sy_status st = SY_OK;
    mla *m = NULL;
    SY_TRY(sy_alloc(1, sizeof *m, (void **)&m));
    *m = (mla){.config = c,
               .N = c->heads,
               .R_q = c->q_lora_rank,
               .R_kv = c->kv_lora_rank,
               .D_n = c->qk_nope_head_dim,
               .D_r = c->qk_rope_head_dim,
               .D_v = c->v_head_dim};
    *out = (sy_sublayer){&mla_ops, m};
cleanup:
    return st;
}

#include "moe/vectors.h"

#include <stdio.h>

#include "core/alloc.h"
#include "moe/adapters.h"

typedef struct vectors {
    const char *name;
    int64_t G, D, E; /* heads, their width, vectors of a head */
    double init_std;
    sy_param *router, *scale; /* [E, D] wide; [G, E, D] */
} vectors;

/* N = T G rows, one of each token and head. */
typedef struct vectors_saved {
    sy_tensor p; /* [N, E] wide: shares of the vectors */
} vectors_saved;

double sy_vectors_active_params(const sy_model_config *model, const sy_moe_config *config)
{
    const double each = (double)config->experts * model->kv_heads * model->head_dim;
    return sy_moe_has_kv_vectors(config) ? 2 * 2 * each : 0; /* router and sum, of both */
}

static sy_status declare(void *self, const char *prefix, sy_params *params)
{
    sy_status st = SY_OK;
    vectors *v = self;
    sy_param_spec router =
        sy_param_matrix(v->E, v->D, v->init_std, "%s/moe/adapters/%s_router", prefix, v->name);
    sy_param_spec scale = {.n_dim = 3,
                           .shape_glb = {v->G, v->E, v->D},
                           .shard_dim = -1,
                           .replicas = SY_DENSE,
                           .init = SY_INIT_ONES,
                           .trainable = true};
    router.wide = true;
    snprintf(scale.name, sizeof scale.name, "%s/moe/adapters/%s_scale", prefix, v->name);
    SY_TRY(sy_params_declare(params, &router, &v->router));
    SY_TRY(sy_params_declare(params, &scale, &v->scale));
cleanup:
    return st;
}

/* ---- views ---- */

/* [T, G n] as a row for each token and head, and back. */
static sy_tensor by_head(const vectors *v, const sy_tensor *x)
{
    return sy_tensor_2d(x->data, x->dtype, x->shape[0] * v->G, x->shape[1] / v->G);
}

static sy_tensor by_token(const vectors *v, const sy_tensor *x)
{
    return sy_tensor_2d(x->data, x->dtype, x->shape[0] / v->G, x->shape[1] * v->G);
}

/* Head g's columns of [T, G n]. */
static sy_tensor columns_of(const vectors *v, const sy_tensor *x, int64_t g)
{
    const int64_t n = x->shape[1] / v->G;
    return sy_tensor_cols(x, g * n, n);
}

/* Head g's vectors [E, D], of values or gradients; no data where t has none. */
static sy_tensor matrix_of(const vectors *v, const sy_tensor *t, int64_t g)
{
    const int64_t at = g * v->E * v->D * (int64_t)sy_dtype_bytes(t->dtype);
    return t->data == NULL ? sy_tensor_none()
                           : sy_tensor_2d((char *)t->data + at, t->dtype, v->E, v->D);
}

static sy_tensor elements(const sy_tensor *t)
{
    return sy_tensor_2d(t->data, t->dtype, sy_tensor_numel(t), 1);
}

static sy_tensor column(const sy_tensor *t)
{
    return sy_tensor_1d(t->data, t->dtype, sy_tensor_numel(t));
}

/* In the other dtype, in scratch; x itself where there is only one. */
static sy_status convert(sy_pass *p, const sy_tensor *x, sy_dtype dtype, sy_tensor *out)
{
    sy_status st = SY_OK;
    *out = *x;
    if (x->dtype != dtype) {
        SY_TRY(sy_arena_2d(p->scratch, dtype, x->shape[0], x->shape[1], out));
        SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = *x, .y = *out}));
    }
cleanup:
    return st;
}

/* ---- forward ---- */

static sy_status shares(const vectors *v, sy_pass *p, const sy_tensor *x, sy_tensor *to)
{
    sy_status st = SY_OK;
    const sy_tensor rows = by_head(v, x);
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor wide, z, lse;
    SY_TRY(convert(p, &rows, p->wide, &wide));
    SY_TRY(sy_arena_2d(p->scratch, p->wide, rows.shape[0], v->E, &z));
    SY_TRY(sy_arena_1d(p->scratch, p->wide, rows.shape[0], &lse));
    SY_TRY(sy_linear_forward(p, &wide, &v->router->value, &z));
    SY_TRY(sy_router_scores(
        p->stream,
        &(sy_router_scores_args){.z = z, .p = *to, .lse = lse, .score = SY_SCORE_SOFTMAX}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* l [T, G D] wide and the shares as [T, G E] in the compute dtype, both in scratch. */
static sy_status mix(const vectors *v, sy_pass *p, const sy_tensor *share, sy_tensor *narrow,
                     sy_tensor *l)
{
    sy_status st = SY_OK;
    const sy_tensor whole = by_token(v, share);
    SY_TRY(convert(p, &whole, p->compute, narrow));
    SY_TRY(sy_arena_2d(p->scratch, p->wide, whole.shape[0], v->G * v->D, l));
    for (int64_t g = 0; g < v->G; g++) {
        SY_TRY(sy_gemm(p->stream, &(sy_gemm_args){.a = columns_of(v, narrow, g),
                                                  .b = matrix_of(v, &v->scale->value, g),
                                                  .c = columns_of(v, l, g),
                                                  .alpha = 1}));
    }
cleanup:
    return st;
}

static sy_status forward(void *self, sy_pass *p, const sy_tensor *x, sy_tensor *y, void **saved)
{
    sy_status st = SY_OK;
    const vectors *v = self;
    int64_t mark = sy_arena_mark(p->scratch);
    vectors_saved *s = saved != NULL ? *saved : NULL;
    sy_tensor share, narrow, l;
    if (saved != NULL && s == NULL) {
        SY_TRY(sy_host_arena_alloc(p->host, sizeof *s, (void **)&s));
    }
    SY_TRY(sy_arena_2d(saved != NULL ? p->saved : p->scratch, p->wide, x->shape[0] * v->G, v->E,
                       &share));
    SY_TRY(shares(v, p, x, &share));
    SY_TRY(mix(v, p, &share, &narrow, &l));
    SY_TRY(sy_gate(
        p->stream,
        &(sy_gate_args){.x = elements(x), .s = column(&l), .y = elements(y), .plain = true}));
    if (saved != NULL) {
        s->p = share;
        *saved = s;
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* ---- backward ---- */

/* dp [T, G E] wide from dl, and the vectors' gradients. */
static sy_status mix_backward(const vectors *v, sy_pass *p, const sy_tensor *narrow,
                              const sy_tensor *dl, sy_tensor *dshare)
{
    sy_status st = SY_OK;
    for (int64_t g = 0; g < v->G; g++) {
        const sy_tensor d = columns_of(v, dl, g), share = columns_of(v, narrow, g);
        const sy_tensor grad = matrix_of(v, &v->scale->grad, g);
        SY_TRY(sy_gemm(p->stream, &(sy_gemm_args){.a = d,
                                                  .b = matrix_of(v, &v->scale->value, g),
                                                  .c = columns_of(v, dshare, g),
                                                  .trans_b = true,
                                                  .alpha = 1}));
        SY_TRY(sy_linear_wgrad(p, &share, &d, &grad));
    }
cleanup:
    return st;
}

/* dz [N, E] of the softmax, of which all E are chosen: the largest of equals are those in order. */
static sy_status shares_backward(const vectors *v, sy_pass *p, const sy_tensor *share,
                                 const sy_tensor *dshare, sy_tensor *dz)
{
    sy_status st = SY_OK;
    const int64_t N = share->shape[0];
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor equal, expert, row;
    SY_TRY(sy_arena_2d(p->scratch, p->wide, N, v->E, &equal));
    SY_TRY(sy_arena_2d(p->scratch, SY_I32, N, v->E, &expert));
    SY_TRY(sy_arena_2d(p->scratch, SY_I32, N, v->E, &row));
    SY_TRY(sy_zero(p->stream, equal.data, sy_tensor_bytes(&equal)));
    SY_TRY(sy_topk(p->stream, &(sy_topk_args){.p = equal, .expert = expert, .token = row}));
    SY_TRY(sy_topk_backward(p->stream, &(sy_topk_backward_args){.p = *share,
                                                                .expert = expert,
                                                                .g = *dshare,
                                                                .dz = *dz,
                                                                .score = SY_SCORE_SOFTMAX,
                                                                .scale = 1}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* dx += R^T dz, R's gradient. */
static sy_status router_backward(const vectors *v, sy_pass *p, const sy_tensor *x,
                                 const sy_tensor *dz, sy_tensor *dx)
{
    sy_status st = SY_OK;
    const sy_tensor rows = by_head(v, x), to = by_head(v, dx);
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor wide, din, narrow;
    SY_TRY(convert(p, &rows, p->wide, &wide));
    SY_TRY(sy_linear_wgrad(p, dz, &wide, &v->router->grad));
    SY_TRY(sy_arena_2d(p->scratch, p->wide, rows.shape[0], v->D, &din));
    SY_TRY(sy_linear_dgrad(p, dz, &v->router->value, &din, 0));
    SY_TRY(convert(p, &din, p->compute, &narrow));
    SY_TRY(sy_add(p->stream, &(sy_add_args){.a = to, .b = narrow, .y = to}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static sy_status backward(void *self, sy_pass *p, void *saved, const sy_tensor *x,
                          const sy_tensor *dy, sy_tensor *dx)
{
    sy_status st = SY_OK;
    const vectors *v = self;
    const vectors_saved *s = saved;
    const int64_t T = x->shape[0], N = T * v->G;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor narrow, l, dl, narrow_dl, dshare, dz, whole;
    SY_TRY(mix(v, p, &s->p, &narrow, &l));
    SY_TRY(sy_arena_2d(p->scratch, p->wide, T, v->G * v->D, &dl));
    SY_TRY(sy_arena_2d(p->scratch, p->wide, N, v->E, &dshare));
    SY_TRY(sy_arena_2d(p->scratch, p->wide, N, v->E, &dz));
    SY_TRY(sy_gate_backward(p->stream, &(sy_gate_backward_args){.x = elements(x),
                                                                .s = column(&l),
                                                                .dy = elements(dy),
                                                                .dx = elements(dx),
                                                                .ds = column(&dl),
                                                                .plain = true}));
    SY_TRY(convert(p, &dl, p->compute, &narrow_dl));
    whole = by_token(v, &dshare);
    SY_TRY(mix_backward(v, p, &narrow, &narrow_dl, &whole));
    SY_TRY(shares_backward(v, p, &s->p, &dshare, &dz));
    SY_TRY(router_backward(v, p, x, &dz, dx));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static void destroy(void *self)
{
    vectors *v = self;
    sy_free(&v);
}

static const sy_sublayer_ops vectors_ops = {
    .name = "vectors",
    .declare = declare,
    .forward = forward,
    .backward = backward,
    .destroy = destroy,
};

sy_status sy_vectors_create(const sy_model_config *model, const sy_moe_config *config,
                            const char *name, sy_sublayer *out)
{
    sy_status st = SY_OK;
    vectors *v = NULL;
    SY_TRY(sy_alloc(1, sizeof *v, (void **)&v));
    *v = (vectors){.name = name,
                   .G = model->kv_heads,
                   .D = model->head_dim,
                   .E = config->experts,
                   .init_std = model->init_std};
    *out = (sy_sublayer){&vectors_ops, v};
cleanup:
    return st;
}

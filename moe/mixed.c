#include "moe/mixed.h"

#include <stdio.h>

typedef struct mixed_saved {
    sy_tensor h; /* [T, 2F] gate | up */
} mixed_saved;

/* ---- parameters ---- */

static sy_status declare(const sy_mixed *m, const char *prefix, const char *name,
                         const int64_t shape[3], sy_init init, sy_params *params, sy_param **out)
{
    sy_param_spec spec = {.n_dim = shape[2] > 0 ? 3 : 2,
                          .shape_glb = {shape[0], shape[1], shape[2]},
                          .shard_dim = -1,
                          .replicas = SY_DENSE,
                          .init = init,
                          .init_std = m->init_std,
                          .trainable = true,
                          .decay = init != SY_INIT_ONES};
    snprintf(spec.name, sizeof spec.name, "%s/adapters/%s", prefix, name);
    return sy_params_declare(params, &spec, out);
}

static sy_status declare_delta(const sy_mixed *m, const char *prefix, const char *name, int64_t in,
                               int64_t out, sy_params *params, sy_mixed_delta *delta)
{
    sy_status st = SY_OK;
    char part[32];
    snprintf(part, sizeof part, "%s_a", name);
    SY_TRY(declare(m, prefix, part, (int64_t[3]){m->E, m->rank, in}, SY_INIT_NORMAL, params,
                   &delta->a));
    snprintf(part, sizeof part, "%s_b", name);
    SY_TRY(declare(m, prefix, part, (int64_t[3]){out, m->E, m->rank}, SY_INIT_ZEROS, params,
                   &delta->b));
cleanup:
    return st;
}

sy_status sy_mixed_declare(sy_mixed *m, const char *prefix, sy_params *params)
{
    sy_status st = SY_OK;
    const int64_t H = m->base.mlp.hidden, F = m->base.mlp.ffn;
    SY_TRY(sy_base_declare(&m->base, prefix, params));
    if (m->rank == 0) {
        SY_TRY(declare(m, prefix, "scale", (int64_t[3]){m->E, F, 0}, SY_INIT_ONES, params,
                       &m->vectors));
        goto cleanup;
    }
    SY_TRY(declare_delta(m, prefix, "gate", H, F, params, &m->gate));
    SY_TRY(declare_delta(m, prefix, "up", H, F, params, &m->up));
    SY_TRY(declare_delta(m, prefix, "down", F, H, params, &m->down));
cleanup:
    return st;
}

/* ---- deltas ---- */

/* a as [E r, in], b as [out, E r]. */
static sy_tensor flat_a(const sy_tensor *t)
{
    return sy_tensor_2d(t->data, t->dtype, t->shape[0] * t->shape[1], t->shape[2]);
}

static sy_tensor flat_b(const sy_tensor *t)
{
    return sy_tensor_2d(t->data, t->dtype, t->shape[0], t->shape[1] * t->shape[2]);
}

/* The columns of every (token, adapter) as a row. */
static sy_tensor by_adapter(const sy_tensor *u, int64_t E)
{
    return sy_tensor_2d(u->data, u->dtype, u->shape[0] * E, u->shape[1] / E);
}

static sy_tensor column(const sy_tensor *t)
{
    return sy_tensor_1d(t->data, t->dtype, sy_tensor_numel(t));
}

/* u = x A^T and v = w u, [T, E r] each, in scratch. */
static sy_status narrow(const sy_mixed *m, sy_pass *p, const sy_mixed_delta *d, const sy_tensor *x,
                        const sy_tensor *w, sy_tensor *u, sy_tensor *v)
{
    sy_status st = SY_OK;
    const sy_tensor a = flat_a(&d->a->value);
    SY_TRY(sy_arena_2d(p->scratch, p->compute, x->shape[0], m->E * m->rank, u));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, x->shape[0], m->E * m->rank, v));
    SY_TRY(sy_linear_forward(p, x, &a, u));
    SY_TRY(sy_gate(p->stream, &(sy_gate_args){.x = by_adapter(u, m->E),
                                              .s = column(w),
                                              .y = by_adapter(v, m->E),
                                              .plain = true}));
cleanup:
    return st;
}

/* y += sum of w_e B_e A_e x. */
static sy_status add_delta(const sy_mixed *m, sy_pass *p, const sy_mixed_delta *d,
                           const sy_tensor *x, const sy_tensor *w, sy_tensor y)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor u, v;
    if (m->rank == 0) {
        return SY_OK;
    }
    SY_TRY(narrow(m, p, d, x, w, &u, &v));
    SY_TRY(sy_gemm(
        p->stream,
        &(sy_gemm_args){
            .a = v, .b = flat_b(&d->b->value), .c = y, .trans_b = true, .alpha = 1, .beta = 1}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* dx += (no data: not wanted), dw +=, gradients +=. */
static sy_status delta_backward(const sy_mixed *m, sy_pass *p, const sy_mixed_delta *d,
                                const sy_tensor *x, const sy_tensor *w, sy_tensor dy, sy_tensor *dx,
                                sy_tensor *dw)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), T = x->shape[0];
    sy_tensor u, v, dv, du, dw_here, b_grad = flat_b(&d->b->grad), a_grad = flat_a(&d->a->grad);
    const sy_tensor a = flat_a(&d->a->value), b = flat_b(&d->b->value);
    SY_TRY(narrow(m, p, d, x, w, &u, &v));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, m->E * m->rank, &dv));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, m->E * m->rank, &du));
    SY_TRY(sy_arena_2d(p->scratch, p->wide, T, m->E, &dw_here));
    SY_TRY(sy_linear_dgrad(p, &dy, &b, &dv, 0));
    SY_TRY(sy_gate_backward(p->stream, &(sy_gate_backward_args){.x = by_adapter(&u, m->E),
                                                                .s = column(w),
                                                                .dy = by_adapter(&dv, m->E),
                                                                .dx = by_adapter(&du, m->E),
                                                                .ds = column(&dw_here),
                                                                .plain = true}));
    SY_TRY(sy_add(p->stream, &(sy_add_args){.a = *dw, .b = dw_here, .y = *dw}));
    SY_TRY(sy_linear_wgrad(p, &dy, &v, &b_grad));
    SY_TRY(sy_linear_wgrad(p, &du, x, &a_grad));
    if (dx->data != NULL) {
        SY_TRY(sy_linear_dgrad(p, &du, &a, dx, 1));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* ---- vectors ---- */

/* l [T F] = w V wide, and w in the compute dtype, both in scratch. */
static sy_status mix_vectors(const sy_mixed *m, sy_pass *p, const sy_tensor *w, sy_tensor *narrow_w,
                             sy_tensor *l)
{
    sy_status st = SY_OK;
    *narrow_w = *w;
    if (p->compute != p->wide) {
        SY_TRY(sy_arena_2d(p->scratch, p->compute, w->shape[0], m->E, narrow_w));
        SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = *w, .y = *narrow_w}));
    }
    SY_TRY(sy_arena_2d(p->scratch, p->wide, w->shape[0], m->base.mlp.ffn, l));
    SY_TRY(sy_gemm(p->stream,
                   &(sy_gemm_args){.a = *narrow_w, .b = m->vectors->value, .c = *l, .alpha = 1}));
cleanup:
    return st;
}

static sy_tensor elements(const sy_tensor *t)
{
    return sy_tensor_2d(t->data, t->dtype, sy_tensor_numel(t), 1);
}

/* y = a times the mixed vectors, [T, F]. */
static sy_status rescale(const sy_mixed *m, sy_pass *p, const sy_tensor *a, const sy_tensor *w,
                         sy_tensor *y)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor narrow_w, l;
    SY_TRY(mix_vectors(m, p, w, &narrow_w, &l));
    SY_TRY(sy_gate(
        p->stream,
        &(sy_gate_args){.x = elements(a), .s = column(&l), .y = elements(y), .plain = true}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* da from the gradient of the rescaled activation; dw +=. */
static sy_status rescale_backward(const sy_mixed *m, sy_pass *p, const sy_tensor *a,
                                  const sy_tensor *w, const sy_tensor *dy, sy_tensor *da,
                                  sy_tensor *dw)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), T = a->shape[0], F = m->base.mlp.ffn;
    sy_tensor narrow_w, l, dl, narrow_dl;
    SY_TRY(mix_vectors(m, p, w, &narrow_w, &l));
    SY_TRY(sy_arena_2d(p->scratch, p->wide, T, F, &dl));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, F, &narrow_dl));
    SY_TRY(sy_gate_backward(p->stream, &(sy_gate_backward_args){.x = elements(a),
                                                                .s = column(&l),
                                                                .dy = elements(dy),
                                                                .dx = elements(da),
                                                                .ds = column(&dl),
                                                                .plain = true}));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = dl, .y = narrow_dl}));
    SY_TRY(sy_gemm(p->stream, &(sy_gemm_args){.a = narrow_dl,
                                              .b = m->vectors->value,
                                              .c = *dw,
                                              .trans_b = true,
                                              .alpha = 1,
                                              .beta = 1}));
    if (m->vectors->grad.data != NULL) { /* V's gradient [E, F] += w^T dl */
        SY_TRY(sy_linear_wgrad(p, &narrow_w, &narrow_dl, &m->vectors->grad));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* ---- the whole ---- */

sy_status sy_mixed_forward(const sy_mixed *m, sy_pass *p, const sy_tensor *x, const sy_tensor *w,
                           sy_tensor *y, void **saved)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    const int64_t T = x->shape[0], F = m->base.mlp.ffn;
    mixed_saved *s = saved != NULL ? *saved : NULL;
    sy_tensor h, a;
    if (saved != NULL && s == NULL) {
        SY_TRY(sy_host_arena_alloc(p->host, sizeof *s, (void **)&s));
    }
    SY_TRY(sy_arena_2d(saved != NULL ? p->saved : p->scratch, p->compute, T, 2 * F, &h));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, F, &a));
    SY_TRY(sy_base_forward(&m->base, p, SY_BASE_IN, x, &h));
    SY_TRY(add_delta(m, p, &m->gate, x, w, sy_tensor_cols(&h, 0, F)));
    SY_TRY(add_delta(m, p, &m->up, x, w, sy_tensor_cols(&h, F, F)));
    SY_TRY(sy_swiglu(p->stream, &(sy_swiglu_args){.x = h, .y = a}));
    if (m->rank == 0) {
        sy_tensor plain = a;
        SY_TRY(sy_arena_2d(p->scratch, p->compute, T, F, &a));
        SY_TRY(rescale(m, p, &plain, w, &a));
    }
    SY_TRY(sy_base_forward(&m->base, p, SY_BASE_OUT, &a, y));
    SY_TRY(add_delta(m, p, &m->down, &a, w, *y));
    if (saved != NULL) {
        s->h = h;
        *saved = s;
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* Through the output matrix: da [T, F]. a is the activation, not rescaled. */
static sy_status output_backward(const sy_mixed *m, sy_pass *p, const sy_tensor *a,
                                 const sy_tensor *w, const sy_tensor *dy, sy_tensor *da,
                                 sy_tensor *dw)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), T = a->shape[0], F = m->base.mlp.ffn;
    sy_tensor scaled = *a, d = *da;
    if (m->rank == 0) {
        SY_TRY(sy_arena_2d(p->scratch, p->compute, T, F, &scaled));
        SY_TRY(sy_arena_2d(p->scratch, p->compute, T, F, &d));
        SY_TRY(rescale(m, p, a, w, &scaled));
    }
    SY_TRY(sy_base_dgrad(&m->base, p, SY_BASE_OUT, dy, &d, 0));
    SY_TRY(sy_base_wgrad(&m->base, p, SY_BASE_OUT, dy, &scaled));
    SY_TRY(m->rank == 0 ? rescale_backward(m, p, a, w, &d, da, dw)
                        : delta_backward(m, p, &m->down, a, w, *dy, da, dw));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy_mixed_backward(const sy_mixed *m, sy_pass *p, void *saved, const sy_tensor *x,
                            const sy_tensor *w, const sy_tensor *dy, sy_tensor *dx, sy_tensor *dw)
{
    sy_status st = SY_OK;
    const mixed_saved *s = saved;
    int64_t mark = sy_arena_mark(p->scratch), T = x->shape[0], F = m->base.mlp.ffn;
    sy_tensor a, da, dh;
    SY_TRY(sy_zero(p->stream, dw->data, sy_tensor_bytes(dw)));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, F, &a));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, F, &da));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, 2 * F, &dh));
    SY_TRY(sy_swiglu(p->stream, &(sy_swiglu_args){.x = s->h, .y = a}));
    SY_TRY(output_backward(m, p, &a, w, dy, &da, dw));
    SY_TRY(
        sy_swiglu_backward(p->stream, &(sy_swiglu_backward_args){.x = s->h, .dy = da, .dx = dh}));
    if (dx->data != NULL) {
        SY_TRY(sy_base_dgrad(&m->base, p, SY_BASE_IN, &dh, dx, 0));
    }
    SY_TRY(sy_base_wgrad(&m->base, p, SY_BASE_IN, &dh, x));
    if (m->rank > 0) {
        SY_TRY(delta_backward(m, p, &m->gate, x, w, sy_tensor_cols(&dh, 0, F), dx, dw));
        SY_TRY(delta_backward(m, p, &m->up, x, w, sy_tensor_cols(&dh, F, F), dx, dw));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

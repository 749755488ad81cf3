#include "moe/shared.h"

#include <stdio.h>

typedef struct shared_saved {
    void *mlp;
    sy_tensor out;   /* [T, H] of the MLP, before the gate */
    sy_tensor logit; /* [T, 1] wide */
} shared_saved;

sy_status sy_shared_declare(sy_shared *s, const char *prefix, sy_params *params)
{
    sy_status st = SY_OK;
    char name[SY_PARAM_NAME];
    const sy_param_spec gate =
        sy_param_matrix(1, s->mlp.hidden, s->mlp.init_std, "%s/shared/router", prefix);
    snprintf(name, sizeof name, "%s/shared", prefix);
    SY_TRY(sy_mlp_declare(&s->mlp, name, params));
    if (s->gated) {
        SY_TRY(sy_params_declare(params, &gate, &s->gate));
    }
cleanup:
    return st;
}

static sy_tensor column(const sy_tensor *t)
{
    return sy_tensor_1d(t->data, t->dtype, t->shape[0]);
}

sy_status sy_shared_forward(const sy_shared *s, sy_pass *p, const sy_tensor *x, sy_tensor *y,
                            void **saved)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), T = x->shape[0], H = x->shape[1];
    sy_arena *arena = saved != NULL ? p->saved : p->scratch;
    shared_saved *v = saved != NULL ? *saved : NULL;

    if (v == NULL) {
        SY_TRY(sy_host_arena_alloc(p->host, sizeof *v, (void **)&v));
    }
    v->out = *y;
    if (s->gated) {
        SY_TRY(sy_arena_2d(arena, p->compute, T, H, &v->out));
    }
    SY_TRY(sy_mlp_forward(&s->mlp, p, x, &v->out, saved != NULL ? &v->mlp : NULL));
    if (s->gated) {
        SY_TRY(sy_arena_2d(arena, p->wide, T, 1, &v->logit));
        SY_TRY(sy_linear_forward(p, x, &s->gate->value, &v->logit));
        SY_TRY(sy_gate(p->stream, &(sy_gate_args){.x = v->out, .s = column(&v->logit), .y = *y}));
    }
    if (saved != NULL) {
        *saved = v;
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy_shared_grad_room(const sy_shared *s, sy_pass *p, int64_t T, bool has_dx,
                              sy_shared_grad *out)
{
    sy_status st = SY_OK;
    *out = (sy_shared_grad){.dx = sy_tensor_none(), .ds = sy_tensor_none()};
    if (has_dx) {
        SY_TRY(sy_arena_2d(p->scratch, p->compute, T, s->mlp.hidden, &out->dx));
    }
    if (s->gated) {
        SY_TRY(sy_arena_2d(p->scratch, p->compute, T, 1, &out->ds));
    }
cleanup:
    return st;
}

/* Gradients through the gate: dout of the MLP's output, ds of the logits. */
static sy_status gate_grad(const sy_shared *s, sy_pass *p, const shared_saved *v,
                           const sy_tensor *x, const sy_tensor *dy, sy_tensor *dout,
                           const sy_tensor *ds)
{
    sy_status st = SY_OK;
    sy_tensor wide;
    SY_TRY(sy_arena_2d(p->scratch, p->wide, x->shape[0], 1, &wide));
    SY_TRY(sy_gate_backward(
        p->stream,
        &(sy_gate_backward_args){
            .x = v->out, .s = column(&v->logit), .dy = *dy, .dx = *dout, .ds = column(&wide)}));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = wide, .y = *ds}));
    SY_TRY(sy_linear_wgrad(p, ds, x, &s->gate->grad));
cleanup:
    return st;
}

sy_status sy_shared_backward(const sy_shared *s, sy_pass *p, void *saved, const sy_tensor *x,
                             const sy_tensor *dy, sy_shared_grad *grad)
{
    sy_status st = SY_OK;
    const shared_saved *v = saved;
    int64_t mark = sy_arena_mark(p->scratch), T = x->shape[0], H = x->shape[1];
    sy_tensor dout = *dy;

    if (s->gated) {
        SY_TRY(sy_arena_2d(p->scratch, p->compute, T, H, &dout));
        SY_TRY(gate_grad(s, p, v, x, dy, &dout, &grad->ds));
    }
    SY_TRY(sy_mlp_backward(&s->mlp, p, v->mlp, x, &dout, &grad->dx));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy_shared_add_grad(const sy_shared *s, sy_pass *p, const sy_shared_grad *grad,
                             sy_tensor *dx)
{
    sy_status st = SY_OK;
    if (dx->data == NULL) {
        goto cleanup;
    }
    if (s->gated) {
        SY_TRY(sy_linear_dgrad(p, &grad->ds, &s->gate->value, dx, 1));
    }
    SY_TRY(sy_add(p->stream, &(sy_add_args){.a = *dx, .b = grad->dx, .y = *dx}));
cleanup:
    return st;
}

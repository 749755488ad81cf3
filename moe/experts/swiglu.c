/* SwiGLU experts as grouped matrix products. The router signal needs no expert output: <dout, W a>
 * = <W^T dout, a>, so backward keeps h alone. */
#include <stdio.h>

#include "moe/experts.h"

sy_status sy_experts_declare(sy_experts *x, const char *prefix, sy_params *params)
{
    sy_status st = SY_OK;
    sy_param_spec spec = {.n_dim = 3,
                          .shape_glb = {x->E, 2 * x->ffn, x->hidden},
                          .n_pieces = 2,
                          .piece_dim = 1,
                          .shard_by = SY_EP,
                          .shard_dim = 0,
                          .replicas = SY_EDP,
                          .init = SY_INIT_NORMAL,
                          .init_std = x->init_std,
                          .trainable = true,
                          .decay = true};
    snprintf(spec.name, sizeof spec.name, "%s/experts/gate_up", prefix);
    snprintf(spec.piece[0].name, sizeof spec.piece[0].name, "%s/experts/gate", prefix);
    snprintf(spec.piece[1].name, sizeof spec.piece[1].name, "%s/experts/up", prefix);
    spec.piece[0].extent = spec.piece[1].extent = x->ffn;
    SY_TRY(sy_params_declare(params, &spec, &x->gate_up));

    snprintf(spec.name, sizeof spec.name, "%s/experts/down", prefix);
    spec.n_pieces = 0;
    spec.shape_glb[1] = x->hidden;
    spec.shape_glb[2] = x->ffn;
    spec.init_std = x->down_std;
    SY_TRY(sy_params_declare(params, &spec, &x->down));
cleanup:
    return st;
}

static sy_status grouped(sy_pass *p, sy_grouped_form form, const sy_tensor *a, const sy_tensor *b,
                         const sy_tensor *start, const sy_tensor *c)
{
    if (c->data == NULL) {
        return SY_OK; /* frozen */
    }
    return sy_grouped_gemm(p->stream,
                           &(sy_grouped_gemm_args){.a = *a,
                                                   .b = *b,
                                                   .c = *c,
                                                   .start = *start,
                                                   .form = form,
                                                   .beta = form == SY_GROUPED_TN ? 1 : 0});
}

sy_status sy_experts_hidden(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                            const sy_tensor *rows, sy_tensor *h)
{
    return grouped(p, SY_GROUPED_NT, rows, &x->gate_up->value, start, h);
}

sy_status sy_experts_output(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                            const sy_tensor *h, sy_tensor *out)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor a;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, h->shape[0], x->ffn, &a));
    SY_TRY(sy_swiglu(p->stream, &(sy_swiglu_args){.x = *h, .y = a}));
    SY_TRY(grouped(p, SY_GROUPED_NT, &a, &x->down->value, start, out));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy_experts_backward(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                              const sy_tensor *rows, const sy_tensor *h, const sy_tensor *dout,
                              const sy_tensor *weight, sy_tensor *drows, sy_tensor *dot)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), R = rows->shape[0];
    sy_tensor da, dh, wa;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, x->ffn, &da));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, x->ffn, &wa));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, 2 * x->ffn, &dh));
    SY_TRY(grouped(p, SY_GROUPED_NN, dout, &x->down->value, start, &da));
    SY_TRY(sy_swiglu_backward(p->stream, &(sy_swiglu_backward_args){
                                             .x = *h,
                                             .dy = da,
                                             .weight = sy_tensor_1d(weight->data, weight->dtype, R),
                                             .dx = dh,
                                             .wa = wa,
                                             .dot = sy_tensor_1d(dot->data, dot->dtype, R)}));
    SY_TRY(grouped(p, SY_GROUPED_TN, dout, &wa, start, &x->down->grad));
    SY_TRY(grouped(p, SY_GROUPED_NN, &dh, &x->gate_up->value, start, drows));
    SY_TRY(grouped(p, SY_GROUPED_TN, &dh, rows, start, &x->gate_up->grad));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

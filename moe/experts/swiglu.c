/* Experts that are MLPs of their own (SwiGLU or another activation), as grouped matrix products.
 * The router signal needs no expert output: <dout, W a> = <W^T dout, a>, so backward keeps h alone.
 */
#include "moe/experts_impl.h"

#include <stdio.h>

static sy_status declare(sy_experts *x, const char *prefix, sy_params *params)
{
    sy_status st = SY_OK;
    char experts[SY_PARAM_NAME];
    sy_param_spec in =
        sy__experts_param(x, prefix, "gate_up", sy_act_parts(x->act) * x->ffn, x->hidden);
    sy_param_spec down = sy__experts_param(x, prefix, "down", x->hidden, x->ffn);
    snprintf(experts, sizeof experts, "%s/experts", prefix);
    sy_mlp_pieces(&in, x->act, experts, 1, x->ffn);
    down.init_std = x->down_std;
    SY_TRY(sy_params_declare(params, &in, &x->gate_up));
    SY_TRY(sy_params_declare(params, &down, &x->down));
cleanup:
    return st;
}

sy_status sy__mlps_hidden(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                          const sy_tensor *rows, sy_tensor *h)
{
    return sy__experts_gemm(p, SY_GROUPED_NT, rows, &x->gate_up->value, start, h);
}

sy_status sy__mlps_output(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                          const sy_tensor *h, sy_tensor *out)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor a;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, h->shape[0], x->ffn, &a));
    SY_TRY(sy_mlp_activate(p, x->act, h, &a));
    SY_TRY(sy__experts_gemm(p, SY_GROUPED_NT, &a, &x->down->value, start, out));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy__mlps_backward(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                            const sy_tensor *rows, const sy_tensor *h, const sy_tensor *dout,
                            const sy_tensor *weight, sy_tensor *drows, sy_tensor *dot)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), R = rows->shape[0];
    sy_tensor da, dh, wa;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, x->ffn, &da));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, x->ffn, &wa));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, sy_act_parts(x->act) * x->ffn, &dh));
    SY_TRY(sy__experts_gemm(p, SY_GROUPED_NN, dout, &x->down->value, start, &da));
    SY_TRY(sy_mlp_activate_backward(
        p, x->act,
        &(sy_swiglu_backward_args){.x = *h,
                                   .dy = da,
                                   .weight = sy_tensor_1d(weight->data, weight->dtype, R),
                                   .dx = dh,
                                   .wa = wa,
                                   .dot = sy_tensor_1d(dot->data, dot->dtype, R)}));
    SY_TRY(sy__experts_gemm(p, SY_GROUPED_TN, dout, &wa, start, &x->down->grad));
    SY_TRY(sy__experts_gemm(p, SY_GROUPED_NN, &dh, &x->gate_up->value, start, drows));
    SY_TRY(sy__experts_gemm(p, SY_GROUPED_TN, &dh, rows, start, &x->gate_up->grad));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

const sy__experts_ops sy__swiglu_experts = {declare, sy__mlps_hidden, sy__mlps_output,
                                            sy__mlps_backward};

/* Bottleneck adapters: U gelu(D y), on the output y of one MLP that every token passes and that
   moe.c adds again. PESC: Wu et al. 2024 (arXiv 2401.02731) 3, as its code has it; Switch-like
   adapters with top_k 1. D [E, r, H], U [E, H, r], sharded over ep; U begins with zeros. */
#include "moe/experts_impl.h"

static sy_status declare(sy_experts *x, const char *prefix, sy_params *params)
{
    sy_status st = SY_OK;
    sy_param_spec in = sy__experts_param(x, prefix, "adapter_in", x->rank, x->hidden);
    sy_param_spec out = sy__experts_param(x, prefix, "adapter_out", x->hidden, x->rank);
    out.init = SY_INIT_ZEROS;
    SY_TRY(sy_params_declare(params, &in, &x->in_a));
    SY_TRY(sy_params_declare(params, &out, &x->down_b));
cleanup:
    return st;
}

static sy_status hidden(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                        const sy_tensor *rows, sy_tensor *h)
{
    return sy__experts_gemm(p, SY_GROUPED_NT, rows, &x->in_a->value, start, h);
}

static sy_status output(const sy_experts *x, sy_pass *p, const sy_tensor *start, const sy_tensor *h,
                        sy_tensor *out)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor a;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, h->shape[0], x->rank, &a));
    SY_TRY(sy_gelu(p->stream, &(sy_gelu_args){.x = *h, .y = a}));
    SY_TRY(sy__experts_gemm(p, SY_GROUPED_NT, &a, &x->down_b->value, start, out));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static sy_status backward(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                          const sy_tensor *rows, const sy_tensor *h, const sy_tensor *dout,
                          const sy_tensor *weight, sy_tensor *drows, sy_tensor *dot)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), R = rows->shape[0];
    sy_tensor da, dh, wa;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, x->rank, &da));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, x->rank, &dh));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, x->rank, &wa));
    SY_TRY(sy__experts_gemm(p, SY_GROUPED_NN, dout, &x->down_b->value, start, &da));
    SY_TRY(sy_gelu_backward(
        p->stream, &(sy_gelu_backward_args){.x = *h,
                                            .dy = da,
                                            .weight = sy_tensor_1d(weight->data, weight->dtype, R),
                                            .dx = dh,
                                            .wa = wa,
                                            .dot = sy_tensor_1d(dot->data, dot->dtype, R)}));
    SY_TRY(sy__experts_gemm(p, SY_GROUPED_TN, dout, &wa, start, &x->down_b->grad));
    SY_TRY(sy__experts_gemm(p, SY_GROUPED_NN, &dh, &x->in_a->value, start, drows));
    SY_TRY(sy__experts_gemm(p, SY_GROUPED_TN, &dh, rows, start, &x->in_a->grad));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

const sy__experts_ops sy__bottleneck_experts = {declare, hidden, output, backward};

/* Bottleneck adapters: U gelu(D y), on the output y of one MLP that every token passes and that
   moe.c adds again. PESC: Wu et al. 2024 (arXiv 2401.02731) 3, as its code has it; Switch-like
   adapters with top_k 1. They run as MLPs of width r: D [E, r, H], U [E, H, r], sharded over ep; U
   begins with zeros. */
#include "moe/experts_impl.h"

static sy_status declare(sy_experts *x, const char *prefix, sy_params *params)
{
    sy_status st = SY_OK;
    sy_param_spec in = sy__experts_param(x, prefix, "adapter_in", x->rank, x->hidden);
    sy_param_spec out = sy__experts_param(x, prefix, "adapter_out", x->hidden, x->rank);
    x->ffn = x->rank;
    x->act = SY_ACT_GELU_ERF;
    out.init = SY_INIT_ZEROS;
    SY_TRY(sy_params_declare(params, &in, &x->gate_up));
    SY_TRY(sy_params_declare(params, &out, &x->down));
cleanup:
    return st;
}

const sy__experts_ops sy__bottleneck_experts = {declare, sy__mlps_hidden, sy__mlps_output,
                                                sy__mlps_backward};

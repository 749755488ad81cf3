/* SwiGLU experts of different width (HMoE: Wang et al. 2024, arXiv 2408.10681): matrices of the
   widest, of which each expert uses its first units. What is beyond stays zero, is not multiplied
   with and not moved. gate and up are two products, since each ends at the expert's width. */
#include "moe/experts_impl.h"

static sy_status declare(sy_experts *x, const char *prefix, sy_params *params)
{
    sy_status st = SY_OK;
    sy_param_spec in = sy__experts_param(x, prefix, "gate_up", 2 * x->ffn, x->hidden);
    sy_param_spec down = sy__experts_param(x, prefix, "down", x->hidden, x->ffn);
    sy__experts_split(&in, prefix, "gate", "up");
    in.width = down.width = x->width;
    in.width_dim = 1;
    down.width_dim = 2;
    down.init_std = x->down_std;
    SY_TRY(sy_params_declare(params, &in, &x->gate_up));
    SY_TRY(sy_params_declare(params, &down, &x->down));
cleanup:
    return st;
}

/* Units of this rank's experts, in device memory. The host's copy is the pass's: it stays as it is
   until the stream has passed. */
static sy_status widths(const sy_experts *x, sy_pass *p, sy_tensor *out)
{
    sy_status st = SY_OK;
    const sy_placement *at = p->mesh->placement;
    const int32_t *mine = at->expert_at + (int64_t)p->mesh->group[SY_EP]->rank * at->E_loc;
    int32_t *h_width = NULL;
    SY_TRY(sy_arena_1d(p->scratch, SY_I32, at->E_loc, out));
    SY_TRY(sy_host_arena_alloc(p->host, sy_tensor_bytes(out), (void **)&h_width));
    for (int32_t i = 0; i < at->E_loc; i++) {
        h_width[i] = x->width[mine[i]];
    }
    SY_TRY(sy_copy_h2d(p->stream, out->data, h_width, sy_tensor_bytes(out)));
cleanup:
    return st;
}

/* Gate (i = 0) or up of every expert. */
static sy_tensor half_of(const sy_tensor *gate_up, int64_t i)
{
    sy_tensor half = *gate_up;
    half.shape[1] /= 2;
    if (half.data != NULL) {
        half.data = (char *)half.data +
                    i * half.shape[1] * half.stride[1] * (int64_t)sy_dtype_bytes(half.dtype);
    }
    return half;
}

static sy_status product(const sy_experts *x, sy_pass *p, sy_grouped_gemm_args args)
{
    args.mean_width = x->mean_width;
    return args.c.data == NULL ? SY_OK : sy_grouped_gemm(p->stream, &args);
}

static sy_status hidden(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                        const sy_tensor *rows, sy_tensor *h)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor width;
    SY_TRY(widths(x, p, &width));
    for (int64_t i = 0; i < 2; i++) {
        SY_TRY(product(x, p,
                       (sy_grouped_gemm_args){.a = *rows,
                                              .b = half_of(&x->gate_up->value, i),
                                              .c = sy_tensor_cols(h, i * x->ffn, x->ffn),
                                              .start = *start,
                                              .width = width,
                                              .form = SY_GROUPED_NT,
                                              .units = SY_UNITS_ROWS}));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static sy_status output(const sy_experts *x, sy_pass *p, const sy_tensor *start, const sy_tensor *h,
                        sy_tensor *out)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor a, width;
    SY_TRY(widths(x, p, &width));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, h->shape[0], x->ffn, &a));
    SY_TRY(sy_swiglu(p->stream, &(sy_swiglu_args){.x = *h, .y = a}));
    SY_TRY(product(x, p,
                   (sy_grouped_gemm_args){.a = a,
                                          .b = x->down->value,
                                          .c = *out,
                                          .start = *start,
                                          .width = width,
                                          .form = SY_GROUPED_NT,
                                          .units = SY_UNITS_COLUMNS}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* Gradients of rows and of gate and up. */
static sy_status hidden_backward(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                                 const sy_tensor *width, const sy_tensor *rows, const sy_tensor *dh,
                                 sy_tensor *drows)
{
    sy_status st = SY_OK;
    for (int64_t i = 0; i < 2; i++) {
        const sy_tensor dy = sy_tensor_cols(dh, i * x->ffn, x->ffn);
        SY_TRY(product(x, p,
                       (sy_grouped_gemm_args){.a = dy,
                                              .b = half_of(&x->gate_up->value, i),
                                              .c = *drows,
                                              .start = *start,
                                              .width = *width,
                                              .form = SY_GROUPED_NN,
                                              .units = SY_UNITS_ROWS,
                                              .beta = (double)i}));
        SY_TRY(product(x, p,
                       (sy_grouped_gemm_args){.a = dy,
                                              .b = *rows,
                                              .c = half_of(&x->gate_up->grad, i),
                                              .start = *start,
                                              .width = *width,
                                              .form = SY_GROUPED_TN,
                                              .units = SY_UNITS_ROWS,
                                              .beta = 1}));
    }
cleanup:
    return st;
}

static sy_status backward(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                          const sy_tensor *rows, const sy_tensor *h, const sy_tensor *dout,
                          const sy_tensor *weight, sy_tensor *drows, sy_tensor *dot)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), R = rows->shape[0];
    sy_tensor da, dh, wa, width;
    SY_TRY(widths(x, p, &width));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, x->ffn, &da));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, x->ffn, &wa));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, 2 * x->ffn, &dh));
    sy_grouped_gemm_args down = {.a = *dout,
                                 .b = x->down->value,
                                 .c = da,
                                 .start = *start,
                                 .width = width,
                                 .form = SY_GROUPED_NN,
                                 .units = SY_UNITS_COLUMNS};
    SY_TRY(product(x, p, down));
    SY_TRY(sy_swiglu_backward(p->stream, &(sy_swiglu_backward_args){
                                             .x = *h,
                                             .dy = da,
                                             .weight = sy_tensor_1d(weight->data, weight->dtype, R),
                                             .dx = dh,
                                             .wa = wa,
                                             .dot = sy_tensor_1d(dot->data, dot->dtype, R)}));
    down.b = wa;
    down.c = x->down->grad;
    down.form = SY_GROUPED_TN;
    down.beta = 1;
    SY_TRY(product(x, p, down));
    SY_TRY(hidden_backward(x, p, start, &width, rows, &dh, drows));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

const sy__experts_ops sy__ragged_experts = {declare, hidden, output, backward};

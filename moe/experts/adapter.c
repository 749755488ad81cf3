/* Experts that are low-rank deltas (LoRA: Hu et al. 2021, arXiv 2106.09685) on one SwiGLU MLP that
   all share: W_e = W + B_e A_e for gate, up and down. The base is whole on every rank and runs as
   plain products over all rows; a delta is two thin grouped products. A delta begins as zero. */
#include "moe/experts_impl.h"

static sy_status declare_matrix(sy_experts *x, const char *prefix, const char *name, int64_t rows,
                                int64_t columns, sy_init init, sy_params *params, sy_param **out)
{
    sy_param_spec spec = sy__experts_param(x, prefix, name, rows, columns);
    spec.init = init;
    return sy_params_declare(params, &spec, out);
}

static sy_status declare(sy_experts *x, const char *prefix, sy_params *params)
{
    sy_status st = SY_OK;
    const int64_t H = x->hidden, F = x->ffn, r = x->rank;
    sy_param_spec in = sy__experts_param(x, prefix, "in_a", 2 * r, H);
    sy__experts_split(&in, prefix, "gate_a", "up_a");
    SY_TRY(sy_base_declare(&x->base, prefix, params));
    SY_TRY(sy_params_declare(params, &in, &x->in_a));
    SY_TRY(declare_matrix(x, prefix, "gate_b", F, r, SY_INIT_ZEROS, params, &x->gate_b));
    SY_TRY(declare_matrix(x, prefix, "up_b", F, r, SY_INIT_ZEROS, params, &x->up_b));
    SY_TRY(declare_matrix(x, prefix, "down_a", r, F, SY_INIT_NORMAL, params, &x->down_a));
    SY_TRY(declare_matrix(x, prefix, "down_b", H, r, SY_INIT_ZEROS, params, &x->down_b));
cleanup:
    return st;
}

/* y += f(x, W), one matrix per expert. */
static sy_status add_product(sy_pass *p, sy_grouped_form form, const sy_tensor *x,
                             const sy_tensor *w, const sy_tensor *start, const sy_tensor *y)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor part;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, y->shape[0], y->shape[1], &part));
    SY_TRY(sy__experts_gemm(p, form, x, w, start, &part));
    SY_TRY(sy_add(p->stream, &(sy_add_args){.a = *y, .b = part, .y = *y}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* y [R, n] = x A^T, into scratch. */
static sy_status narrow(sy_pass *p, const sy_tensor *x, const sy_param *a, const sy_tensor *start,
                        sy_tensor *y)
{
    sy_status st = SY_OK;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, x->shape[0], a->value.shape[1], y));
    SY_TRY(sy__experts_gemm(p, SY_GROUPED_NT, x, &a->value, start, y));
cleanup:
    return st;
}

static sy_status hidden(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                        const sy_tensor *rows, sy_tensor *h)
{
    sy_status st = SY_OK;
    const int64_t F = x->ffn, r = x->rank;
    int64_t mark = sy_arena_mark(p->scratch);
    const sy_param *b[] = {x->gate_b, x->up_b};
    sy_tensor u;
    SY_TRY(sy_base_forward(&x->base, p, SY_BASE_IN, rows, h));
    SY_TRY(narrow(p, rows, x->in_a, start, &u));
    for (int32_t i = 0; i < 2; i++) {
        sy_tensor from = sy_tensor_cols(&u, i * r, r), to = sy_tensor_cols(h, i * F, F);
        SY_TRY(add_product(p, SY_GROUPED_NT, &from, &b[i]->value, start, &to));
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
    sy_tensor a, v;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, h->shape[0], x->ffn, &a));
    SY_TRY(sy_swiglu(p->stream, &(sy_swiglu_args){.x = *h, .y = a}));
    SY_TRY(sy_base_forward(&x->base, p, SY_BASE_OUT, &a, out));
    SY_TRY(narrow(p, &a, x->down_a, start, &v));
    SY_TRY(add_product(p, SY_GROUPED_NT, &v, &x->down_b->value, start, out));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* Through h: dh, wa and the router signal; gradients of the output matrices. */
static sy_status output_backward(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                                 const sy_tensor *h, const sy_tensor *dout, const sy_tensor *weight,
                                 const sy_tensor *dh, sy_tensor *dot)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), R = h->shape[0];
    sy_tensor da, wa, v, dv;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, x->ffn, &da));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, x->ffn, &wa));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, x->rank, &dv));
    SY_TRY(sy_base_dgrad(&x->base, p, SY_BASE_OUT, dout, &da, 0));
    SY_TRY(sy__experts_gemm(p, SY_GROUPED_NN, dout, &x->down_b->value, start, &dv));
    SY_TRY(add_product(p, SY_GROUPED_NN, &dv, &x->down_a->value, start, &da));
    SY_TRY(sy_swiglu_backward(p->stream, &(sy_swiglu_backward_args){
                                             .x = *h,
                                             .dy = da,
                                             .weight = sy_tensor_1d(weight->data, weight->dtype, R),
                                             .dx = *dh,
                                             .wa = wa,
                                             .dot = sy_tensor_1d(dot->data, dot->dtype, R)}));
    SY_TRY(narrow(p, &wa, x->down_a, start, &v));
    SY_TRY(sy_base_wgrad(&x->base, p, SY_BASE_OUT, dout, &wa));
    SY_TRY(sy__experts_gemm(p, SY_GROUPED_TN, dout, &v, start, &x->down_b->grad));
    SY_TRY(sy__experts_gemm(p, SY_GROUPED_TN, &dv, &wa, start, &x->down_a->grad));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* Gradients of rows and of the input matrices. */
static sy_status hidden_backward(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                                 const sy_tensor *rows, const sy_tensor *dh, sy_tensor *drows)
{
    sy_status st = SY_OK;
    const int64_t F = x->ffn, r = x->rank, R = rows->shape[0];
    int64_t mark = sy_arena_mark(p->scratch);
    const sy_param *b[] = {x->gate_b, x->up_b};
    sy_tensor u, du, half;
    SY_TRY(narrow(p, rows, x->in_a, start, &u));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, 2 * r, &du));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, R, r, &half));
    for (int32_t i = 0; i < 2; i++) {
        sy_tensor dy = sy_tensor_cols(dh, i * F, F), from = sy_tensor_cols(&u, i * r, r);
        SY_TRY(sy__experts_gemm(p, SY_GROUPED_NN, &dy, &b[i]->value, start, &half));
        SY_TRY(sy__experts_gemm(p, SY_GROUPED_TN, &dy, &from, start, &b[i]->grad));
        SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = half, .y = sy_tensor_cols(&du, i * r, r)}));
    }
    SY_TRY(sy_base_dgrad(&x->base, p, SY_BASE_IN, dh, drows, 0));
    SY_TRY(add_product(p, SY_GROUPED_NN, &du, &x->in_a->value, start, drows));
    SY_TRY(sy_base_wgrad(&x->base, p, SY_BASE_IN, dh, rows));
    SY_TRY(sy__experts_gemm(p, SY_GROUPED_TN, &du, rows, start, &x->in_a->grad));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static sy_status backward(const sy_experts *x, sy_pass *p, const sy_tensor *start,
                          const sy_tensor *rows, const sy_tensor *h, const sy_tensor *dout,
                          const sy_tensor *weight, sy_tensor *drows, sy_tensor *dot)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor dh;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, h->shape[0], 2 * x->ffn, &dh));
    SY_TRY(output_backward(x, p, start, h, dout, weight, &dh, dot));
    SY_TRY(hidden_backward(x, p, start, rows, &dh, drows));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

const sy__experts_ops sy__adapter_experts = {declare, hidden, output, backward};

/* Contracts of the elementwise ops, the matrix products, the row permutations and the optimizer. */
#include <math.h>

#include "backend/ops_check_impl.h"

static bool zero_or_one(double beta)
{
    return beta == 0 || beta == 1;
}

sy_status sy__check_fill(const sy_device *dev, const sy_fill_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_fill, args);
    sy__want_any_shape(&c, &args->y, SY_SET_ANY);
    return sy__check_end(&c);
}

sy_status sy__check_cast(const sy_device *dev, const sy_cast_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_cast, args);
    const sy_tensor *x = &args->x, *y = &args->y;
    sy__want_that(&c, x->n_dim >= 1 && x->n_dim <= 3, "x has 1 to 3 dimensions");
    if (c.st == SY_OK) {
        sy__want(&c, x, SY_SET_ANY, SY_STRIDED, x->n_dim, SY__SHAPE(SY_ANY, SY_ANY, SY_ANY));
        sy__want(&c, y, sy_dtype_is_float(x->dtype) ? SY_SET_FLOAT : SY_SET(x->dtype), SY_STRIDED,
                 x->n_dim, x->shape);
    }
    return sy__check_end(&c);
}

sy_status sy__check_add(const sy_device *dev, const sy_add_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_add, args);
    const sy_tensor *a = &args->a;
    const unsigned same = SY_SET(a->dtype);
    sy__want_that(&c, a->n_dim >= 1 && a->n_dim <= 3, "a has 1 to 3 dimensions");
    if (c.st == SY_OK) {
        sy__want(&c, a, sy__set_a(&c) | sy__set_w(&c), SY_STRIDED, a->n_dim,
                 SY__SHAPE(SY_ANY, SY_ANY, SY_ANY));
        sy__want(&c, &args->b, same, SY_STRIDED, a->n_dim, a->shape);
        sy__want(&c, &args->y, same, SY_STRIDED, a->n_dim, a->shape);
    }
    sy__may_alias(&c, &args->y, &args->a);
    sy__may_alias(&c, &args->y, &args->b);
    return sy__check_end(&c);
}

sy_status sy__check_scale(const sy_device *dev, const sy_scale_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_scale, args);
    const sy_tensor *x = &args->x;
    sy__want_any_shape(&c, x, sy__set_a(&c) | sy__set_w(&c));
    sy__want(&c, &args->y, SY_SET(x->dtype), SY_CONTIGUOUS, x->n_dim, x->shape);
    sy__want_that(&c, isfinite(args->factor), "factor is finite");
    sy__may_alias(&c, &args->y, x);
    return sy__check_end(&c);
}

sy_status sy__check_add_bias(const sy_device *dev, const sy_add_bias_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_add_bias, args);
    SY__WANT2(&c, &args->y, sy__set_a(&c), SY_STRIDED, SY_ANY, SY_ANY);
    SY__WANT1(&c, &args->bias, SY_SET(args->y.dtype), SY_CONTIGUOUS, args->y.shape[1]);
    return sy__check_end(&c);
}

sy_status sy__check_column_sum(const sy_device *dev, const sy_column_sum_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_column_sum, args);
    SY__WANT2(&c, &args->x, sy__set_a(&c) | sy__set_w(&c), SY_STRIDED, SY_ANY, SY_ANY);
    SY__WANT1(&c, &args->out, sy__set_w(&c), SY_CONTIGUOUS, args->x.shape[1]);
    return sy__check_end(&c);
}

sy_status sy__check_sum(const sy_device *dev, const sy_sum_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_sum, args);
    sy__want_any_shape(&c, &args->x, sy__set_w(&c) | SY_SET(SY_F64));
    SY__WANT1(&c, &args->out, SY_SET(SY_F64), SY_CONTIGUOUS, 1);
    return sy__check_end(&c);
}

sy_status sy__check_sum_squares(const sy_device *dev, const sy_sum_squares_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_sum_squares, args);
    sy__want_any_shape(&c, &args->x, sy__set_w(&c));
    SY__WANT1(&c, &args->out, SY_SET(SY_F64), SY_CONTIGUOUS, 1);
    return sy__check_end(&c);
}

sy_status sy__check_row_squares(const sy_device *dev, const sy_row_squares_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_row_squares, args);
    SY__WANT2(&c, &args->x, sy__set_a(&c) | sy__set_w(&c), SY_STRIDED, SY_ANY, SY_ANY);
    SY__WANT1(&c, &args->rows, SY_SET(SY_U8), SY_OPTIONAL, args->x.shape[0]);
    SY__WANT1(&c, &args->out, SY_SET(SY_F64), SY_CONTIGUOUS, 1);
    return sy__check_end(&c);
}

sy_status sy__check_jitter(const sy_device *dev, const sy_jitter_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_jitter, args);
    const int64_t T = args->x.shape[0], H = args->x.shape[1];
    SY__WANT2(&c, &args->x, sy__set_a(&c), SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT1(&c, &args->token_glb, SY_SET(SY_I64), SY_CONTIGUOUS, T);
    SY__WANT2(&c, &args->y, SY_SET(args->x.dtype), SY_CONTIGUOUS, T, H);
    sy__want_that(&c, args->eps >= 0 && args->eps < 1, "eps is in [0, 1)");
    sy__may_alias(&c, &args->y, &args->x);
    return sy__check_end(&c);
}

sy_status sy__check_gate(const sy_device *dev, const sy_gate_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_gate, args);
    const int64_t T = args->x.shape[0], H = args->x.shape[1];
    SY__WANT2(&c, &args->x, sy__set_a(&c), SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT1(&c, &args->s, sy__set_w(&c), SY_CONTIGUOUS, T);
    SY__WANT2(&c, &args->y, SY_SET(args->x.dtype), SY_CONTIGUOUS, T, H);
    return sy__check_end(&c);
}

sy_status sy__check_gate_backward(const sy_device *dev, const sy_gate_backward_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_gate_backward, args);
    const int64_t T = args->x.shape[0], H = args->x.shape[1];
    const unsigned same = SY_SET(args->x.dtype);
    SY__WANT2(&c, &args->x, sy__set_a(&c), SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT1(&c, &args->s, sy__set_w(&c), SY_CONTIGUOUS, T);
    SY__WANT2(&c, &args->dy, same, SY_CONTIGUOUS, T, H);
    SY__WANT2(&c, &args->dx, same, SY_CONTIGUOUS, T, H);
    SY__WANT1(&c, &args->ds, sy__set_w(&c), SY_CONTIGUOUS, T);
    return sy__check_end(&c);
}

sy_status sy__check_gemm(const sy_device *dev, const sy_gemm_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_gemm, args);
    const sy_tensor *a = &args->a, *b = &args->b;
    SY__WANT2(&c, a, sy__set_a(&c), SY_STRIDED, SY_ANY, SY_ANY);
    const int64_t M = a->shape[args->trans_a ? 1 : 0], K = a->shape[args->trans_a ? 0 : 1];
    const int64_t N = b->shape[args->trans_b ? 0 : 1];
    const int64_t wanted[2] = {args->trans_b ? SY_ANY : K, args->trans_b ? K : SY_ANY};
    sy__want(&c, b, SY_SET(a->dtype), SY_STRIDED, 2, wanted);
    SY__WANT2(&c, &args->c, SY_SET(a->dtype) | sy__set_w(&c), SY_STRIDED, M, N);
    sy__want_that(&c, zero_or_one(args->beta), "beta is 0 or 1");
    sy__want_that(&c, isfinite(args->alpha), "alpha is finite");
    return sy__check_end(&c);
}

sy_status sy__check_grouped_gemm(const sy_device *dev, const sy_grouped_gemm_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_grouped_gemm, args);
    const sy_tensor *a = &args->a, *b = &args->b;
    const bool wgrad = args->form == SY_GROUPED_TN;
    const int64_t R = a->shape[0], inner = a->shape[1], G = args->start.shape[0] - 1;
    const unsigned same = SY_SET(a->dtype);
    sy__want_that(&c, args->form >= SY_GROUPED_NT && args->form <= SY_GROUPED_TN,
                  "form is NT, NN or TN");
    SY__WANT2(&c, a, sy__set_a(&c), SY_STRIDED, SY_ANY, SY_ANY);
    SY__WANT1(&c, &args->start, SY_SET(SY_I32), SY_CONTIGUOUS, SY_ANY);
    sy__want_that(&c, G >= 0, "start has at least one element");
    SY__WANT1(&c, &args->width, SY_SET(SY_I32), SY_OPTIONAL, G);
    if (wgrad) {
        SY__WANT2(&c, b, same, SY_STRIDED, R, SY_ANY);
        SY__WANT3(&c, &args->c, sy__set_w(&c), SY_STRIDED, G, inner, b->shape[1]);
    } else {
        const bool forward = args->form == SY_GROUPED_NT;
        SY__WANT3(&c, b, same, SY_STRIDED, G, forward ? SY_ANY : inner, forward ? inner : SY_ANY);
        SY__WANT2(&c, &args->c, same | sy__set_w(&c), SY_STRIDED, R, b->shape[forward ? 1 : 2]);
    }
    sy__want_that(&c, args->beta == 1 || (!wgrad && args->beta == 0),
                  "beta is 1, or 0 for NT and NN");
    sy__want_that(&c, args->units == SY_UNITS_ROWS || args->units == SY_UNITS_COLUMNS,
                  "units are rows or columns");
    return sy__check_end(&c);
}

sy_status sy__check_gather_rows(const sy_device *dev, const sy_gather_rows_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_gather_rows, args);
    const sy_tensor *x = &args->x;
    SY__WANT2(&c, x, SY_SET_ANY, SY_STRIDED, SY_ANY, SY_ANY);
    SY__WANT1(&c, &args->idx, SY_SET(SY_I32), SY_CONTIGUOUS, SY_ANY);
    SY__WANT2(&c, &args->y, SY_SET(x->dtype), SY_CONTIGUOUS, args->idx.shape[0], x->shape[1]);
    return sy__check_end(&c);
}

sy_status sy__check_combine_rows(const sy_device *dev, const sy_combine_rows_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_combine_rows, args);
    const sy_tensor *rows = &args->rows;
    SY__WANT2(&c, rows, sy__set_a(&c), SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT1(&c, &args->weight, sy__set_w(&c), SY_OPTIONAL, rows->shape[0]);
    SY__WANT2(&c, &args->y, SY_SET(rows->dtype), SY_CONTIGUOUS, SY_ANY, rows->shape[1]);
    SY__WANT1(&c, &args->token_start, SY_SET(SY_I32), SY_CONTIGUOUS, args->y.shape[0] + 1);
    SY__WANT1(&c, &args->token_row, SY_SET(SY_I32), SY_CONTIGUOUS, SY_ANY);
    sy__want_that(&c, zero_or_one(args->beta), "beta is 0 or 1");
    return sy__check_end(&c);
}

sy_status sy__check_adamw(const sy_device *dev, const sy_adamw_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_adamw, args);
    const unsigned wide = sy__set_w(&c);
    const int64_t n = args->master.shape[0];
    SY__WANT1(&c, &args->master, wide, SY_CONTIGUOUS, SY_ANY);
    SY__WANT1(&c, &args->m, wide, SY_CONTIGUOUS, n);
    SY__WANT1(&c, &args->v, wide, SY_CONTIGUOUS, n);
    SY__WANT1(&c, &args->grad, wide, SY_CONTIGUOUS, n);
    SY__WANT1(&c, &args->param, sy__set_a(&c), SY_OPTIONAL, n);
    SY__WANT1(&c, &args->ctl, SY_SET(SY_F64), SY_CONTIGUOUS, SY_CTL_N);
    sy__want_that(&c, args->beta1 >= 0 && args->beta1 < 1, "beta1 is in [0, 1)");
    sy__want_that(&c, args->beta2 >= 0 && args->beta2 < 1, "beta2 is in [0, 1)");
    sy__want_that(&c, args->eps >= 0 && args->decay >= 0, "eps and decay are not negative");
    return sy__check_end(&c);
}

/* Contracts of Adafactor's ops. */
#include "backend/ops_check_impl.h"

/* n elements of B matrices, and where their sums stand. */
static void want_shape(sy__check *c, const sy_factored *s, int64_t n, int64_t B)
{
    const bool sound = s->rows >= 1 && s->columns >= 1;
    sy__want_that(c, sound, "rows and columns are positive");
    sy__want_that(c, s->first >= 0 && (!sound || s->first + n <= B * s->rows * s->columns),
                  "the part lies in the matrices");
}

static void want_stats(sy__check *c, const sy_tensor *row, const sy_tensor *column, unsigned dtype,
                       const sy_factored *s, int64_t B)
{
    SY__WANT1(c, row, dtype, SY_CONTIGUOUS, B * s->rows);
    SY__WANT1(c, column, dtype, SY_CONTIGUOUS, B * s->columns);
}

sy_status sy__check_adafactor_sums(const sy_device *dev, const sy_adafactor_sums_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_adafactor_sums, args);
    const int64_t n = args->grad.shape[0], B = args->squares.shape[0];
    SY__WANT1(&c, &args->grad, sy__set_w(&c), SY_CONTIGUOUS, SY_ANY);
    SY__WANT1(&c, &args->master, sy__set_w(&c), SY_CONTIGUOUS, n);
    SY__WANT1(&c, &args->ctl, SY_SET(SY_F64), SY_CONTIGUOUS, SY_CTL_N);
    SY__WANT1(&c, &args->squares, SY_SET(SY_F64), SY_CONTIGUOUS, SY_ANY);
    want_shape(&c, &args->shape, n, B);
    want_stats(&c, &args->row_sum, &args->column_sum, SY_SET(SY_F64), &args->shape, B);
    sy__want_that(&c, args->eps1 >= 0, "eps1 is not negative");
    return sy__check_end(&c);
}

sy_status sy__check_adafactor_moments(const sy_device *dev, const sy_adafactor_moments_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_adafactor_moments, args);
    const int64_t B = args->total.shape[0];
    SY__WANT1(&c, &args->total, SY_SET(SY_F64), SY_CONTIGUOUS, SY_ANY);
    SY__WANT1(&c, &args->row, sy__set_w(&c), SY_CONTIGUOUS, SY_ANY);
    SY__WANT1(&c, &args->column, sy__set_w(&c), SY_CONTIGUOUS, SY_ANY);
    SY__WANT1(&c, &args->row_sum, SY_SET(SY_F64), SY_CONTIGUOUS, args->row.shape[0]);
    SY__WANT1(&c, &args->column_sum, SY_SET(SY_F64), SY_CONTIGUOUS, args->column.shape[0]);
    SY__WANT1(&c, &args->ctl, SY_SET(SY_F64), SY_CONTIGUOUS, SY_CTL_N);
    sy__want_that(&c, B > 0 ? args->row.shape[0] % B == 0 : args->row.shape[0] == 0,
                  "row has the same rows of every matrix");
    return sy__check_end(&c);
}

sy_status sy__check_adafactor_squares(const sy_device *dev, const sy_adafactor_squares_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_adafactor_squares, args);
    const int64_t n = args->grad.shape[0], B = args->squares.shape[0];
    SY__WANT1(&c, &args->grad, sy__set_w(&c), SY_CONTIGUOUS, SY_ANY);
    SY__WANT1(&c, &args->ctl, SY_SET(SY_F64), SY_CONTIGUOUS, SY_CTL_N);
    SY__WANT1(&c, &args->squares, SY_SET(SY_F64), SY_CONTIGUOUS, SY_ANY);
    SY__WANT1(&c, &args->total, SY_SET(SY_F64), SY_CONTIGUOUS, B);
    want_shape(&c, &args->shape, n, B);
    want_stats(&c, &args->row, &args->column, sy__set_w(&c), &args->shape, B);
    return sy__check_end(&c);
}

sy_status sy__check_adafactor(const sy_device *dev, const sy_adafactor_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_adafactor, args);
    const int64_t n = args->master.shape[0], B = args->total.shape[0];
    const unsigned wide = sy__set_w(&c);
    SY__WANT1(&c, &args->master, wide, SY_CONTIGUOUS, SY_ANY);
    SY__WANT1(&c, &args->m, wide, SY_OPTIONAL, n);
    SY__WANT1(&c, &args->grad, wide, SY_CONTIGUOUS, n);
    SY__WANT1(&c, &args->param, sy__set_a(&c), SY_OPTIONAL, n);
    SY__WANT1(&c, &args->ctl, SY_SET(SY_F64), SY_CONTIGUOUS, SY_CTL_N);
    SY__WANT1(&c, &args->total, SY_SET(SY_F64), SY_CONTIGUOUS, SY_ANY);
    SY__WANT1(&c, &args->param_squares, SY_SET(SY_F64), SY_CONTIGUOUS, B);
    SY__WANT1(&c, &args->update_squares, SY_SET(SY_F64), SY_CONTIGUOUS, B);
    want_shape(&c, &args->shape, n, B);
    want_stats(&c, &args->row, &args->column, wide, &args->shape, B);
    sy__want_that(&c, args->beta1 >= 0 && args->beta1 < 1, "beta1 is in [0, 1)");
    sy__want_that(&c, args->clip >= 0 && args->eps2 >= 0 && args->decay >= 0,
                  "clip, eps2 and decay are not negative");
    return sy__check_end(&c);
}

/* Ops that treat every element alike, and plain sums over elements. */
#include "backend/ref/ref_impl.h"

#include "core/rng.h"

sy_status sy__ref_fill(sy_stream *stream, const sy_fill_args *args)
{
    (void)stream;
    const int64_t n = sy_tensor_numel(&args->y);
    void *y = args->y.data;
    for (int64_t i = 0; i < n; i++) {
        switch (args->y.dtype) {
        case SY_I32:
            ((int32_t *)y)[i] = (int32_t)args->value;
            break;
        case SY_I64:
            ((int64_t *)y)[i] = (int64_t)args->value;
            break;
        case SY_U8:
            ((uint8_t *)y)[i] = (uint8_t)args->value;
            break;
        default:
            sy_convert(args->y.dtype, (char *)y + i * (int64_t)sy_dtype_bytes(args->y.dtype),
                       SY_F64, &args->value, 1);
        }
    }
    return SY_OK;
}

/* The last dimension of one row: n elements side by side. */
static void cast_row(const sy_tensor *x, int64_t x_first, const sy_tensor *y, int64_t y_first,
                     int64_t n)
{
    const char *from = (const char *)x->data + x_first * (int64_t)sy_dtype_bytes(x->dtype);
    char *to = (char *)y->data + y_first * (int64_t)sy_dtype_bytes(y->dtype);
    if (x->dtype == y->dtype) {
        memmove(to, from, (size_t)n * sy_dtype_bytes(x->dtype));
    } else {
        sy_convert(y->dtype, to, x->dtype, from, n);
    }
}

sy_status sy__ref_cast(sy_stream *stream, const sy_cast_args *args)
{
    (void)stream;
    const sy_tensor *x = &args->x, *y = &args->y;
    const int32_t last = x->n_dim - 1;
    const int64_t n0 = last >= 1 ? x->shape[0] : 1, n1 = last >= 2 ? x->shape[1] : 1;
    if (sy_tensor_numel(x) == 0) {
        return SY_OK;
    }
    for (int64_t i = 0; i < n0; i++) {
        for (int64_t j = 0; j < n1; j++) {
            const int64_t x_first = i * x->stride[0] + j * x->stride[1];
            const int64_t y_first = i * y->stride[0] + j * y->stride[1];
            cast_row(x, x_first, y, y_first, x->shape[last]);
        }
    }
    return SY_OK;
}

sy_status sy__ref_add(sy_stream *stream, const sy_add_args *args)
{
    (void)stream;
    const sy_tensor *a = &args->a, *b = &args->b, *y = &args->y;
    const int32_t last = y->n_dim - 1;
    const int64_t n0 = last >= 1 ? y->shape[0] : 1, n1 = last >= 2 ? y->shape[1] : 1;
    for (int64_t i = 0; i < n0; i++) {
        for (int64_t j = 0; j < n1; j++) {
            const double *from_a = (double *)a->data + i * a->stride[0] + j * a->stride[1];
            const double *from_b = (double *)b->data + i * b->stride[0] + j * b->stride[1];
            double *to = (double *)y->data + i * y->stride[0] + j * y->stride[1];
            for (int64_t k = 0; k < y->shape[last]; k++) {
                to[k] = from_a[k] + from_b[k];
            }
        }
    }
    return SY_OK;
}

sy_status sy__ref_scale(sy_stream *stream, const sy_scale_args *args)
{
    (void)stream;
    const double *x = args->x.data;
    double *y = args->y.data;
    const int64_t n = sy_tensor_numel(&args->y);
    for (int64_t i = 0; i < n; i++) {
        y[i] = args->factor * x[i];
    }
    return SY_OK;
}

sy_status sy__ref_add_bias(sy_stream *stream, const sy_add_bias_args *args)
{
    (void)stream;
    const double *bias = args->bias.data;
    for (int64_t t = 0; t < args->y.shape[0]; t++) {
        double *y = sy__ref_row(&args->y, t);
        for (int64_t n = 0; n < args->y.shape[1]; n++) {
            y[n] += bias[n];
        }
    }
    return SY_OK;
}

sy_status sy__ref_column_sum(sy_stream *stream, const sy_column_sum_args *args)
{
    (void)stream;
    double *out = args->out.data;
    for (int64_t t = 0; t < args->x.shape[0]; t++) {
        const double *x = sy__ref_row(&args->x, t);
        for (int64_t n = 0; n < args->x.shape[1]; n++) {
            out[n] += x[n];
        }
    }
    return SY_OK;
}

sy_status sy__ref_sum(sy_stream *stream, const sy_sum_args *args)
{
    (void)stream;
    const double *x = args->x.data;
    const int64_t n = sy_tensor_numel(&args->x);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += x[i];
    }
    *(double *)args->out.data += args->scale * sum;
    return SY_OK;
}

sy_status sy__ref_sum_squares(sy_stream *stream, const sy_sum_squares_args *args)
{
    (void)stream;
    const double *x = args->x.data;
    *(double *)args->out.data += sy__ref_dot(x, x, sy_tensor_numel(&args->x));
    return SY_OK;
}

sy_status sy__ref_row_squares(sy_stream *stream, const sy_row_squares_args *args)
{
    (void)stream;
    const uint8_t *rows = args->rows.data;
    for (int64_t t = 0; t < args->x.shape[0]; t++) {
        const double *x = sy__ref_row(&args->x, t);
        if (!rows || rows[t]) {
            *(double *)args->out.data += sy__ref_dot(x, x, args->x.shape[1]);
        }
    }
    return SY_OK;
}

sy_status sy__ref_jitter(sy_stream *stream, const sy_jitter_args *args)
{
    (void)stream;
    const int64_t H = args->x.shape[1];
    const int64_t *token_glb = args->token_glb.data;
    for (int64_t t = 0; t < args->x.shape[0]; t++) {
        const double *x = sy__ref_row(&args->x, t);
        double *y = sy__ref_row(&args->y, t);
        for (int64_t h = 0; h < H; h++) {
            const uint64_t index = (uint64_t)(token_glb[t] * H + h);
            const double u = sy_rng_uniform(args->seed, args->stream, index);
            y[h] = x[h] * (1 + args->eps * (2 * u - 1));
        }
    }
    return SY_OK;
}

sy_status sy__ref_gate(sy_stream *stream, const sy_gate_args *args)
{
    (void)stream;
    const double *s = args->s.data;
    for (int64_t t = 0; t < args->x.shape[0]; t++) {
        const double *x = sy__ref_row(&args->x, t);
        double *y = sy__ref_row(&args->y, t);
        for (int64_t h = 0; h < args->x.shape[1]; h++) {
            y[h] = (args->plain ? s[t] : sy__ref_sigmoid(s[t])) * x[h];
        }
    }
    return SY_OK;
}

sy_status sy__ref_gate_backward(sy_stream *stream, const sy_gate_backward_args *args)
{
    (void)stream;
    const double *s = args->s.data;
    double *ds = args->ds.data;
    const int64_t H = args->x.shape[1];
    for (int64_t t = 0; t < args->x.shape[0]; t++) {
        const double gate = args->plain ? s[t] : sy__ref_sigmoid(s[t]);
        const double slope = args->plain ? 1 : gate * (1 - gate);
        const double *dy = sy__ref_row(&args->dy, t);
        double *dx = sy__ref_row(&args->dx, t);
        ds[t] = slope * sy__ref_dot(dy, sy__ref_row(&args->x, t), H);
        for (int64_t h = 0; h < H; h++) {
            dx[h] = gate * dy[h];
        }
    }
    return SY_OK;
}

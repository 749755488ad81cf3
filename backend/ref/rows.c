/* Ops that pick rows: embedding, gather, and the weighted sum of a token's rows. */
#include "backend/ref/ref_impl.h"

sy_status sy__ref_embed(sy_stream *stream, const sy_embed_args *args)
{
    (void)stream;
    const int32_t *ids = args->ids.data;
    for (int64_t t = 0; t < args->y.shape[0]; t++) {
        memcpy(sy__ref_row(&args->y, t), sy__ref_row(&args->w, ids[t]),
               (size_t)args->y.shape[1] * sizeof(double));
    }
    return SY_OK;
}

sy_status sy__ref_embed_backward(sy_stream *stream, const sy_embed_backward_args *args)
{
    (void)stream;
    const int32_t *ids = args->ids.data;
    for (int64_t t = 0; t < args->dy.shape[0]; t++) {
        const double *dy = sy__ref_row(&args->dy, t);
        double *dw = sy__ref_row(&args->dw, ids[t]);
        for (int64_t h = 0; h < args->dy.shape[1]; h++) {
            dw[h] += dy[h];
        }
    }
    return SY_OK;
}

sy_status sy__ref_gather_rows(sy_stream *stream, const sy_gather_rows_args *args)
{
    (void)stream;
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(args->x.dtype);
    const size_t row_bytes = (size_t)(args->y.shape[1] * elem_bytes);
    const int32_t *idx = args->idx.data;
    for (int64_t i = 0; i < args->y.shape[0]; i++) {
        char *y = (char *)args->y.data + i * (int64_t)row_bytes;
        if (idx[i] < 0) {
            memset(y, 0, row_bytes);
        } else {
            memcpy(y, (char *)args->x.data + idx[i] * args->x.stride[0] * elem_bytes, row_bytes);
        }
    }
    return SY_OK;
}

sy_status sy__ref_combine_rows(sy_stream *stream, const sy_combine_rows_args *args)
{
    (void)stream;
    const int64_t H = args->y.shape[1];
    const int32_t *token_start = args->token_start.data, *token_row = args->token_row.data;
    const double *weight = args->weight.data;
    for (int64_t t = 0; t < args->y.shape[0]; t++) {
        double *y = sy__ref_row(&args->y, t);
        for (int64_t h = 0; h < H && args->beta == 0; h++) {
            y[h] = 0;
        }
        for (int64_t j = token_start[t]; j < token_start[t + 1]; j++) {
            const double *row = sy__ref_row(&args->rows, token_row[j]);
            const double w = weight ? weight[token_row[j]] : 1;
            for (int64_t h = 0; h < H; h++) {
                y[h] += w * row[h];
            }
        }
    }
    return SY_OK;
}

/* Terms of the output that are computed where the token is, whatever the router: copies of the
   input and learnt vectors, with weights per token. Nothing is sent. */
#include "moe/moe_impl.h"

#include <stdio.h>

static bool has_copy(const sy__local *l)
{
    return l->copy.data != NULL;
}

sy_status sy__local_declare(sy__moe *moe, const char *prefix, sy_params *params)
{
    sy_param_spec spec = {.n_dim = 2,
                          .shape_glb = {moe->layout.n_vectors, moe->model->hidden},
                          .shard_dim = -1,
                          .replicas = SY_DENSE,
                          .init = SY_INIT_NORMAL,
                          .init_std = moe->layout.vectors_std,
                          .trainable = true};
    snprintf(spec.name, sizeof spec.name, "%s/moe/vectors", prefix);
    return moe->layout.n_vectors > 0 ? sy_params_declare(params, &spec, &moe->vectors) : SY_OK;
}

/* 0 .. T, in p->keep. */
static sy_status count_up(sy_pass *p, int64_t T, sy_tensor *out)
{
    sy_status st = SY_OK;
    int32_t *host = NULL;
    SY_TRY(sy_host_arena_alloc(p->host, (T + 1) * (int64_t)sizeof *host, (void **)&host));
    for (int64_t t = 0; t <= T; t++) {
        host[t] = (int32_t)t;
    }
    SY_TRY(sy_arena_1d(p->keep, SY_I32, T + 1, out));
    SY_TRY(sy_copy_h2d(p->stream, out->data, host, sy_tensor_bytes(out)));
cleanup:
    return st;
}

sy_status sy__local_allocate(const sy__moe *moe, sy_pass *p, sy__local *out)
{
    sy_status st = SY_OK;
    const int64_t T = p->batch->T;
    *out = (sy__local){0};
    if (moe->layout.copies) {
        SY_TRY(sy_arena_1d(p->keep, p->wide, T, &out->copy));
        SY_TRY(count_up(p, T, &out->each));
    }
    if (moe->layout.n_vectors > 0) {
        SY_TRY(sy_arena_2d(p->keep, p->compute, T, moe->layout.n_vectors, &out->mix));
    }
cleanup:
    return st;
}

/* y_t += copy_t x_t: every token has one row, its own. */
static sy_status add_copies(sy_pass *p, const sy__local *l, const sy_tensor *x, const sy_tensor *y)
{
    return sy_combine_rows(
        p->stream, &(sy_combine_rows_args){.rows = *x,
                                           .weight = l->copy,
                                           .token_start = l->each,
                                           .token_row = sy_tensor_rows(&l->each, 0, x->shape[0]),
                                           .y = *y,
                                           .beta = 1});
}

sy_status sy__local_forward(const sy__moe *moe, sy_pass *p, const sy__local *l, const sy_tensor *x,
                            sy_tensor *y)
{
    sy_status st = SY_OK;
    if (has_copy(l)) {
        SY_TRY(add_copies(p, l, x, y));
    }
    if (moe->vectors != NULL) {
        SY_TRY(sy_linear_dgrad(p, &l->mix, &moe->vectors->value, y, 1));
    }
cleanup:
    return st;
}

/* A gate at 0 is a half, and its slope a quarter: ds is <dy, x> / 4. */
static sy_status copy_gradient(sy_pass *p, const sy_tensor *x, const sy_tensor *dy,
                               const sy_tensor *ds)
{
    sy_status st = SY_OK;
    const int64_t T = x->shape[0], mark = sy_arena_mark(p->scratch);
    sy_tensor half, zero;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, x->shape[1], &half));
    SY_TRY(sy_arena_1d(p->scratch, p->wide, T, &zero));
    SY_TRY(sy_zero(p->stream, zero.data, sy_tensor_bytes(&zero)));
    SY_TRY(sy_gate_backward(
        p->stream, &(sy_gate_backward_args){.x = *x, .s = zero, .dy = *dy, .dx = half, .ds = *ds}));
    SY_TRY(sy_scale(p->stream, &(sy_scale_args){.x = *ds, .y = *ds, .factor = 4}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy__local_backward(const sy__moe *moe, sy_pass *p, const sy__local *l, const sy_tensor *x,
                             const sy_tensor *dy, const sy_tensor *dx, sy__local *grad)
{
    sy_status st = SY_OK;
    const int64_t T = x->shape[0];
    *grad = (sy__local){0};
    if (has_copy(l)) {
        SY_TRY(sy_arena_1d(p->scratch, p->wide, T, &grad->copy));
        SY_TRY(copy_gradient(p, x, dy, &grad->copy));
        SY_TRY(add_copies(p, l, dy, dx));
    }
    if (moe->vectors != NULL) {
        SY_TRY(sy_arena_2d(p->scratch, p->wide, T, moe->layout.n_vectors, &grad->mix));
        SY_TRY(sy_linear_forward(p, dy, &moe->vectors->value, &grad->mix));
        SY_TRY(sy_linear_wgrad(p, &l->mix, dy, &moe->vectors->grad));
    }
cleanup:
    return st;
}

#include "moe/base.h"

#include <stdio.h>

#include "backend/nf4.h"

enum { UNPACKED = 1 << 21 }; /* weights at a time */

/* ---- parameters ---- */

static sy_status declare_packed(const sy_base *b, const char *prefix, const char *const *names,
                                int64_t rows, int64_t columns, sy_params *params, sy_param **out)
{
    const bool two = names[1] != NULL;
    sy_param_spec spec = {.n_dim = 2,
                          .shape_glb = {rows, sy_nf4_row_bytes(columns)},
                          .n_pieces = two ? 2 : 0,
                          .shard_dim = -1,
                          .replicas = SY_DENSE,
                          .init = SY_INIT_NORMAL,
                          .init_std = two ? b->mlp.init_std : b->mlp.down_std,
                          .packed_columns = columns};
    snprintf(spec.name, sizeof spec.name, "%s/base/%s_nf4", prefix, two ? "gate_up" : names[0]);
    for (int32_t i = 0; i < spec.n_pieces; i++) {
        snprintf(spec.piece[i].name, sizeof spec.piece[i].name, "%s/base/%s_nf4", prefix, names[i]);
        spec.piece[i].extent = rows / 2;
    }
    return sy_params_declare(params, &spec, out);
}

sy_status sy_base_declare(sy_base *b, const char *prefix, sy_params *params)
{
    static const char *const in[] = {"gate", "up"}, *const out[] = {"down", NULL};
    sy_status st = SY_OK;
    const int64_t H = b->mlp.hidden, F = b->mlp.ffn;
    char name[SY_PARAM_NAME];
    if (!b->packed) {
        snprintf(name, sizeof name, "%s/base", prefix);
        return sy_mlp_declare(&b->mlp, name, params);
    }
    SY_TRY(declare_packed(b, prefix, in, 2 * F, H, params, &b->in));
    SY_TRY(declare_packed(b, prefix, out, H, F, params, &b->out));
cleanup:
    return st;
}

/* ---- products ---- */

static const sy_param *full(const sy_base *b, sy_base_matrix which)
{
    return which == SY_BASE_IN ? b->mlp.gate_up : b->mlp.down;
}

/* Rows [first, first + n) of a matrix, unpacked into w. */
static sy_status unpack(sy_pass *p, const sy_param *m, int64_t first, int64_t n, const sy_tensor *w)
{
    return sy_dequantize_nf4(p->stream,
                             &(sy_dequantize_nf4_args){.x = sy_tensor_rows(&m->value, first, n),
                                                       .y = sy_tensor_rows(w, 0, n)});
}

/* How many rows there are at a time, and room for them. */
static sy_status room(sy_pass *p, const sy_param *m, int64_t *rows, sy_tensor *w)
{
    const int64_t K = m->spec.packed_columns,
                  most = UNPACKED / K > 64 ? UNPACKED / K / 64 * 64 : 64;
    *rows = most < m->value.shape[0] ? most : m->value.shape[0];
    return sy_arena_2d(p->scratch, p->compute, *rows, K, w);
}

sy_status sy_base_forward(const sy_base *b, sy_pass *p, sy_base_matrix which, const sy_tensor *x,
                          const sy_tensor *y)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), rows = 0;
    const sy_param *m = which == SY_BASE_IN ? b->in : b->out;
    sy_tensor w, to = *y;
    if (!b->packed) {
        return sy_linear_forward(p, x, &full(b, which)->value, &to);
    }
    SY_TRY(room(p, m, &rows, &w));
    for (int64_t at = 0; at < m->value.shape[0]; at += rows) {
        const int64_t n = rows < m->value.shape[0] - at ? rows : m->value.shape[0] - at;
        const sy_tensor part = sy_tensor_rows(&w, 0, n);
        SY_TRY(unpack(p, m, at, n, &w));
        to = sy_tensor_cols(y, at, n);
        SY_TRY(sy_linear_forward(p, x, &part, &to));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy_base_dgrad(const sy_base *b, sy_pass *p, sy_base_matrix which, const sy_tensor *dy,
                        const sy_tensor *dx, double beta)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), rows = 0;
    const sy_param *m = which == SY_BASE_IN ? b->in : b->out;
    sy_tensor w, to = *dx;
    if (!b->packed) {
        return sy_linear_dgrad(p, dy, &full(b, which)->value, &to, beta);
    }
    SY_TRY(room(p, m, &rows, &w));
    for (int64_t at = 0; at < m->value.shape[0]; at += rows) {
        const int64_t n = rows < m->value.shape[0] - at ? rows : m->value.shape[0] - at;
        const sy_tensor part = sy_tensor_rows(&w, 0, n), from = sy_tensor_cols(dy, at, n);
        SY_TRY(unpack(p, m, at, n, &w));
        SY_TRY(sy_linear_dgrad(p, &from, &part, &to, at > 0 ? 1 : beta));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy_base_wgrad(const sy_base *b, sy_pass *p, sy_base_matrix which, const sy_tensor *dy,
                        const sy_tensor *x)
{
    return b->packed ? SY_OK : sy_linear_wgrad(p, dy, x, &full(b, which)->grad);
}

/* ---- the MLP ---- */

sy_status sy_base_mlp_forward(const sy_base *b, sy_pass *p, const sy_tensor *x, const sy_tensor *h,
                              const sy_tensor *y)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor a;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, x->shape[0], b->mlp.ffn, &a));
    SY_TRY(sy_base_forward(b, p, SY_BASE_IN, x, h));
    SY_TRY(sy_swiglu(p->stream, &(sy_swiglu_args){.x = *h, .y = a}));
    SY_TRY(sy_base_forward(b, p, SY_BASE_OUT, &a, y));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy_base_mlp_backward(const sy_base *b, sy_pass *p, const sy_tensor *x, const sy_tensor *h,
                               const sy_tensor *dy, const sy_tensor *dx)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), T = x->shape[0], F = b->mlp.ffn;
    sy_tensor da, a, dh;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, F, &da));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, F, &a));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, 2 * F, &dh));
    SY_TRY(sy_base_dgrad(b, p, SY_BASE_OUT, dy, &da, 0));
    SY_TRY(sy_swiglu_backward(p->stream,
                              &(sy_swiglu_backward_args){.x = *h, .dy = da, .dx = dh, .wa = a}));
    SY_TRY(sy_base_wgrad(b, p, SY_BASE_OUT, dy, &a));
    SY_TRY(sy_base_wgrad(b, p, SY_BASE_IN, &dh, x));
    if (dx->data != NULL) {
        SY_TRY(sy_base_dgrad(b, p, SY_BASE_IN, &dh, dx, 0));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

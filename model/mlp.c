#include "model/mlp.h"

#include <stdio.h>

#include "core/alloc.h"

typedef struct mlp_saved {
    sy_tensor h; /* [T, P F] gate | up */
} mlp_saved;

void sy_mlp_pieces(sy_param_spec *spec, sy_act act, const char *prefix, int32_t piece_dim,
                   int64_t extent)
{
    static const char *const names[3][3] = {{"up"}, {"gate", "up"}, {"gate", "linear", "up"}};
    const int32_t n = sy_act_parts(act);
    spec->n_pieces = n > 1 ? n : 0;
    spec->piece_dim = piece_dim;
    for (int32_t i = 0; i < spec->n_pieces; i++) {
        sy_piece *piece = &spec->piece[i];
        snprintf(piece->name, sizeof piece->name, "%s/%s", prefix, names[n - 1][i]);
        piece->extent = extent;
    }
    if (n == 1) {
        snprintf(spec->name, sizeof spec->name, "%s/%s", prefix, names[0][0]);
    }
}

sy_status sy_mlp_activate(sy_pass *p, sy_act act, const sy_tensor *h, const sy_tensor *a)
{
    return act == SY_ACT_SWIGLU
               ? sy_swiglu(p->stream, &(sy_swiglu_args){.x = *h, .y = *a})
               : sy_activation(p->stream, &(sy_activation_args){.x = *h, .y = *a, .act = act});
}

sy_status sy_mlp_activate_backward(sy_pass *p, sy_act act, const sy_swiglu_backward_args *args)
{
    return act == SY_ACT_SWIGLU
               ? sy_swiglu_backward(p->stream, args)
               : sy_activation_backward(p->stream,
                                        &(sy_activation_backward_args){.x = args->x,
                                                                       .dy = args->dy,
                                                                       .weight = args->weight,
                                                                       .dx = args->dx,
                                                                       .wa = args->wa,
                                                                       .dot = args->dot,
                                                                       .act = act});
}

sy_status sy_mlp_declare(sy_mlp *mlp, const char *prefix, sy_params *params)
{
    sy_status st = SY_OK;
    const int64_t inner = sy_act_parts(mlp->act) * mlp->ffn;
    sy_param_spec gate_up =
        sy_param_matrix(inner, mlp->hidden, mlp->init_std, "%s/gate_up", prefix);
    const sy_param_spec down =
        sy_param_matrix(mlp->hidden, mlp->ffn, mlp->down_std, "%s/down", prefix);
    sy_mlp_pieces(&gate_up, mlp->act, prefix, 0, mlp->ffn);
    SY_TRY(sy_params_declare(params, &gate_up, &mlp->gate_up));
    SY_TRY(sy_params_declare(params, &down, &mlp->down));
cleanup:
    return st;
}

/* h [T, P F] from x, into an arena. */
static sy_status compute_h(const sy_mlp *mlp, sy_pass *p, sy_arena *arena, const sy_tensor *x,
                           sy_tensor *h)
{
    sy_status st = SY_OK;
    SY_TRY(sy_arena_2d(arena, p->compute, x->shape[0], sy_act_parts(mlp->act) * mlp->ffn, h));
    SY_TRY(sy_linear_forward(p, x, &mlp->gate_up->value, h));
cleanup:
    return st;
}

sy_status sy_mlp_forward(const sy_mlp *mlp, sy_pass *p, const sy_tensor *x, sy_tensor *y,
                         void **saved)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    mlp_saved *s = saved != NULL ? *saved : NULL;
    sy_tensor h, a;

    if (saved != NULL && s == NULL) {
        SY_TRY(sy_host_arena_alloc(p->host, sizeof *s, (void **)&s));
    }
    SY_TRY(compute_h(mlp, p, saved != NULL ? p->saved : p->scratch, x, &h));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, x->shape[0], mlp->ffn, &a));
    SY_TRY(sy_mlp_activate(p, mlp->act, &h, &a));
    SY_TRY(sy_linear_forward(p, &a, &mlp->down->value, y));
    if (saved != NULL) {
        s->h = h;
        *saved = s;
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy_mlp_backward(const sy_mlp *mlp, sy_pass *p, void *saved, const sy_tensor *x,
                          const sy_tensor *dy, sy_tensor *dx)
{
    sy_status st = SY_OK;
    const mlp_saved *s = saved;
    int64_t mark = sy_arena_mark(p->scratch), T = x->shape[0];
    sy_tensor da, dh, a;

    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, mlp->ffn, &da));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, mlp->ffn, &a));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, sy_act_parts(mlp->act) * mlp->ffn, &dh));
    SY_TRY(sy_linear_dgrad(p, dy, &mlp->down->value, &da, 0));
    SY_TRY(sy_mlp_activate_backward(
        p, mlp->act, &(sy_swiglu_backward_args){.x = s->h, .dy = da, .dx = dh, .wa = a}));
    SY_TRY(sy_linear_wgrad(p, dy, &a, &mlp->down->grad));
    if (dx->data != NULL) {
        SY_TRY(sy_linear_dgrad(p, &dh, &mlp->gate_up->value, dx, 0));
    }
    SY_TRY(sy_linear_wgrad(p, &dh, x, &mlp->gate_up->grad));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static sy_status sublayer_declare(void *self, const char *prefix, sy_params *params)
{
    char name[SY_PARAM_NAME];
    snprintf(name, sizeof name, "%s/mlp", prefix);
    return sy_mlp_declare(self, name, params);
}

static sy_status sublayer_forward(void *self, sy_pass *p, const sy_tensor *x, sy_tensor *y,
                                  void **saved)
{
    return sy_mlp_forward(self, p, x, y, saved);
}

static sy_status sublayer_backward(void *self, sy_pass *p, void *saved, const sy_tensor *x,
                                   const sy_tensor *dy, sy_tensor *dx)
{
    return sy_mlp_backward(self, p, saved, x, dy, dx);
}

static void sublayer_destroy(void *self)
{
    sy_mlp *mlp = self;
    sy_free(&mlp);
}

static const sy_sublayer_ops mlp_ops = {
    .name = "mlp",
    .declare = sublayer_declare,
    .forward = sublayer_forward,
    .backward = sublayer_backward,
    .destroy = sublayer_destroy,
};

sy_status sy_mlp_create(const sy_mlp *shape, sy_sublayer *out)
{
    sy_status st = SY_OK;
    sy_mlp *mlp = NULL;
    SY_TRY(sy_alloc(1, sizeof *mlp, (void **)&mlp));
    *mlp = *shape;
    *out = (sy_sublayer){&mlp_ops, mlp};
cleanup:
    return st;
}

/* Contracts of the ops of a block: embedding, norm, rotary positions, attention, activation, loss.
 */
#include <math.h>

#include "backend/ops_check_impl.h"
#include "backend/nf4.h"

sy_status sy__check_embed(const sy_device *dev, const sy_embed_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_embed, args);
    SY__WANT2(&c, &args->w, sy__set_a(&c), SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT1(&c, &args->ids, SY_SET(SY_I32), SY_CONTIGUOUS, SY_ANY);
    SY__WANT2(&c, &args->y, SY_SET(args->w.dtype), SY_CONTIGUOUS, args->ids.shape[0],
              args->w.shape[1]);
    return sy__check_end(&c);
}

sy_status sy__check_embed_backward(const sy_device *dev, const sy_embed_backward_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_embed_backward, args);
    SY__WANT1(&c, &args->ids, SY_SET(SY_I32), SY_CONTIGUOUS, SY_ANY);
    SY__WANT2(&c, &args->dy, sy__set_a(&c), SY_CONTIGUOUS, args->ids.shape[0], SY_ANY);
    SY__WANT2(&c, &args->dw, sy__set_w(&c), SY_CONTIGUOUS, SY_ANY, args->dy.shape[1]);
    return sy__check_end(&c);
}

sy_status sy__check_rmsnorm(const sy_device *dev, const sy_rmsnorm_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_rmsnorm, args);
    const sy_tensor *x = &args->x;
    const unsigned same = SY_SET(x->dtype);
    sy__want_that(&c, !args->add.data || x->shape[1] <= 1, "rows that are added have one group");
    SY__WANT3(&c, x, sy__set_a(&c), SY_STRIDED, SY_ANY, SY_ANY, SY_ANY);
    SY__WANT1(&c, &args->w, same, SY_CONTIGUOUS, x->shape[2]);
    sy__want(&c, &args->y, same, SY_STRIDED, 3, x->shape);
    sy__want(&c, &args->add, same, SY_STRIDED | SY_OPTIONAL, 3, x->shape);
    sy__want(&c, &args->sum, same, SY_STRIDED | SY_OPTIONAL, 3, x->shape);
    sy__want_that(&c, sy_tensor_numel(x) == 0 || !args->add.data == !args->sum.data,
                  "add and sum come together");
    sy__want_that(&c, isfinite(args->factor), "factor is finite");
    SY__WANT2(&c, &args->rstd, sy__set_w(&c), SY_CONTIGUOUS, x->shape[0], x->shape[1]);
    sy__want_that(&c, args->eps >= 0 && isfinite(args->eps), "eps is finite and not negative");
    return sy__check_end(&c);
}

sy_status sy__check_rmsnorm_backward(const sy_device *dev, const sy_rmsnorm_backward_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_rmsnorm_backward, args);
    const sy_tensor *x = &args->x;
    const unsigned same = SY_SET(x->dtype);
    SY__WANT3(&c, x, sy__set_a(&c), SY_STRIDED, SY_ANY, SY_ANY, SY_ANY);
    SY__WANT1(&c, &args->w, same, SY_CONTIGUOUS, x->shape[2]);
    SY__WANT2(&c, &args->rstd, sy__set_w(&c), SY_CONTIGUOUS, x->shape[0], x->shape[1]);
    sy__want(&c, &args->dy, same, SY_STRIDED, 3, x->shape);
    sy__want(&c, &args->dx, same, SY_STRIDED, 3, x->shape);
    SY__WANT1(&c, &args->dw, sy__set_w(&c), SY_OPTIONAL, x->shape[2]);
    sy__want_that(&c, args->beta == 0 || args->beta == 1, "beta is 0 or 1");
    if (args->beta == 0) {
        sy__may_alias(&c, &args->dx, &args->dy);
    }
    return sy__check_end(&c);
}

sy_status sy__check_rope(const sy_device *dev, const sy_rope_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_rope, args);
    const sy_tensor *x = &args->x;
    SY__WANT3(&c, x, sy__set_a(&c), SY_STRIDED, SY_ANY, SY_ANY, SY_ANY);
    SY__WANT1(&c, &args->pos, SY_SET(SY_I32), SY_CONTIGUOUS, x->shape[0]);
    SY__WANT2(&c, &args->table, sy__set_w(&c), SY_CONTIGUOUS, SY_ANY, x->shape[2]);
    sy__want_that(&c, x->shape[2] % 2 == 0, "the head size is even");
    return sy__check_end(&c);
}

/* q [B*Sq, N_h, D], k [B*Skv, N_kv, D], v [B*Skv, N_kv, D_v]. */
static void want_qkv(sy__check *c, const sy_tensor *q, const sy_tensor *k, const sy_tensor *v,
                     int32_t B, double scale)
{
    SY__WANT3(c, q, sy__set_a(c), SY_STRIDED, SY_ANY, SY_ANY, SY_ANY);
    SY__WANT3(c, k, SY_SET(q->dtype), SY_STRIDED, SY_ANY, SY_ANY, q->shape[2]);
    SY__WANT3(c, v, SY_SET(q->dtype), SY_STRIDED, k->shape[0], k->shape[1], SY_ANY);
    sy__want_that(c, B >= 0 && (B > 0 || (q->shape[0] == 0 && k->shape[0] == 0)),
                  "B is positive where there are rows");
    sy__want_that(c, B <= 0 || (q->shape[0] % B == 0 && k->shape[0] % B == 0),
                  "the rows of q and of k are multiples of B");
    sy__want_that(c, q->shape[1] == 0 || (k->shape[1] > 0 && q->shape[1] % k->shape[1] == 0),
                  "the heads of q are a multiple of those of k");
    sy__want_that(c, isfinite(scale), "scale is finite");
}

sy_status sy__check_attention(const sy_device *dev, const sy_attention_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_attention, args);
    const sy_tensor *q = &args->q;
    want_qkv(&c, q, &args->k, &args->v, args->B, args->scale);
    SY__WANT1(&c, &args->doc, SY_SET(SY_I32), SY_OPTIONAL, q->shape[0]);
    SY__WANT1(&c, &args->q_start, SY_SET(SY_I32), SY_OPTIONAL, args->B);
    SY__WANT3(&c, &args->o, SY_SET(q->dtype), SY_STRIDED, q->shape[0], q->shape[1],
              args->v.shape[2]);
    SY__WANT2(&c, &args->lse, sy__set_w(&c), SY_CONTIGUOUS, q->shape[0], q->shape[1]);
    sy__want_that(&c, !args->doc.data || q->shape[0] == args->k.shape[0],
                  "q and k have the same rows where doc is given");
    return sy__check_end(&c);
}

sy_status sy__check_attention_backward(const sy_device *dev, const sy_attention_backward_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_attention_backward, args);
    const sy_tensor *q = &args->q, *k = &args->k;
    const unsigned same = SY_SET(q->dtype);
    want_qkv(&c, q, k, &args->v, args->B, args->scale);
    sy__want_that(&c, q->shape[0] == k->shape[0], "q and k have the same rows");
    SY__WANT1(&c, &args->doc, SY_SET(SY_I32), SY_OPTIONAL, q->shape[0]);
    SY__WANT3(&c, &args->o, same, SY_STRIDED, q->shape[0], q->shape[1], args->v.shape[2]);
    SY__WANT2(&c, &args->lse, sy__set_w(&c), SY_CONTIGUOUS, q->shape[0], q->shape[1]);
    sy__want(&c, &args->dout, same, SY_STRIDED, 3, args->o.shape);
    sy__want(&c, &args->dq, same, SY_STRIDED, 3, q->shape);
    sy__want(&c, &args->dk, same, SY_STRIDED, 3, k->shape);
    sy__want(&c, &args->dv, same, SY_STRIDED, 3, args->v.shape);
    return sy__check_end(&c);
}

sy_status sy__check_swiglu(const sy_device *dev, const sy_swiglu_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_swiglu, args);
    const sy_tensor *y = &args->y;
    SY__WANT2(&c, y, sy__set_a(&c), SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT2(&c, &args->x, SY_SET(y->dtype), SY_CONTIGUOUS, y->shape[0], 2 * y->shape[1]);
    return sy__check_end(&c);
}

sy_status sy__check_swiglu_backward(const sy_device *dev, const sy_swiglu_backward_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_swiglu_backward, args);
    const int64_t R = args->dy.shape[0], F = args->dy.shape[1];
    const unsigned same = SY_SET(args->dy.dtype);
    SY__WANT2(&c, &args->dy, sy__set_a(&c), SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT2(&c, &args->x, same, SY_CONTIGUOUS, R, 2 * F);
    SY__WANT1(&c, &args->weight, sy__set_w(&c), SY_OPTIONAL, R);
    SY__WANT2(&c, &args->dx, same, SY_CONTIGUOUS, R, 2 * F);
    SY__WANT2(&c, &args->wa, same, SY_OPTIONAL, R, F);
    SY__WANT1(&c, &args->dot, sy__set_w(&c), SY_OPTIONAL, R);
    return sy__check_end(&c);
}

sy_status sy__check_dequantize_nf4(const sy_device *dev, const sy_dequantize_nf4_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_dequantize_nf4, args);
    const int64_t N = args->y.shape[0], K = args->y.shape[1];
    SY__WANT2(&c, &args->y, sy__set_a(&c), SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT2(&c, &args->x, SY_SET(SY_U8), SY_CONTIGUOUS, N, sy_nf4_row_bytes(K));
    sy__want_that(&c, K % SY_NF4_MULTIPLE == 0, "the columns are a multiple of 8");
    return sy__check_end(&c);
}

static void want_act(sy__check *c, sy_act act)
{
    sy__want_that(c, act > SY_ACT_SWIGLU && act <= SY_ACT_SWIGLU_LINEAR,
                  "act is one of those but SwiGLU, which has an op of its own");
}

sy_status sy__check_activation(const sy_device *dev, const sy_activation_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_activation, args);
    const sy_tensor *y = &args->y;
    const int64_t P = sy_act_parts(args->act);
    want_act(&c, args->act);
    SY__WANT2(&c, y, sy__set_a(&c), SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT2(&c, &args->x, SY_SET(y->dtype), SY_CONTIGUOUS, y->shape[0], P * y->shape[1]);
    return sy__check_end(&c);
}

sy_status sy__check_activation_backward(const sy_device *dev,
                                        const sy_activation_backward_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_activation_backward, args);
    const int64_t R = args->dy.shape[0], F = args->dy.shape[1], P = sy_act_parts(args->act);
    const unsigned same = SY_SET(args->dy.dtype);
    want_act(&c, args->act);
    SY__WANT2(&c, &args->dy, sy__set_a(&c), SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT2(&c, &args->x, same, SY_CONTIGUOUS, R, P * F);
    SY__WANT1(&c, &args->weight, sy__set_w(&c), SY_OPTIONAL, R);
    SY__WANT2(&c, &args->dx, same, SY_CONTIGUOUS, R, P * F);
    SY__WANT2(&c, &args->wa, same, SY_OPTIONAL, R, F);
    SY__WANT1(&c, &args->dot, sy__set_w(&c), SY_OPTIONAL, R);
    return sy__check_end(&c);
}

sy_status sy__check_xent(const sy_device *dev, const sy_xent_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_xent, args);
    const int64_t n = args->logits.shape[0], V = args->logits.shape[1];
    SY__WANT2(&c, &args->logits, sy__set_w(&c), SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT1(&c, &args->targets, SY_SET(SY_I32), SY_CONTIGUOUS, n);
    SY__WANT1(&c, &args->loss_weight, SY_SET(SY_F32), SY_OPTIONAL, n);
    SY__WANT1(&c, &args->nll, sy__set_w(&c), SY_CONTIGUOUS, n);
    SY__WANT2(&c, &args->dlogits, sy__set_a(&c), SY_OPTIONAL, n, V);
    SY__WANT1(&c, &args->lse, sy__set_w(&c), SY_OPTIONAL, n);
    sy__want_that(&c, isfinite(args->grad_scale), "grad_scale is finite");
    sy__want_that(&c, args->z_coeff >= 0, "z_coeff is not negative");
    sy__may_alias(&c, &args->dlogits, &args->logits);
    return sy__check_end(&c);
}

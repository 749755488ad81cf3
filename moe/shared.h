/* Shared experts: one dense MLP that every token visits, optionally scaled by sigmoid(x w)
 * (DeepSeekMoE; Qwen2-MoE's gate). */
#ifndef SY_MOE_SHARED_H
#define SY_MOE_SHARED_H

#include "model/mlp.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_shared {
    sy_mlp mlp;
    bool gated;
    sy_param *gate; /* [1, H] */
} sy_shared;

/* Declare "<prefix>/shared/{gate,up,down}" and, gated, "<prefix>/shared/router". Not collective,
 * all of them. */
sy_status sy_shared_declare(sy_shared *s, const char *prefix, sy_params *params);
/* y = shared(x), [T, H]. *saved as for a sublayer. */
sy_status sy_shared_forward(const sy_shared *s, sy_pass *p, const sy_tensor *x, sy_tensor *y,
                            void **saved);

/* The gradient of x on its way: that of the MLP [T, H], and of the gate's logits [T, 1]. */
typedef struct sy_shared_grad {
    sy_tensor dx, ds; /* absent: nothing below trains; no gate */
} sy_shared_grad;
/* Room for it, from p->scratch. has_dx: is it wanted? */
sy_status sy_shared_grad_room(const sy_shared *s, sy_pass *p, int64_t T, bool has_dx,
                              sy_shared_grad *out);
/* Fill it; gradients of the parameters +=. */
sy_status sy_shared_backward(const sy_shared *s, sy_pass *p, void *saved, const sy_tensor *x,
                             const sy_tensor *dy, sy_shared_grad *grad);
/* dx += it. */
sy_status sy_shared_add_grad(const sy_shared *s, sy_pass *p, const sy_shared_grad *grad,
                             sy_tensor *dx);

#ifdef __cplusplus
}
#endif
#endif

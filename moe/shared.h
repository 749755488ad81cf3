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
 * all three. */
sy_status sy_shared_declare(sy_shared *s, const char *prefix, sy_params *params);
/* y += shared(x), [T, H]. *saved as for a sublayer. */
sy_status sy_shared_forward(const sy_shared *s, sy_pass *p, const sy_tensor *x, sy_tensor *y,
                            void **saved);
/* dx += . */
sy_status sy_shared_backward(const sy_shared *s, sy_pass *p, void *saved, const sy_tensor *x,
                             const sy_tensor *dy, sy_tensor *dx);

#ifdef __cplusplus
}
#endif
#endif

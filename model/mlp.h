/* The dense SwiGLU MLP: y = W_down (silu(W_gate x) * W_up x). Also the body of shared experts.
 * Shazeer 2020, "GLU variants improve Transformer". */
#ifndef SY_MODEL_MLP_H
#define SY_MODEL_MLP_H

#include "model/sublayer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_mlp {
    int64_t hidden, ffn;
    double init_std, down_std;
    sy_param *gate_up, *down;
} sy_mlp;

/* Declare "<prefix>/gate", "/up", "/down". init stds as given: down_std for the projection back
 * into the residual stream. Not collective. */
sy_status sy_mlp_declare(sy_mlp *mlp, const char *prefix, sy_params *params);
/* y [T, H]; *saved (may be NULL) as for a sublayer. Not collective. */
sy_status sy_mlp_forward(const sy_mlp *mlp, sy_pass *p, const sy_tensor *x, sy_tensor *y,
                         void **saved);
sy_status sy_mlp_backward(const sy_mlp *mlp, sy_pass *p, void *saved, const sy_tensor *x,
                          const sy_tensor *dy, sy_tensor *dx);

/* The MLP as a sublayer of its own; parameters under "<prefix>/mlp". Not collective. */
sy_status sy_mlp_create(int64_t hidden, int64_t ffn, double init_std, double down_std,
                        sy_sublayer *out);

#ifdef __cplusplus
}
#endif
#endif

/* The dense MLP: y = W_down a, with a = silu(W_gate x) * W_up x (SwiGLU) or what else
 * model.activation says. Also the body of shared experts. Shazeer 2020, "GLU variants improve
 * Transformer". */
#ifndef SY_MODEL_MLP_H
#define SY_MODEL_MLP_H

#include "model/sublayer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_mlp {
    int64_t hidden, ffn;
    double init_std, down_std;
    sy_act act;
    sy_param *gate_up, *down; /* [P F, H] with P the parts of act; [H, F] */
} sy_mlp;

/* The parts of an MLP's first matrix in order, as pieces of `extent` along piece_dim: "gate", "up";
 * "gate", "linear", "up"; or the spec's own name becomes "<prefix>/up". Not collective. */
void sy_mlp_pieces(sy_param_spec *spec, sy_act act, const char *prefix, int32_t piece_dim,
                   int64_t extent);
/* a [R, F] from h [R, P F]. Not collective, both. */
sy_status sy_mlp_activate(sy_pass *p, sy_act act, const sy_tensor *h, const sy_tensor *a);
sy_status sy_mlp_activate_backward(sy_pass *p, sy_act act, const sy_swiglu_backward_args *args);

/* Declare "<prefix>/gate", "/up", "/down". init stds as given: down_std for the projection back
 * into the residual stream. Not collective. */
sy_status sy_mlp_declare(sy_mlp *mlp, const char *prefix, sy_params *params);
/* y [T, H]; *saved (may be NULL) as for a sublayer. Not collective. */
sy_status sy_mlp_forward(const sy_mlp *mlp, sy_pass *p, const sy_tensor *x, sy_tensor *y,
                         void **saved);
sy_status sy_mlp_backward(const sy_mlp *mlp, sy_pass *p, void *saved, const sy_tensor *x,
                          const sy_tensor *dy, sy_tensor *dx);

/* The MLP as a sublayer of its own, of this shape; parameters under "<prefix>/mlp". Not
 * collective. */
sy_status sy_mlp_create(const sy_mlp *shape, sy_sublayer *out);

#ifdef __cplusplus
}
#endif
#endif

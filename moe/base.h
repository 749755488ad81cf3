/* The one MLP that all adapters of a layer change: matrices as in a dense layer, or frozen ones of
   four bits (NF4), which are unpacked into scratch a few rows at a time, in forward and again in
   backward. Nothing here is collective. */
#ifndef SY_MOE_BASE_H
#define SY_MOE_BASE_H

#include "model/mlp.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_base_matrix { SY_BASE_IN, SY_BASE_OUT } sy_base_matrix; /* gate and up; down */

typedef struct sy_base {
    sy_mlp mlp; /* its parameters, where not packed */
    bool packed;
    sy_param *in, *out; /* NF4 rows of gate and up [2F, .], of down [H, .] */
} sy_base;

/* "<prefix>/base/{gate,up,down}", or "<prefix>/base/{gate,up,down}_nf4". */
sy_status sy_base_declare(sy_base *b, const char *prefix, sy_params *params);
/* y = x W^T; dx = beta dx + dy W; W's gradient += dy^T x, nothing where it is frozen. */
sy_status sy_base_forward(const sy_base *b, sy_pass *p, sy_base_matrix which, const sy_tensor *x,
                          const sy_tensor *y);
sy_status sy_base_dgrad(const sy_base *b, sy_pass *p, sy_base_matrix which, const sy_tensor *dy,
                        const sy_tensor *dx, double beta);
sy_status sy_base_wgrad(const sy_base *b, sy_pass *p, sy_base_matrix which, const sy_tensor *dy,
                        const sy_tensor *x);
/* The MLP alone, h [T, 2F] by the caller: y = swiglu(h) W_down^T, and back to dx. */
sy_status sy_base_mlp_forward(const sy_base *b, sy_pass *p, const sy_tensor *x, const sy_tensor *h,
                              const sy_tensor *y);
sy_status sy_base_mlp_backward(const sy_base *b, sy_pass *p, const sy_tensor *x, const sy_tensor *h,
                               const sy_tensor *dy, const sy_tensor *dx);

#ifdef __cplusplus
}
#endif
#endif

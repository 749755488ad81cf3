/* Adapters that are mixed before the product: one MLP that all share, and beside it the sum of all
   adapters by the router's weights, so that a token costs one rescaling or one thin product per
   matrix whatever E is. MoV and MoLoRA: Zadouri et al. 2023 (arXiv 2309.05444) 2. Nothing travels:
   everything is whole on every rank. */
#ifndef SY_MOE_MIXED_H
#define SY_MOE_MIXED_H

#include "moe/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One matrix's deltas: sum over e of w_e B_e A_e. */
typedef struct sy_mixed_delta {
    sy_param *a, *b; /* [E, r, in], [out, E, r] */
} sy_mixed_delta;

typedef struct sy_mixed {
    int64_t E, rank; /* rank 0: vectors instead of deltas */
    double init_std;
    sy_base base;
    sy_mixed_delta gate, up, down;
    sy_param
        *vectors; /* [E, F] (IA3: Liu et al. 2022): the MLP's activation times sum of w_e l_e */
} sy_mixed;

/* "<prefix>/base/{gate,up,down}", "<prefix>/adapters/{gate,up,down}_{a,b}" or
   "<prefix>/adapters/scale". Deltas begin as zero, vectors with ones. Not collective, all three. */
sy_status sy_mixed_declare(sy_mixed *m, const char *prefix, sy_params *params);
/* y [T, H] from x [T, H] and weights w [T, E] wide. *saved (may be NULL) as for a sublayer. */
sy_status sy_mixed_forward(const sy_mixed *m, sy_pass *p, const sy_tensor *x, const sy_tensor *w,
                           sy_tensor *y, void **saved);
/* dx [T, H] (no data: nothing below trains); dw [T, E] wide = dL/dw; gradients += . */
sy_status sy_mixed_backward(const sy_mixed *m, sy_pass *p, void *saved, const sy_tensor *x,
                            const sy_tensor *w, const sy_tensor *dy, sy_tensor *dx, sy_tensor *dw);

#ifdef __cplusplus
}
#endif
#endif

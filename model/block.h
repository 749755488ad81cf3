/* One layer, for all tokens or, where it has a router of depth (model/depth.h), for some: x += m
 * attention(norm(x)); x += m ffn(norm(x)), m the residual multiplier; where there is an extra
 * feed-forward part (ST-MoE, arXiv 2202.08906), x += m extra(norm(x)) too. Recompute of a whole
 * block happens here.
 */
#ifndef SY_MODEL_BLOCK_H
#define SY_MODEL_BLOCK_H

#include "model/depth.h"
#include "model/sublayer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_block {
    const sy_model_config *config;
    int32_t layer;
    sy_param *attn_norm, *ffn_norm, *extra_norm;
    sy_sublayer attn, ffn, extra; /* owned; extra.ops NULL: none */
    sy_depth depth;
    const sy_param *last; /* of its parameters, in the order of declaration */
} sy_block;

/* Declare norms and sublayers under "layers/<i>". Not collective. */
sy_status sy_block_declare(sy_block *block, sy_params *params);
/* y = block(x), [T, H]. Collective as its sublayers are. */
sy_status sy_block_forward(sy_block *block, sy_pass *p, const sy_tensor *x, sy_tensor *y,
                           void **saved);
/* g [T, H]: the gradient of y on entry, of x on return. Collective likewise. */
sy_status sy_block_backward(sy_block *block, sy_pass *p, void *saved, const sy_tensor *x,
                            sy_tensor *g);
/* For all tokens of p->batch, whatever the block's depth. Collective likewise. */
sy_status sy_block_all_forward(sy_block *block, sy_pass *p, const sy_tensor *x, sy_tensor *y,
                               void **saved);
/* Likewise. Collective likewise. */
sy_status sy_block_all_backward(sy_block *block, sy_pass *p, void *saved, const sy_tensor *x,
                                sy_tensor *g);

#ifdef __cplusplus
}
#endif
#endif

/* Mixture-of-Depths: a layer that takes only some tokens of a sequence; the others pass by on the
   residual stream. r = x w; y = x + r (block(x) - x) for tokens that are taken, attention looking
   at one another at their own positions; y = x for the others. In training they are the
   depth_capacity S tokens of each sequence with the largest r, which looks ahead; where it must
   not, in evaluation and generation, a linear predictor of that choice takes those it gives more
   than 1/2. The predictor learns by cross-entropy, and moves nothing else. Raposo et al. 2024
   (arXiv 2404.02258) 3. Choosing is plain C on host copies: one wait in forward. */
#ifndef SY_MODEL_DEPTH_H
#define SY_MODEL_DEPTH_H

#include "model/model_config.h"
#include "model/pass.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_depth {
    sy_param *router, *predictor, *bias; /* [1, H], [1, H], [1] wide; NULL: takes all tokens */
} sy_depth;

struct sy_block;

/* Declare "layers/<i>/depth/..." where the configuration says so. Not collective. */
sy_status sy_depth_declare(struct sy_block *block, sy_params *params);
/* Parameters that every token uses to choose: router and predictor; 0 where a layer takes all. Not
 * collective. */
int64_t sy_depth_params(const sy_model_config *config, int32_t layer);
/* sy_block_forward and sy_block_backward of a layer that takes some tokens. Collective as the
 * block's sublayers are, whatever number of tokens a rank takes. */
sy_status sy_depth_forward(struct sy_block *block, sy_pass *p, const sy_tensor *x, sy_tensor *y,
                           void **saved);
sy_status sy_depth_backward(struct sy_block *block, sy_pass *p, void *saved, const sy_tensor *x,
                            sy_tensor *g);

#ifdef __cplusplus
}
#endif
#endif

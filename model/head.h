/* Final norm, head and cross-entropy, in chunks of tokens: full logits never exist. In training the
 * head's gradients are computed on the spot. */
#ifndef SY_MODEL_HEAD_H
#define SY_MODEL_HEAD_H

#include "model/model_config.h"
#include "model/pass.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_head {
    const sy_model_config *config;
    sy_param *norm, *weight;
    double coeff;   /* of its loss */
    double z_coeff; /* of the mean of logsumexp(logits)^2 */
} sy_head;

/* p->nll [T] of the last block's output x [T, H]; dx [T, H] (absent: evaluation) the gradient of x,
 * and gradients of norm and weight +=. Not collective. */
sy_status sy_head_loss(const sy_head *head, sy_pass *p, const sy_tensor *x, sy_tensor *dx);
/* logits [V] wide of the last row of x. Not collective. */
sy_status sy_head_logits(const sy_head *head, sy_pass *p, const sy_tensor *x, sy_tensor *logits);

#ifdef __cplusplus
}
#endif
#endif

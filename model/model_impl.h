/* Between the model and its parts that lie behind the blocks. */
#ifndef SY_MODEL_MODEL_IMPL_H
#define SY_MODEL_MODEL_IMPL_H

#include "model/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* x [T, H] of p->batch's ids; and back: g, the gradient of x, is not needed afterwards. Not
 * collective. */
sy_status sy__model_embed(sy_model *model, sy_pass *p, sy_tensor *x);
sy_status sy__model_embed_backward(sy_model *model, sy_pass *p, const sy_tensor *g);

#ifdef __cplusplus
}
#endif
#endif

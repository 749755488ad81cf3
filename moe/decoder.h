/* The whole decoder of a configuration: blocks whose feed-forward sublayers are dense or routed. */
#ifndef SY_MOE_DECODER_H
#define SY_MOE_DECODER_H

#include "model/model.h"
#include "moe/moe_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Create the model and declare its parameters: no memory for them yet. Not collective. Both
   configurations are resolved, and live as long as the model. The caller destroys the parameters
   before the model. */
sy_status sy_decoder_create(const sy_model_config *config, const sy_moe_config *moe,
                            sy_model **model, sy_params **params);

#ifdef __cplusplus
}
#endif
#endif

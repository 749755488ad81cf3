/* The MoE sublayer: score -> choose -> capacity -> weigh -> plan -> dispatch -> experts -> combine,
 * plus shared experts. */
#ifndef SY_MOE_MOE_H
#define SY_MOE_MOE_H

#include "model/model_config.h"
#include "model/sublayer.h"
#include "moe/moe_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Not collective. Both configs live as long as the sublayer, and are resolved. */
sy_status sy_moe_create(const sy_model_config *model, const sy_moe_config *config, int32_t layer,
                        sy_sublayer *out);

/* Parameters that a token uses in this sublayer: router, K experts, shared experts. For FLOPs. Not
 * collective. */
int64_t sy_moe_active_params(const sy_model_config *model, const sy_moe_config *config);

#ifdef __cplusplus
}
#endif
#endif

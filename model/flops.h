/* Model FLOPs and parameter counts, for MFU: what the mathematics needs, not what was executed (no
 * recompute, no padding). */
#ifndef SY_MODEL_FLOPS_H
#define SY_MODEL_FLOPS_H

#include "model/model_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Parameters that every token uses outside the feed-forward sublayers and the input embedding:
 * attention projections and the head. Norms left out. Not collective. */
int64_t sy_model_attention_head_params(const sy_model_config *config);
/* The same of the modules of multi-token prediction: attention, projection, and the head in each.
 * Not collective. */
int64_t sy_model_mtp_params(const sy_model_config *config);
/* Of n parameters of a layer, those that a token uses on average: all, or the share of a sequence's
 * tokens that the layer takes. Not collective. */
int64_t sy_model_layer_params(const sy_model_config *config, int32_t layer, int64_t n);
/* FLOPs of forward + backward per token: 6 * active + 3 * L * S * N_h * (D + D_v) (causal
 * attention: half of all pairs); active and L with the modules. Not collective. */
double sy_model_flops_per_token(const sy_model_config *config, int64_t active_params);

#ifdef __cplusplus
}
#endif
#endif

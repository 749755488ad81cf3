/* Causal self-attention with rotary positions and grouped queries, optional q/k norm and QKV bias:
 * a sublayer. */
#ifndef SY_MODEL_ATTENTION_H
#define SY_MODEL_ATTENTION_H

#include "model/model_config.h"
#include "model/sublayer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Not collective. config lives as long as the sublayer. Llama 2/3, Qwen2 (bias), Qwen3 (norm per
 * head), OLMoE (norm over all heads). */
sy_status sy_attention_create(const sy_model_config *config, sy_sublayer *out);

/* Let keys or values [T, kv_heads * head_dim] pass through a sublayer (declare, forward, backward,
   destroy) behind projection and bias, before norm and rotation. Ownership moves. Once for each,
   before declaring. Not collective. */
void sy_attention_on_keys(sy_sublayer *attention, sy_sublayer sub);
void sy_attention_on_values(sy_sublayer *attention, sy_sublayer sub);

#ifdef __cplusplus
}
#endif
#endif

/* Config section `model`: the shape of the decoder. */
#ifndef SY_MODEL_MODEL_CONFIG_H
#define SY_MODEL_MODEL_CONFIG_H

#include "core/config.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_qk_norm { SY_QK_NORM_NONE, SY_QK_NORM_HEAD, SY_QK_NORM_FULL } sy_qk_norm;

typedef struct sy_model_config {
    int32_t vocab_size, hidden, layers, heads, kv_heads, head_dim, ffn_hidden, seq_len;
    double rope_theta, norm_eps, init_std;
    int32_t qk_norm; /* sy_qk_norm */
    bool attention_bias, tie_embeddings;
} sy_model_config;

extern const sy_config_section sy_model_section;

/* Fill defaults that depend on other keys: kv_heads = heads, head_dim = hidden / heads (both 0
 * until then). After parsing. Not collective. */
sy_status sy_model_config_resolve(sy_config *config);

#ifdef __cplusplus
}
#endif
#endif

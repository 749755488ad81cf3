/* Config section `model`: the shape of the decoder. */
#ifndef SY_MODEL_MODEL_CONFIG_H
#define SY_MODEL_MODEL_CONFIG_H

#include "backend/ops.h"
#include "core/config.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_qk_norm { SY_QK_NORM_NONE, SY_QK_NORM_HEAD, SY_QK_NORM_FULL } sy_qk_norm;

/* How rotary angles are stretched for contexts longer than those trained on: not, all by one
   factor, or the slow ones alone (Llama 3.1, YaRN). */
typedef enum sy_rope_scaling {
    SY_ROPE_SCALING_NONE,
    SY_ROPE_SCALING_LINEAR,
    SY_ROPE_SCALING_LLAMA3,
    SY_ROPE_SCALING_YARN
} sy_rope_scaling;

typedef struct sy_model_config {
    int32_t vocab_size, hidden, layers, heads, kv_heads, head_dim, ffn_hidden, seq_len;
    double rope_theta, norm_eps, init_std;
    int32_t rope_scaling; /* sy_rope_scaling */
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    double rope_beta_fast, rope_beta_slow, rope_mscale, rope_mscale_all_dim; /* YaRN */
    int32_t rope_original_seq_len;
    bool rope_interleaved;
    /* Granite's: of the embedding's output, of what each sublayer adds, of the attention scores
       (null: 1/sqrt(D)); logits are divided by the last. */
    double embedding_multiplier, residual_multiplier;
    sy_opt_f64 attention_multiplier;
    double logits_scaling;
    double output_z_loss_coeff;
    int32_t qk_norm;    /* sy_qk_norm */
    int32_t activation; /* sy_act */
    bool attention_bias, tie_embeddings;
    /* Latent attention (model/mla.h); kv_lora_rank 0: none. Resolving makes head_dim
       qk_nope_head_dim
       + qk_rope_head_dim, and kv_heads heads. */
    int32_t kv_lora_rank, q_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
    /* Mixture-of-Depths (model/depth.h): share of a sequence's tokens that some layers take; null:
       all take all. */
    sy_opt_f64 depth_capacity;
    sy_str_list depth_layers;
    double depth_predictor_coeff;
    /* PEER (moe/peer.h): sub-keys of a half (0: none), heads, choices and query width of a head. */
    int32_t peer_keys, peer_heads, peer_top_k, peer_query;
    sy_str_list peer_layers;
    /* Multi-token prediction (model/mtp.h): modules (D; 0: none), and what their losses count. */
    int32_t mtp_layers;
    double mtp_loss_coeff;
} sy_model_config;

extern const sy_config_section sy_model_section;

/* Fill defaults that depend on other keys: kv_heads = heads, head_dim = hidden / heads (both 0
 * until then). After parsing. Not collective. */
sy_status sy_model_config_resolve(sy_config *config);

/* Blocks: the layers, and behind them one for each module of multi-token prediction, which counts
 * as layer layers + k - 1 and is made like the last. Not collective. */
int32_t sy_model_blocks(const sy_model_config *config);

/* Tokens of a sequence of S that layer i takes in training: S, or depth_capacity of them, rounded
 * up; S - k for the block of module k. Not collective. */
int64_t sy_model_layer_tokens(const sy_model_config *config, int32_t layer, int64_t S);
/* The same as a share of seq_len. Not collective. */
double sy_model_layer_share(const sy_model_config *config, int32_t layer);

/* Has layer i PEER's experts instead of an MLP? Not collective. */
bool sy_model_layer_peer(const sy_model_config *config, int32_t layer);

#ifdef __cplusplus
}
#endif
#endif

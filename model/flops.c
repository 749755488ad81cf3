#include "model/flops.h"

#include <math.h>

static int64_t latent_params(const sy_model_config *c)
{
    const int64_t H = c->hidden, N = c->heads, R_q = c->q_lora_rank, R_kv = c->kv_lora_rank;
    const int64_t n_q = N * c->head_dim;
    const int64_t q = R_q > 0 ? R_q * (H + n_q) : H * n_q;
    const int64_t kv =
        H * (R_kv + c->qk_rope_head_dim) + R_kv * N * (c->qk_nope_head_dim + c->v_head_dim);
    return q + kv + H * N * c->v_head_dim;
}

static int64_t attention_params(const sy_model_config *config)
{
    const int64_t H = config->hidden;
    const int64_t q = (int64_t)config->heads * config->head_dim;
    const int64_t kv = (int64_t)config->kv_heads * config->head_dim;
    return config->kv_lora_rank > 0 ? latent_params(config) : H * (2 * q + 2 * kv);
}

int64_t sy_model_attention_head_params(const sy_model_config *config)
{
    int64_t sum = (int64_t)config->hidden * config->vocab_size;
    for (int32_t i = 0; i < config->layers; i++) {
        sum += sy_model_layer_params(config, i, attention_params(config));
    }
    return sum;
}

int64_t sy_model_mtp_params(const sy_model_config *config)
{
    const int64_t H = config->hidden;
    const int64_t n = attention_params(config) + 2 * H * H + H * config->vocab_size;
    int64_t sum = 0;
    for (int32_t i = config->layers; i < sy_model_blocks(config); i++) {
        sum += sy_model_layer_params(config, i, n);
    }
    return sum;
}

int64_t sy_model_layer_params(const sy_model_config *config, int32_t layer, int64_t n)
{
    const double share = sy_model_layer_share(config, layer);
    return (int64_t)llround(share * (double)n);
}

double sy_model_flops_per_token(const sy_model_config *config, int64_t active_params)
{
    const int32_t D = config->head_dim, D_v = config->kv_lora_rank > 0 ? config->v_head_dim : D;
    double layers = 0; /* of share s of the tokens: s of the queries, each with s of the keys */
    for (int32_t i = 0; i < sy_model_blocks(config); i++) {
        const double share = sy_model_layer_share(config, i);
        layers += share * share;
    }
    double scores = 3.0 * layers * config->seq_len * config->heads * (D + D_v);
    return 6.0 * (double)active_params + scores;
}

#include "model/flops.h"

int64_t sy_model_active_params(const sy_model_config *config, const int64_t *ffn_active)
{
    int64_t q = (int64_t)config->heads * config->head_dim;
    int64_t kv = (int64_t)config->kv_heads * config->head_dim;
    int64_t n =
        (int64_t)config->vocab_size * config->hidden; /* the head; the embedding is a lookup */
    for (int32_t i = 0; i < config->layers; i++) {
        n += config->hidden * (2 * q + 2 * kv) + ffn_active[i];
    }
    return n;
}

double sy_model_flops_per_token(const sy_model_config *config, int64_t active_params)
{
    double scores = 6.0 * config->layers * config->seq_len * config->heads * config->head_dim;
    return 6.0 * (double)active_params + scores;
}

#include "model/flops.h"

int64_t sy_model_attention_head_params(const sy_model_config *config)
{
    int64_t q = (int64_t)config->heads * config->head_dim;
    int64_t kv = (int64_t)config->kv_heads * config->head_dim;
    return config->hidden * (config->layers * (2 * q + 2 * kv) + config->vocab_size);
}

double sy_model_flops_per_token(const sy_model_config *config, int64_t active_params)
{
    double scores = 6.0 * config->layers * config->seq_len * config->heads * config->head_dim;
    return 6.0 * (double)active_params + scores;
}

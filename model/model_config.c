#include "model/model_config.h"

#include <stdio.h>

#define KEY(field, kind, def, lo, hi, text)                                                        \
    {                                                                                              \
#field, kind, offsetof(sy_model_config, field), def, lo, hi, NULL, text                    \
    }

static const char *const qk_norm_choices[] = {"none", "head", "full", NULL};

static const char *const rope_scaling_choices[] = {"none", "linear", "llama3", NULL};

static const sy_config_key keys[] = {
    KEY(vocab_size, SY_CFG_I32, NULL, 2, 1 << 24, "Vocabulary: token ids are 0 .. vocab_size-1."),
    KEY(hidden, SY_CFG_I32, NULL, 1, 1 << 20, "Width of the residual stream (H)."),
    KEY(layers, SY_CFG_I32, NULL, 1, 999, "Number of blocks (L)."),
    KEY(heads, SY_CFG_I32, NULL, 1, 4096, "Query heads (N_h)."),
    KEY(kv_heads, SY_CFG_I32, "0", 0, 4096,
        "Key/value heads (N_kv); divides heads. 0: as many as heads."),
    KEY(head_dim, SY_CFG_I32, "0", 0, 4096, "Size of a head (D), even. 0: hidden / heads."),
    KEY(ffn_hidden, SY_CFG_I32, NULL, 1, 1 << 22, "Width of the dense MLP (F)."),
    KEY(seq_len, SY_CFG_I32, NULL, 1, 1 << 24, "Tokens per sequence (S)."),
    KEY(rope_theta, SY_CFG_F64, "10000.0", 1, 1e12, "Base of the rotary position angles."),
    {"rope_scaling", SY_CFG_ENUM, offsetof(sy_model_config, rope_scaling), "none", 0, 0,
     rope_scaling_choices,
     "Stretching of the rotary angles: none, linear (positions over rope_factor), or llama3 (slow "
     "angles alone, as Llama 3.1)."},
    KEY(rope_factor, SY_CFG_F64, "1.0", 1, 1e6, "Factor of rope_scaling."),
    KEY(rope_low_freq_factor, SY_CFG_F64, "1.0", 1e-3, 1e6,
        "llama3: angles that turn less often than this in rope_original_seq_len are stretched."),
    KEY(rope_high_freq_factor, SY_CFG_F64, "4.0", 1e-3, 1e6,
        "llama3: angles that turn more often than this are left as they are."),
    KEY(rope_original_seq_len, SY_CFG_I32, "8192", 1, 1 << 24,
        "llama3: sequence length before the stretching."),
    KEY(embedding_multiplier, SY_CFG_F64, "1.0", 1e-6, 1e6,
        "The embedding's output is multiplied by this (Granite)."),
    KEY(residual_multiplier, SY_CFG_F64, "1.0", 1e-6, 1e6,
        "What attention and MLP or MoE add to the residual stream is multiplied by this "
        "(Granite)."),
    KEY(attention_multiplier, SY_CFG_OPT_F64, "null", 1e-6, 1e6,
        "Scale of the attention scores (Granite). null: 1/sqrt(head_dim)."),
    KEY(logits_scaling, SY_CFG_F64, "1.0", 1e-6, 1e6, "Logits are divided by this (Granite)."),
    KEY(norm_eps, SY_CFG_F64, "1e-5", 0, 1, "Epsilon inside RMSNorm."),
    {"qk_norm", SY_CFG_ENUM, offsetof(sy_model_config, qk_norm), "none", 0, 0, qk_norm_choices,
     "RMSNorm on queries and keys: per head (Qwen3) or over all heads (OLMoE)."},
    KEY(attention_bias, SY_CFG_BOOL, "false", 0, 0, "Bias on the q, k, v projections (Qwen2)."),
    KEY(tie_embeddings, SY_CFG_BOOL, "false", 0, 0, "The head is the embedding matrix."),
    KEY(init_std, SY_CFG_F64, "0.02", 0, 10,
        "Standard deviation of initial weights (normal, cut at 3 std)."),
    {0},
};

static sy_status check(const void *section, const sy_config *config)
{
    const sy_model_config *m = section;
    int32_t head_dim = m->head_dim > 0 ? m->head_dim : m->hidden / m->heads;
    if (m->head_dim == 0 && m->hidden % m->heads != 0) {
        return sy_config_error(config, "model.heads",
                               "model.hidden %d is not divisible by model.heads %d; set head_dim",
                               m->hidden, m->heads);
    }
    if (head_dim % 2 != 0) {
        return sy_config_error(config, "model.head_dim",
                               "model.head_dim %d is odd; RoPE needs it even", head_dim);
    }
    if (m->kv_heads > 0 && m->heads % m->kv_heads != 0) {
        return sy_config_error(config, "model.kv_heads",
                               "model.heads %d is not divisible by model.kv_heads %d", m->heads,
                               m->kv_heads);
    }
    if (m->rope_scaling == SY_ROPE_SCALING_LLAMA3 &&
        m->rope_high_freq_factor <= m->rope_low_freq_factor) {
        return sy_config_error(config, "model.rope_high_freq_factor",
                               "model.rope_high_freq_factor %g must be larger than "
                               "model.rope_low_freq_factor %g",
                               m->rope_high_freq_factor, m->rope_low_freq_factor);
    }
    return SY_OK;
}

const sy_config_section sy_model_section = {
    .name = "model",
    .help = "Shape of the decoder.",
    .keys = keys,
    .struct_bytes = sizeof(sy_model_config),
    .check = check,
};

sy_status sy_model_config_resolve(sy_config *config)
{
    sy_status st = SY_OK;
    const sy_model_config *m = sy_config_get(config, "model");
    char text[16];
    if (m->kv_heads == 0) {
        snprintf(text, sizeof text, "%d", m->heads);
        SY_TRY(sy_config_default(config, "model.kv_heads", text));
    }
    if (m->head_dim == 0) {
        snprintf(text, sizeof text, "%d", m->hidden / m->heads);
        SY_TRY(sy_config_default(config, "model.head_dim", text));
    }
cleanup:
    return st;
}

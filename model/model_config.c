#include "model/model_config.h"

#include <math.h>
#include <stdio.h>

#include "model/layer_list.h"

#define KEY(field, kind, def, lo, hi, text)                                                        \
    {                                                                                              \
#field, kind, offsetof(sy_model_config, field), def, lo, hi, NULL, text                    \
    }

static const char *const qk_norm_choices[] = {"none", "head", "full", NULL};

static const char *const activation_choices[] = {"swiglu",   "geglu",         "relu", "gelu",
                                                 "gelu_erf", "swiglu_linear", NULL};

static const char *const rope_scaling_choices[] = {"none", "linear", "llama3", "yarn", NULL};

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
     "Stretching of the rotary angles: none, linear (positions over rope_factor), llama3 (slow "
     "angles alone, as Llama 3.1), or yarn (the same by number, as DeepSeek-V2 and V3)."},
    KEY(rope_factor, SY_CFG_F64, "1.0", 1, 1e6, "Factor of rope_scaling."),
    KEY(rope_low_freq_factor, SY_CFG_F64, "1.0", 1e-3, 1e6,
        "llama3: angles that turn less often than this in rope_original_seq_len are stretched."),
    KEY(rope_high_freq_factor, SY_CFG_F64, "4.0", 1e-3, 1e6,
        "llama3: angles that turn more often than this are left as they are."),
    KEY(rope_original_seq_len, SY_CFG_I32, "8192", 1, 1 << 24,
        "llama3, yarn: sequence length before the stretching."),
    KEY(rope_beta_fast, SY_CFG_F64, "32.0", 1e-3, 1e6,
        "yarn: angles that turn so often in rope_original_seq_len, or more often, stay."),
    KEY(rope_beta_slow, SY_CFG_F64, "1.0", 1e-3, 1e6,
        "yarn: angles that turn so often, or less often, are stretched."),
    KEY(rope_mscale, SY_CFG_F64, "0.0", 0, 1e3,
        "yarn: growth of queries and keys with the factor, over that of rope_mscale_all_dim; one "
        "of the two 0: 0.1 ln(rope_factor) + 1."),
    KEY(rope_mscale_all_dim, SY_CFG_F64, "0.0", 0, 1e3,
        "yarn: attention scores grow by (0.1 x ln(rope_factor) + 1)^2."),
    KEY(rope_interleaved, SY_CFG_BOOL, "false", 0, 0,
        "Rotate neighbours (x[2d], x[2d+1]), as DeepSeek, instead of halves (x[d], x[d+D/2])."),
    KEY(embedding_multiplier, SY_CFG_F64, "1.0", 1e-6, 1e6,
        "The embedding's output is multiplied by this (Granite)."),
    KEY(residual_multiplier, SY_CFG_F64, "1.0", 1e-6, 1e6,
        "What attention and MLP or MoE add to the residual stream is multiplied by this "
        "(Granite)."),
    KEY(attention_multiplier, SY_CFG_OPT_F64, "null", 1e-6, 1e6,
        "Scale of the attention scores (Granite). null: 1/sqrt(head_dim)."),
    KEY(logits_scaling, SY_CFG_F64, "1.0", 1e-6, 1e6, "Logits are divided by this (Granite)."),
    KEY(output_z_loss_coeff, SY_CFG_F64, "0.0", 0, 1e6,
        "Coefficient of the mean of logsumexp(logits)^2 over loss tokens (T5X, ST-MoE: 1e-4)."),
    KEY(norm_eps, SY_CFG_F64, "1e-5", 0, 1, "Epsilon inside RMSNorm."),
    {"qk_norm", SY_CFG_ENUM, offsetof(sy_model_config, qk_norm), "none", 0, 0, qk_norm_choices,
     "RMSNorm on queries and keys: per head (Qwen3) or over all heads (OLMoE)."},
    {"activation", SY_CFG_ENUM, offsetof(sy_model_config, activation), "swiglu", 0, 0,
     activation_choices,
     "Of every MLP, experts' too: swiglu and geglu (three matrices: gate, up, down); relu, gelu, "
     "gelu_erf (two: up, down); swiglu_linear (four, silu(gate) * linear * up: OpenMoE). gelu and "
     "geglu are the tanh form (gelu_new of transformers), gelu_erf is the exact one (its gelu)."},
    KEY(attention_bias, SY_CFG_BOOL, "false", 0, 0, "Bias on the q, k, v projections (Qwen2)."),
    KEY(kv_lora_rank, SY_CFG_I32, "0", 0, 1 << 20,
        "Latent attention (MLA, DeepSeek-V2): keys and values of all heads come from a latent of "
        "this width. 0: plain attention."),
    KEY(q_lora_rank, SY_CFG_I32, "0", 0, 1 << 20,
        "Latent attention: width of the queries' latent. 0: queries without one."),
    KEY(qk_nope_head_dim, SY_CFG_I32, "0", 0, 4096,
        "Latent attention: elements of queries and keys that know no position."),
    KEY(qk_rope_head_dim, SY_CFG_I32, "0", 0, 4096,
        "Latent attention: rotated elements, even; the key's are shared by all heads."),
    KEY(v_head_dim, SY_CFG_I32, "0", 0, 4096, "Latent attention: size of a value head."),
    KEY(tie_embeddings, SY_CFG_BOOL, "false", 0, 0, "The head is the embedding matrix."),
    KEY(depth_capacity, SY_CFG_OPT_F64, "null", 1e-6, 1,
        "Mixture-of-Depths: the layers of depth_layers take this share of a sequence's tokens, "
        "those "
        "that their router scores highest; the others pass by. null: all layers take all."),
    KEY(depth_layers, SY_CFG_STR_LIST, "every:2", 0, 0,
        "Which layers that are: all, every:N (layers i with i mod N = N-1), from:N, or a list of "
        "layer "
        "numbers from 0."),
    KEY(depth_predictor_coeff, SY_CFG_F64, "0.01", 0, 1e6,
        "Coefficient of the loss of the predictors that choose in evaluation and generation, where "
        "later tokens are not known. Their gradient stays with them."),
    KEY(peer_keys, SY_CFG_I32, "0", 0, 1 << 15,
        "PEER: the layers of peer_layers have peer_keys^2 experts of one neuron each instead of "
        "an MLP, found by two sets of so many sub-keys. 0: none."),
    KEY(peer_heads, SY_CFG_I32, "8", 1, 4096, "PEER: queries of a token."),
    KEY(peer_top_k, SY_CFG_I32, "16", 2, 1 << 10, "PEER: experts that a query chooses."),
    KEY(peer_query, SY_CFG_I32, "128", 2, 1 << 16,
        "PEER: width of a query, even: one half for each set of sub-keys."),
    KEY(peer_layers, SY_CFG_STR_LIST, "all", 0, 0,
        "PEER: which layers that are, as in depth_layers. None of them is one of moe.layers."),
    KEY(mtp_layers, SY_CFG_I32, "0", 0, 16,
        "Multi-token prediction (DeepSeek-V3): modules behind the last layer, each of which "
        "predicts "
        "one token further ahead than the one before it, in training alone. 0: none."),
    KEY(mtp_loss_coeff, SY_CFG_F64, "0.3", 0, 1e3,
        "Coefficient of the mean of their losses (DeepSeek-V3: 0.3, later 0.1)."),
    KEY(init_std, SY_CFG_F64, "0.02", 0, 10,
        "Standard deviation of initial weights (normal, cut at 3 std)."),
    {0},
};

/* With plain attention, latent attention's keys would be read by nobody. */
static sy_status check_plain(const sy_model_config *m, const sy_config *config)
{
    const struct {
        const char *key;
        int32_t value;
    } latent[] = {{"model.q_lora_rank", m->q_lora_rank},
                  {"model.qk_nope_head_dim", m->qk_nope_head_dim},
                  {"model.qk_rope_head_dim", m->qk_rope_head_dim},
                  {"model.v_head_dim", m->v_head_dim}};
    for (size_t i = 0; i < sizeof latent / sizeof latent[0]; i++) {
        if (latent[i].value > 0) {
            return sy_config_error(config, latent[i].key,
                                   "%s is of latent attention: set model.kv_lora_rank too, or "
                                   "leave it out",
                                   latent[i].key);
        }
    }
    return SY_OK;
}

static sy_status check_latent(const sy_model_config *m, const sy_config *config)
{
    sy_status st = SY_OK;
    const int32_t D = m->qk_nope_head_dim + m->qk_rope_head_dim;
    if (m->qk_nope_head_dim == 0 || m->qk_rope_head_dim == 0 || m->v_head_dim == 0) {
        SY_TRY(sy_config_error(config, "model.kv_lora_rank",
                               "model.kv_lora_rank makes attention latent, which needs "
                               "model.qk_nope_head_dim, qk_rope_head_dim and v_head_dim "
                               "(DeepSeek-V2: 128, 64, 128)"));
    }
    if (m->qk_rope_head_dim % 2 != 0) {
        SY_TRY(sy_config_error(config, "model.qk_rope_head_dim",
                               "model.qk_rope_head_dim %d is odd; RoPE needs it even",
                               m->qk_rope_head_dim));
    }
    if (m->head_dim > 0 && m->head_dim != D) {
        SY_TRY(sy_config_error(config, "model.head_dim",
                               "model.head_dim %d with latent attention, whose heads are "
                               "qk_nope_head_dim + qk_rope_head_dim = %d; leave it out",
                               m->head_dim, D));
    }
    if (m->kv_heads > 0 && m->kv_heads != m->heads) {
        SY_TRY(sy_config_error(config, "model.kv_heads",
                               "model.kv_heads %d with latent attention, which has keys and values "
                               "for each of model.heads %d; leave it out",
                               m->kv_heads, m->heads));
    }
    if (m->qk_norm != SY_QK_NORM_NONE) {
        SY_TRY(sy_config_error(config, "model.qk_norm",
                               "model.qk_norm %s with latent attention, which has norms of its "
                               "own; set it to none",
                               qk_norm_choices[m->qk_norm]));
    }
    if (m->attention_bias) {
        SY_TRY(sy_config_error(config, "model.attention_bias",
                               "model.attention_bias true with latent attention, which has none; "
                               "set it to false"));
    }
cleanup:
    return st;
}

static sy_status check_heads(const sy_model_config *m, const sy_config *config)
{
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
    return check_plain(m, config);
}

/* Keys of a part that is not there. `key` where it is written down, even as none, is somebody's
   wish: a checkpoint writes all keys down. */
static sy_status check_part(bool is_there, const char *key, const char *const *of_it, int32_t n,
                            const sy_config *config)
{
    for (int32_t i = 0; i < n && !is_there && !sy_config_was_set(config, key); i++) {
        if (sy_config_was_set(config, of_it[i])) {
            return sy_config_error(config, of_it[i],
                                   "%s without %s says nothing; set that too, or "
                                   "leave it out",
                                   of_it[i], key);
        }
    }
    return SY_OK;
}

static sy_status check_depth(const sy_model_config *m, const sy_config *config)
{
    static const char *const of_it[] = {"model.depth_layers", "model.depth_predictor_coeff"};
    sy_status st = SY_OK;
    SY_TRY(check_part(m->depth_capacity.set, "model.depth_capacity", of_it, 2, config));
    SY_TRY(sy_layer_list_check(&m->depth_layers, "model.depth_layers", config));
cleanup:
    return st;
}

static sy_status check_peer(const sy_model_config *m, const sy_config *config)
{
    static const char *const of_it[] = {"model.peer_heads", "model.peer_top_k", "model.peer_query",
                                        "model.peer_layers"};
    sy_status st = SY_OK;
    SY_TRY(check_part(m->peer_keys > 0, "model.peer_keys", of_it, 4, config));
    if (m->peer_keys > 0 && m->peer_top_k > m->peer_keys) {
        SY_TRY(sy_config_error(config, "model.peer_top_k",
                               "model.peer_top_k %d is larger than model.peer_keys %d; set it to "
                               "%d or less",
                               m->peer_top_k, m->peer_keys, m->peer_keys));
    }
    if (m->peer_query % 2 != 0) {
        SY_TRY(sy_config_error(config, "model.peer_query",
                               "model.peer_query %d is odd, and has two halves; set it to %d",
                               m->peer_query, m->peer_query + 1));
    }
    SY_TRY(sy_layer_list_check(&m->peer_layers, "model.peer_layers", config));
cleanup:
    return st;
}

static sy_status check_mtp(const sy_model_config *m, const sy_config *config)
{
    static const char *const of_it[] = {"model.mtp_loss_coeff"};
    sy_status st = SY_OK;
    SY_TRY(check_part(m->mtp_layers > 0, "model.mtp_layers", of_it, 1, config));
    if (m->mtp_layers > 0 && m->depth_capacity.set) {
        SY_TRY(sy_config_error(config, "model.mtp_layers",
                               "model.mtp_layers %d with model.depth_capacity, where tokens look "
                               "ahead in training: multi-token prediction needs all layers to take "
                               "all tokens; set model.depth_capacity to null, or mtp_layers to 0",
                               m->mtp_layers));
    }
    if (m->mtp_layers >= m->seq_len) {
        SY_TRY(sy_config_error(config, "model.mtp_layers",
                               "model.mtp_layers %d: the last module has no target in sequences of "
                               "model.seq_len %d; set it to %d or less",
                               m->mtp_layers, m->seq_len, m->seq_len - 1));
    }
    if (m->layers + m->mtp_layers > 999) {
        SY_TRY(sy_config_error(config, "model.mtp_layers",
                               "model.layers %d and model.mtp_layers %d are more than 999 blocks",
                               m->layers, m->mtp_layers));
    }
cleanup:
    return st;
}

static sy_status check(const void *section, const sy_config *config)
{
    const sy_model_config *m = section;
    sy_status st = m->kv_lora_rank > 0 ? check_latent(m, config) : check_heads(m, config);
    if (st != SY_OK) {
        return st;
    }
    if (m->kv_heads > 0 && m->heads % m->kv_heads != 0) {
        return sy_config_error(config, "model.kv_heads",
                               "model.heads %d is not divisible by model.kv_heads %d", m->heads,
                               m->kv_heads);
    }
    if (m->rope_scaling == SY_ROPE_SCALING_NONE && m->rope_factor > 1 &&
        !sy_config_was_set(config, "model.rope_scaling")) {
        return sy_config_error(config, "model.rope_factor",
                               "model.rope_factor %g needs model.rope_scaling: linear, llama3 or "
                               "yarn; set that too, or leave it out",
                               m->rope_factor);
    }
    if (m->rope_scaling == SY_ROPE_SCALING_LLAMA3 &&
        m->rope_high_freq_factor <= m->rope_low_freq_factor) {
        return sy_config_error(config, "model.rope_high_freq_factor",
                               "model.rope_high_freq_factor %g must be larger than "
                               "model.rope_low_freq_factor %g",
                               m->rope_high_freq_factor, m->rope_low_freq_factor);
    }
    if (m->rope_scaling == SY_ROPE_SCALING_YARN && m->rope_beta_fast <= m->rope_beta_slow) {
        return sy_config_error(config, "model.rope_beta_fast",
                               "model.rope_beta_fast %g must be larger than model.rope_beta_slow "
                               "%g",
                               m->rope_beta_fast, m->rope_beta_slow);
    }
    st = check_peer(m, config);
    st = st == SY_OK ? check_mtp(m, config) : st;
    return st == SY_OK ? check_depth(m, config) : st;
}

const sy_config_section sy_model_section = {
    .name = "model",
    .help = "Shape of the decoder.",
    .keys = keys,
    .struct_bytes = sizeof(sy_model_config),
    .check = check,
};

/* A part that no layer has. */
static sy_status check_any(const sy_str_list *list, bool is_there, const char *key,
                           const char *without, int32_t n_layers, const sy_config *config)
{
    for (int32_t i = 0; i < n_layers; i++) {
        if (!is_there || sy_layer_list_has(list, i)) {
            return SY_OK;
        }
    }
    return sy_config_error(config, key, "%s names none of the %d layers; set it to all, or %s", key,
                           n_layers, without);
}

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
        snprintf(text, sizeof text, "%d",
                 m->kv_lora_rank > 0 ? m->qk_nope_head_dim + m->qk_rope_head_dim
                                     : m->hidden / m->heads);
        SY_TRY(sy_config_default(config, "model.head_dim", text));
    }
    SY_TRY(sy_layer_list_fits(&m->depth_layers, "model.depth_layers", m->layers, config));
    SY_TRY(sy_layer_list_fits(&m->peer_layers, "model.peer_layers", m->layers, config));
    SY_TRY(check_any(&m->depth_layers, m->depth_capacity.set, "model.depth_layers",
                     "model.depth_capacity to null", m->layers, config));
    SY_TRY(check_any(&m->peer_layers, m->peer_keys > 0, "model.peer_layers", "model.peer_keys to 0",
                     m->layers, config));
cleanup:
    return st;
}

int32_t sy_model_blocks(const sy_model_config *config)
{
    return config->layers + config->mtp_layers;
}

bool sy_model_layer_peer(const sy_model_config *config, int32_t layer)
{
    const int32_t like = layer < config->layers ? layer : config->layers - 1;
    return config->peer_keys > 0 && sy_layer_list_has(&config->peer_layers, like);
}

int64_t sy_model_layer_tokens(const sy_model_config *config, int32_t layer, int64_t S)
{
    const sy_opt_f64 share = config->depth_capacity;
    if (layer >= config->layers) {
        return S - (layer - config->layers + 1);
    }
    if (!share.set || !sy_layer_list_has(&config->depth_layers, layer)) {
        return S;
    }
    return (int64_t)ceil(share.value * (double)S - 1e-9 * (double)S);
}

double sy_model_layer_share(const sy_model_config *config, int32_t layer)
{
    return (double)sy_model_layer_tokens(config, layer, config->seq_len) / config->seq_len;
}

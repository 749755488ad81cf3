/* The architectures: a table of keys, a table of names, and what each can hold. Read from the
   configuration and model classes of transformers 5.23; defaults of keys that are not there are
   those of its classes. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "upcycle/hf_impl.h"

/* ---- keys ---- */

#define ALWAYS(ours, value)                                                                        \
    {                                                                                              \
        NULL, ours, value, NULL                                                                    \
    }

/* What every architecture says with the same keys. N_kv and D 0: derived from the others. */
#define SHAPE(V, H, L, N, N_kv, D, S, eps)                                                         \
    {"vocab_size", "model.vocab_size", V, NULL}, {"hidden_size", "model.hidden", H, NULL},         \
        {"num_hidden_layers", "model.layers", L, NULL},                                            \
        {"num_attention_heads", "model.heads", N, NULL},                                           \
        {"num_key_value_heads", "model.kv_heads", N_kv, NULL},                                     \
        {"head_dim", "model.head_dim", D, NULL},                                                   \
        {"max_position_embeddings", "model.seq_len", S, NULL},                                     \
        {"rms_norm_eps", "model.norm_eps", eps, NULL},                                             \
        {"initializer_range", "model.init_std", 0.02, NULL}, ALWAYS("model.kv_lora_rank", 0),      \
        ALWAYS("model.rope_interleaved", 0), ALWAYS("model.activation", SY_ACT_SWIGLU),            \
    {                                                                                              \
        "tie_word_embeddings", "model.tie_embeddings", 0, NULL                                     \
    }

/* All but Granite. */
#define NO_MULTIPLIERS                                                                             \
    ALWAYS("model.embedding_multiplier", 1), ALWAYS("model.residual_multiplier", 1),               \
        ALWAYS("model.attention_multiplier", NAN), ALWAYS("model.logits_scaling", 1)

#define ROUTED                                                                                     \
    ALWAYS("moe.score", 0), ALWAYS("moe.routed_scale", 1), ALWAYS("moe.bias_update_rate", 0),      \
        ALWAYS("moe.force_balance", 0), ALWAYS("moe.extra_ffn", 0)

#define END                                                                                        \
    {                                                                                              \
        NULL, NULL, 0, NULL                                                                        \
    }

static const sy__hf_key llama_keys[] = {SHAPE(32000, 4096, 32, 32, 0, 0, 2048, 1e-6),
                                        {"intermediate_size", "model.ffn_hidden", 11008, NULL},
                                        ALWAYS("model.qk_norm", SY_QK_NORM_NONE),
                                        ALWAYS("model.attention_bias", 0),
                                        NO_MULTIPLIERS,
                                        END};

static const sy__hf_key mistral_keys[] = {SHAPE(32000, 4096, 32, 32, 8, 0, 131072, 1e-6),
                                          {"intermediate_size", "model.ffn_hidden", 14336, NULL},
                                          ALWAYS("model.qk_norm", SY_QK_NORM_NONE),
                                          ALWAYS("model.attention_bias", 0),
                                          NO_MULTIPLIERS,
                                          END};

static const sy__hf_key qwen2_keys[] = {SHAPE(151936, 4096, 32, 32, 32, 0, 32768, 1e-6),
                                        {"intermediate_size", "model.ffn_hidden", 22016, NULL},
                                        ALWAYS("model.qk_norm", SY_QK_NORM_NONE),
                                        ALWAYS("model.attention_bias", 1),
                                        NO_MULTIPLIERS,
                                        END};

static const sy__hf_key qwen3_keys[] = {SHAPE(151936, 4096, 32, 32, 32, 128, 32768, 1e-6),
                                        {"intermediate_size", "model.ffn_hidden", 22016, NULL},
                                        ALWAYS("model.qk_norm", SY_QK_NORM_HEAD),
                                        ALWAYS("model.attention_bias", 0),
                                        NO_MULTIPLIERS,
                                        END};

static const sy__hf_key mixtral_keys[] = {
    SHAPE(32000, 4096, 32, 32, 8, 0, 131072, 1e-5),
    {"intermediate_size", "model.ffn_hidden", 14336, NULL},
    {"intermediate_size", "moe.expert_hidden", 14336, NULL},
    {"num_local_experts", "moe.experts", 8, "num_experts"},
    {"num_experts_per_tok", "moe.top_k", 2, NULL},
    {"router_aux_loss_coef", "moe.aux_loss_coeff", 0.001, NULL},
    ALWAYS("model.qk_norm", SY_QK_NORM_NONE),
    ALWAYS("model.attention_bias", 0),
    ALWAYS("moe.normalize_weights", 1),
    NO_MULTIPLIERS,
    ROUTED,
    END};

static const sy__hf_key qwen2_moe_keys[] = {
    SHAPE(151936, 2048, 24, 16, 16, 0, 32768, 1e-6),
    {"intermediate_size", "model.ffn_hidden", 5632, NULL},
    {"qkv_bias", "model.attention_bias", 1, NULL},
    {"moe_intermediate_size", "moe.expert_hidden", 1408, NULL},
    {"shared_expert_intermediate_size", "moe.shared_hidden", 5632, NULL},
    {"num_experts", "moe.experts", 60, NULL},
    {"num_experts_per_tok", "moe.top_k", 4, NULL},
    {"norm_topk_prob", "moe.normalize_weights", 0, NULL},
    {"router_aux_loss_coef", "moe.aux_loss_coeff", 0.001, NULL},
    ALWAYS("model.qk_norm", SY_QK_NORM_NONE),
    NO_MULTIPLIERS,
    ROUTED,
    END};

static const sy__hf_key qwen3_moe_keys[] = {
    SHAPE(151936, 2048, 24, 32, 4, 0, 32768, 1e-6),
    {"intermediate_size", "model.ffn_hidden", 6144, NULL},
    {"moe_intermediate_size", "moe.expert_hidden", 768, NULL},
    {"num_experts", "moe.experts", 128, "num_local_experts"},
    {"num_experts_per_tok", "moe.top_k", 8, NULL},
    {"norm_topk_prob", "moe.normalize_weights", 0, NULL},
    {"router_aux_loss_coef", "moe.aux_loss_coeff", 0.001, NULL},
    ALWAYS("model.qk_norm", SY_QK_NORM_HEAD),
    ALWAYS("model.attention_bias", 0),
    NO_MULTIPLIERS,
    ROUTED,
    END};

static const sy__hf_key olmoe_keys[] = {SHAPE(50304, 2048, 16, 16, 0, 0, 4096, 1e-5),
                                        {"intermediate_size", "model.ffn_hidden", 2048, NULL},
                                        {"intermediate_size", "moe.expert_hidden", 2048, NULL},
                                        {"num_experts", "moe.experts", 64, "num_local_experts"},
                                        {"num_experts_per_tok", "moe.top_k", 8, NULL},
                                        {"norm_topk_prob", "moe.normalize_weights", 0, NULL},
                                        {"router_aux_loss_coef", "moe.aux_loss_coeff", 0.01, NULL},
                                        ALWAYS("model.qk_norm", SY_QK_NORM_FULL),
                                        ALWAYS("model.attention_bias", 0),
                                        NO_MULTIPLIERS,
                                        ROUTED,
                                        END};

static const sy__hf_key granite_keys[] = {
    SHAPE(32000, 4096, 32, 32, 0, 0, 2048, 1e-6),
    {"embedding_multiplier", "model.embedding_multiplier", 1, NULL},
    {"residual_multiplier", "model.residual_multiplier", 1, NULL},
    {"attention_multiplier", "model.attention_multiplier", 1, NULL},
    {"logits_scaling", "model.logits_scaling", 1, NULL},
    {"intermediate_size", "model.ffn_hidden", 11008, NULL},
    {"intermediate_size", "moe.expert_hidden", 11008, NULL},
    {"shared_intermediate_size", "moe.shared_hidden", 0, NULL},
    {"num_local_experts", "moe.experts", 8, NULL},
    {"num_experts_per_tok", "moe.top_k", 2, NULL},
    {"router_aux_loss_coef", "moe.aux_loss_coeff", 0.001, NULL},
    ALWAYS("model.qk_norm", SY_QK_NORM_NONE),
    ALWAYS("model.attention_bias", 0),
    ALWAYS("moe.normalize_weights", 1),
    ROUTED,
    END};

/* Norms of latents have an epsilon of their own in the classes, 1e-6, so all must. */
#define DEEPSEEK(V, H, L, N, N_kv, S, F, F_e, n_shared, E, K)                                      \
    {"vocab_size", "model.vocab_size", V, NULL}, {"hidden_size", "model.hidden", H, NULL},         \
        {"num_hidden_layers", "model.layers", L, NULL},                                            \
        {"num_attention_heads", "model.heads", N, NULL},                                           \
        {"num_key_value_heads", "model.kv_heads", N_kv, NULL},                                     \
        {"max_position_embeddings", "model.seq_len", S, NULL},                                     \
        {"initializer_range", "model.init_std", 0.02, NULL},                                       \
        {"tie_word_embeddings", "model.tie_embeddings", 0, NULL},                                  \
        {"intermediate_size", "model.ffn_hidden", F, NULL},                                        \
        {"kv_lora_rank", "model.kv_lora_rank", 512, NULL},                                         \
        {"qk_nope_head_dim", "model.qk_nope_head_dim", 128, NULL},                                 \
        {"qk_rope_head_dim", "model.qk_rope_head_dim", 64, NULL},                                  \
        {"v_head_dim", "model.v_head_dim", 128, NULL}, ALWAYS("model.norm_eps", 1e-6),             \
        ALWAYS("model.qk_norm", SY_QK_NORM_NONE), ALWAYS("model.attention_bias", 0),               \
        {"moe_intermediate_size", "moe.expert_hidden", F_e, NULL},                                 \
        {"n_shared_experts", "moe.shared_experts", n_shared, NULL},                                \
        {"n_routed_experts", "moe.experts", E, "num_experts"},                                     \
        {"num_experts_per_tok", "moe.top_k", K, NULL},                                             \
        {"aux_loss_alpha", "moe.aux_loss_coeff", 0.001, NULL}, ALWAYS("moe.force_balance", 0),     \
        ALWAYS("model.activation", SY_ACT_SWIGLU), ALWAYS("moe.extra_ffn", 0), NO_MULTIPLIERS

static const sy__hf_key deepseek_v2_keys[] = {
    DEEPSEEK(102400, 4096, 32, 32, 0, 2048, 11008, 1407, 2, 64, 6),
    {"routed_scaling_factor", "moe.routed_scale", 1, NULL},
    ALWAYS("model.rope_interleaved", 1),
    ALWAYS("moe.score", 0),
    ALWAYS("moe.normalize_weights", 0),
    END};

static const sy__hf_key deepseek_v3_keys[] = {
    DEEPSEEK(129280, 7168, 61, 128, 128, 4096, 18432, 2048, 1, 256, 8),
    {"routed_scaling_factor", "moe.routed_scale", 2.5, NULL},
    {"rope_interleave", "model.rope_interleaved", 1, NULL},
    {"norm_topk_prob", "moe.normalize_weights", 1, NULL},
    ALWAYS("moe.score", 1),
    END};

static const sy__hf_only deepseek_v2_only[] = {
    {"hidden_act", "\"silu\""},  {"attention_bias", "false"},
    {"mlp_bias", "false"},       {"rms_norm_eps", "1e-06"},
    {"moe_layer_freq", "1"},     {"scoring_func", "\"softmax\""},
    {"norm_topk_prob", "false"}, {NULL, NULL}};
static const sy__hf_only deepseek_v3_only[] = {{"hidden_act", "\"silu\""},
                                               {"attention_bias", "false"},
                                               {"rms_norm_eps", "1e-06"},
                                               {"moe_layer_freq", "1"},
                                               {"scoring_func", "\"sigmoid\""},
                                               {"topk_method", "\"noaux_tc\""},
                                               {NULL, NULL}};

static const sy__hf_only silu[] = {{"hidden_act", "\"silu\""}, {NULL, NULL}};
static const sy__hf_only no_biases[] = {
    {"hidden_act", "\"silu\""}, {"attention_bias", "false"}, {"mlp_bias", "false"}, {NULL, NULL}};
static const sy__hf_only no_attention_bias[] = {
    {"hidden_act", "\"silu\""}, {"attention_bias", "false"}, {NULL, NULL}};
static const sy__hf_only olmoe_only[] = {
    {"hidden_act", "\"silu\""}, {"attention_bias", "false"}, {"clip_qkv", "null"}, {NULL, NULL}};

#define EXTRA "\"use_cache\": true, \"attention_dropout\": 0.0"
#define EXTRA_MOE EXTRA ", \"output_router_logits\": false"

/* ---- names ---- */

const sy__hf_name sy__hf_block_names[] = {
    {"input_layernorm.weight", SY__HF_ATTN_NORM, SY__HF_NO_SLOT},
    {"self_attn.q_proj.weight", SY__HF_Q, SY__HF_NO_SLOT},
    {"self_attn.k_proj.weight", SY__HF_K, SY__HF_NO_SLOT},
    {"self_attn.v_proj.weight", SY__HF_V, SY__HF_NO_SLOT},
    {"self_attn.q_proj.bias", SY__HF_Q_BIAS, SY__HF_NO_SLOT},
    {"self_attn.k_proj.bias", SY__HF_K_BIAS, SY__HF_NO_SLOT},
    {"self_attn.v_proj.bias", SY__HF_V_BIAS, SY__HF_NO_SLOT},
    {"self_attn.o_proj.weight", SY__HF_O, SY__HF_NO_SLOT},
    {"self_attn.q_norm.weight", SY__HF_Q_NORM, SY__HF_NO_SLOT},
    {"self_attn.k_norm.weight", SY__HF_K_NORM, SY__HF_NO_SLOT},
    {"self_attn.q_a_proj.weight", SY__HF_Q_A, SY__HF_NO_SLOT},
    {"self_attn.q_a_layernorm.weight", SY__HF_Q_A_NORM, SY__HF_NO_SLOT},
    {"self_attn.q_b_proj.weight", SY__HF_Q_B, SY__HF_NO_SLOT},
    {"self_attn.kv_a_proj_with_mqa.weight", SY__HF_KV_A, SY__HF_NO_SLOT},
    {"self_attn.kv_a_layernorm.weight", SY__HF_KV_A_NORM, SY__HF_NO_SLOT},
    {"self_attn.kv_b_proj.weight", SY__HF_KV_B, SY__HF_NO_SLOT},
    {"post_attention_layernorm.weight", SY__HF_FFN_NORM, SY__HF_NO_SLOT},
    {"mlp.gate_proj.weight", SY__HF_GATE, SY__HF_NO_SLOT},
    {"mlp.up_proj.weight", SY__HF_UP, SY__HF_NO_SLOT},
    {"mlp.down_proj.weight", SY__HF_DOWN, SY__HF_NO_SLOT},
    {"enorm.weight", SY__HF_MTP_EMBED_NORM, SY__HF_NO_SLOT},
    {"hnorm.weight", SY__HF_MTP_HIDDEN_NORM, SY__HF_NO_SLOT},
    {"eh_proj.weight", SY__HF_MTP_PROJ, SY__HF_NO_SLOT},
    {"shared_head.norm.weight", SY__HF_MTP_NORM, SY__HF_NO_SLOT},
    {NULL, SY__HF_NO_SLOT, SY__HF_NO_SLOT}};

static const sy__hf_name mixtral_names[] = {
    {"block_sparse_moe.gate.weight", SY__HF_ROUTER, SY__HF_NO_SLOT},
    {"block_sparse_moe.experts.*.w1.weight", SY__HF_EXPERT_GATE, SY__HF_NO_SLOT},
    {"block_sparse_moe.experts.*.w3.weight", SY__HF_EXPERT_UP, SY__HF_NO_SLOT},
    {"block_sparse_moe.experts.*.w2.weight", SY__HF_EXPERT_DOWN, SY__HF_NO_SLOT},
    {NULL, SY__HF_NO_SLOT, SY__HF_NO_SLOT}};

#define QWEN_SHARED                                                                                \
    {"mlp.shared_expert.gate_proj.weight", SY__HF_SHARED_GATE, SY__HF_NO_SLOT},                    \
        {"mlp.shared_expert.up_proj.weight", SY__HF_SHARED_UP, SY__HF_NO_SLOT},                    \
        {"mlp.shared_expert.down_proj.weight", SY__HF_SHARED_DOWN, SY__HF_NO_SLOT},                \
    {                                                                                              \
        "mlp.shared_expert_gate.weight", SY__HF_SHARED_ROUTER, SY__HF_NO_SLOT                      \
    }

static const sy__hf_name qwen_names[] = {
    {"mlp.gate.weight", SY__HF_ROUTER, SY__HF_NO_SLOT},
    {"mlp.experts.*.gate_proj.weight", SY__HF_EXPERT_GATE, SY__HF_NO_SLOT},
    {"mlp.experts.*.up_proj.weight", SY__HF_EXPERT_UP, SY__HF_NO_SLOT},
    {"mlp.experts.*.down_proj.weight", SY__HF_EXPERT_DOWN, SY__HF_NO_SLOT},
    QWEN_SHARED,
    {NULL, SY__HF_NO_SLOT, SY__HF_NO_SLOT}};

/* As transformers v5 has them in memory, Mixtral's too. */
static const sy__hf_name fused_names[] = {
    {"mlp.gate.weight", SY__HF_ROUTER, SY__HF_NO_SLOT},
    {"mlp.experts.gate_up_proj", SY__HF_EXPERT_GATE, SY__HF_EXPERT_UP},
    {"mlp.experts.down_proj", SY__HF_EXPERT_DOWN, SY__HF_NO_SLOT},
    QWEN_SHARED,
    {NULL, SY__HF_NO_SLOT, SY__HF_NO_SLOT}};

#define GRANITE_SHARED                                                                             \
    {"shared_mlp.input_linear.weight", SY__HF_SHARED_GATE, SY__HF_SHARED_UP},                      \
    {                                                                                              \
        "shared_mlp.output_linear.weight", SY__HF_SHARED_DOWN, SY__HF_NO_SLOT                      \
    }

static const sy__hf_name granite_names[] = {
    {"block_sparse_moe.router.layer.weight", SY__HF_ROUTER, SY__HF_NO_SLOT},
    {"block_sparse_moe.input_linear.weight", SY__HF_EXPERT_GATE, SY__HF_EXPERT_UP},
    {"block_sparse_moe.output_linear.weight", SY__HF_EXPERT_DOWN, SY__HF_NO_SLOT},
    GRANITE_SHARED,
    {NULL, SY__HF_NO_SLOT, SY__HF_NO_SLOT}};

/* As transformers v5 has it in memory. */
static const sy__hf_name granite_fused_names[] = {
    {"block_sparse_moe.router.weight", SY__HF_ROUTER, SY__HF_NO_SLOT},
    {"block_sparse_moe.experts.gate_up_proj", SY__HF_EXPERT_GATE, SY__HF_EXPERT_UP},
    {"block_sparse_moe.experts.down_proj", SY__HF_EXPERT_DOWN, SY__HF_NO_SLOT},
    GRANITE_SHARED,
    {NULL, SY__HF_NO_SLOT, SY__HF_NO_SLOT}};

#define DEEPSEEK_REST                                                                              \
    {"mlp.gate.weight", SY__HF_ROUTER, SY__HF_NO_SLOT},                                            \
        {"mlp.gate.e_score_correction_bias", SY__HF_ROUTER_BIAS, SY__HF_NO_SLOT},                  \
        {"mlp.shared_experts.gate_proj.weight", SY__HF_SHARED_GATE, SY__HF_NO_SLOT},               \
        {"mlp.shared_experts.up_proj.weight", SY__HF_SHARED_UP, SY__HF_NO_SLOT},                   \
    {                                                                                              \
        "mlp.shared_experts.down_proj.weight", SY__HF_SHARED_DOWN, SY__HF_NO_SLOT                  \
    }

static const sy__hf_name deepseek_names[] = {
    {"mlp.experts.*.gate_proj.weight", SY__HF_EXPERT_GATE, SY__HF_NO_SLOT},
    {"mlp.experts.*.up_proj.weight", SY__HF_EXPERT_UP, SY__HF_NO_SLOT},
    {"mlp.experts.*.down_proj.weight", SY__HF_EXPERT_DOWN, SY__HF_NO_SLOT},
    DEEPSEEK_REST,
    {NULL, SY__HF_NO_SLOT, SY__HF_NO_SLOT}};

static const sy__hf_name deepseek_fused_names[] = {
    {"mlp.experts.gate_up_proj", SY__HF_EXPERT_GATE, SY__HF_EXPERT_UP},
    {"mlp.experts.down_proj", SY__HF_EXPERT_DOWN, SY__HF_NO_SLOT},
    DEEPSEEK_REST,
    {NULL, SY__HF_NO_SLOT, SY__HF_NO_SLOT}};

/* ---- the table ---- */

static const sy__hf_arch archs[SY_N_HF_ARCHS] = {
    [SY_HF_LLAMA] = {.name = "LlamaForCausalLM",
                     .model_type = "llama",
                     .keys = llama_keys,
                     .only = no_biases,
                     .extra = "{" EXTRA "}",
                     .rope_theta = 1e4,
                     .heads = SY__HF_HEADS_DIVIDE},
    [SY_HF_MISTRAL] = {.name = "MistralForCausalLM",
                       .model_type = "mistral",
                       .keys = mistral_keys,
                       .only = no_biases,
                       .extra = "{" EXTRA "}",
                       .rope_theta = 1e4,
                       .window = SY__HF_WINDOW_ALWAYS,
                       .sliding_window = 4096},
    [SY_HF_QWEN2] = {.name = "Qwen2ForCausalLM",
                     .model_type = "qwen2",
                     .keys = qwen2_keys,
                     .only = silu,
                     .extra = "{" EXTRA "}",
                     .rope_theta = 1e4,
                     .window = SY__HF_WINDOW_SWITCHED,
                     .sliding_window = 4096,
                     .has_bias = true},
    [SY_HF_QWEN3] = {.name = "Qwen3ForCausalLM",
                     .model_type = "qwen3",
                     .keys = qwen3_keys,
                     .only = no_attention_bias,
                     .extra = "{" EXTRA "}",
                     .rope_theta = 1e4,
                     .window = SY__HF_WINDOW_SWITCHED,
                     .sliding_window = 4096},
    [SY_HF_MIXTRAL] = {.name = "MixtralForCausalLM",
                       .model_type = "mixtral",
                       .moe = true,
                       .keys = mixtral_keys,
                       .only = no_attention_bias,
                       .extra = "{" EXTRA_MOE ", \"router_jitter_noise\": 0.0}",
                       .rope_theta = 1e6,
                       .window = SY__HF_WINDOW_ALWAYS,
                       .moe_names = {mixtral_names, fused_names}},
    [SY_HF_QWEN2_MOE] = {.name = "Qwen2MoeForCausalLM",
                         .model_type = "qwen2_moe",
                         .moe = true,
                         .keys = qwen2_moe_keys,
                         .only = silu,
                         .extra = "{" EXTRA_MOE "}",
                         .rope_theta = 1e4,
                         .window = SY__HF_WINDOW_SWITCHED,
                         .sliding_window = 4096,
                         .has_bias = true,
                         .dense_layers = true,
                         .shared = SY__HF_SHARED_GATED,
                         .moe_names = {qwen_names, fused_names}},
    [SY_HF_QWEN3_MOE] = {.name = "Qwen3MoeForCausalLM",
                         .model_type = "qwen3_moe",
                         .moe = true,
                         .keys = qwen3_moe_keys,
                         .only = no_attention_bias,
                         .extra = "{" EXTRA_MOE "}",
                         .rope_theta = 1e4,
                         .window = SY__HF_WINDOW_SWITCHED,
                         .sliding_window = 4096,
                         .dense_layers = true,
                         .moe_names = {qwen_names, fused_names}},
    [SY_HF_OLMOE] = {.name = "OlmoeForCausalLM",
                     .model_type = "olmoe",
                     .moe = true,
                     .keys = olmoe_keys,
                     .only = olmoe_only,
                     .extra = "{" EXTRA_MOE "}",
                     .rope_theta = 1e4,
                     .heads = SY__HF_HEADS_FILL,
                     .moe_names = {qwen_names, fused_names}},
    [SY_HF_GRANITE_MOE_SHARED] = {.name = "GraniteMoeSharedForCausalLM",
                                  .model_type = "granitemoeshared",
                                  .moe = true,
                                  .keys = granite_keys,
                                  .only = no_attention_bias,
                                  .extra = "{" EXTRA_MOE "}",
                                  .rope_theta = 1e4,
                                  .shared = SY__HF_SHARED_PLAIN,
                                  .moe_names = {granite_names, granite_fused_names}},
    [SY_HF_DEEPSEEK_V2] = {.name = "DeepseekV2ForCausalLM",
                           .model_type = "deepseek_v2",
                           .moe = true,
                           .keys = deepseek_v2_keys,
                           .only = deepseek_v2_only,
                           .extra = "{" EXTRA_MOE "}",
                           .rope_theta = 1e4,
                           .heads = SY__HF_HEADS_DIVIDE,
                           .latent = true,
                           .shared = SY__HF_SHARED_PLAIN,
                           .moe_names = {deepseek_names, deepseek_fused_names}},
    [SY_HF_DEEPSEEK_V3] = {.name = "DeepseekV3ForCausalLM",
                           .model_type = "deepseek_v3",
                           .moe = true,
                           .keys = deepseek_v3_keys,
                           .only = deepseek_v3_only,
                           .extra = "{" EXTRA_MOE "}",
                           .rope_theta = 1e4,
                           .latent = true,
                           .router_bias = true,
                           .shared = SY__HF_SHARED_PLAIN,
                           .moe_names = {deepseek_names, deepseek_fused_names}},
};

const sy__hf_arch *sy__hf_arch_at(sy_hf_arch arch)
{
    return &archs[arch];
}

const char *sy_hf_arch_name(sy_hf_arch arch)
{
    return archs[arch].name;
}

sy_status sy__hf_arch_find(const char *where, const char *name, sy_hf_arch *out)
{
    const char *names[2 * SY_N_HF_ARCHS];
    char all[512], shown[64];
    size_t n = 0;
    for (int32_t i = 0; i < SY_N_HF_ARCHS; i++) {
        if (strcmp(name, archs[i].name) == 0 || strcmp(name, archs[i].model_type) == 0) {
            *out = (sy_hf_arch)i;
            return SY_OK;
        }
        names[2 * i] = archs[i].name;
        names[2 * i + 1] = archs[i].model_type;
        n += (size_t)snprintf(all + n, sizeof all - n, "%s%s", i > 0 ? ", " : "", archs[i].name);
    }
    const char *near = sy_nearest_name(name, names, 2 * SY_N_HF_ARCHS);
    return sy_error(SY_ERR_USAGE, "%s%sarchitecture '%s' is not known%s%s%s; known are %s",
                    where != NULL ? where : "", where != NULL ? ": " : "",
                    sy__hf_show(name, shown, sizeof shown), near != NULL ? " (did you mean '" : "",
                    near != NULL ? near : "", near != NULL ? "'?)" : "", all);
}

sy_status sy_hf_arch_parse(const char *name, sy_hf_arch *out)
{
    return sy__hf_arch_find(NULL, name, out);
}

/* ---- our side of a key ---- */

const sy_config_key *sy__hf_config_key(const char *ours, bool *moe)
{
    *moe = strncmp(ours, "moe.", 4) == 0;
    const sy_config_key *key = *moe ? sy_moe_section.keys : sy_model_section.keys;
    const char *name = strchr(ours, '.') + 1;
    while (strcmp(key->name, name) != 0) {
        key++;
    }
    return key;
}

double sy__hf_get(const char *ours, const sy_model_config *model, const sy_moe_config *moe)
{
    bool in_moe;
    const sy_config_key *key = sy__hf_config_key(ours, &in_moe);
    const char *field = (in_moe ? (const char *)moe : (const char *)model) + key->offset;
    switch (key->type) {
    case SY_CFG_BOOL:
        return *(const bool *)(const void *)field;
    case SY_CFG_F64:
        return *(const double *)(const void *)field;
    case SY_CFG_OPT_F64: {
        const sy_opt_f64 *value = (const void *)field;
        return value->set ? value->value : NAN;
    }
    default: /* I32 and ENUM; no other kind stands in the tables above */
        return *(const int32_t *)(const void *)field;
    }
}

int32_t sy__hf_n_moe_layers(const sy_model_config *model, const sy_moe_config *moe)
{
    int32_t n = 0;
    for (int32_t i = 0; i < model->layers; i++) {
        n += sy_moe_config_layer(moe, i);
    }
    return n;
}

double sy__hf_aux_factor(const sy_model_config *model, const sy_moe_config *moe)
{
    return (double)moe->top_k / sy__hf_n_moe_layers(model, moe);
}

int sy__hf_digits(double value)
{
    char text[32];
    for (int n = 15; n < 17; n++) {
        snprintf(text, sizeof text, "%.*g", n, value);
        if (strtod(text, NULL) == value) {
            return n;
        }
    }
    return 17;
}

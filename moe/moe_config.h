/* Config section `moe`. */
#ifndef SY_MOE_MOE_CONFIG_H
#define SY_MOE_MOE_CONFIG_H

#include "core/config.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SY_EXPERT_LABEL = 60 }; /* most bytes of one of moe.expert_labels */

typedef enum sy_adapter_base { SY_BASE_FULL, SY_BASE_NF4 } sy_adapter_base;
/* LORA without a rank: the experts are no adapters. */
typedef enum sy_adapter_kind {
    SY_ADAPTER_LORA,
    SY_ADAPTER_MOLORA,
    SY_ADAPTER_MOV,
    SY_ADAPTER_BOTTLENECK
} sy_adapter_kind;
typedef enum sy_drop_policy {
    SY_DROP_POSITION,
    SY_DROP_PROBABILITY,
    SY_DROP_BATCH_PRIORITY,
    SY_DROP_TOKEN_POSITION,
    SY_DROP_RANDOM
} sy_drop_policy;
typedef enum sy_drop_weights { SY_DROPPED_KEEP, SY_DROPPED_RENORMALIZE } sy_drop_weights;
typedef enum sy_capacity_basis { SY_BASIS_ASSIGNMENT, SY_BASIS_TOKEN } sy_capacity_basis;
typedef enum sy_capacity_rounding {
    SY_ROUND_CEIL,
    SY_ROUND_FLOOR,
    SY_ROUND_NEAREST,
    SY_ROUND_PER_CHOICE,
    SY_ROUND_PER_RANK
} sy_capacity_rounding;
typedef enum sy_capacity_scope { SY_CAPACITY_RANK, SY_CAPACITY_GLOBAL } sy_capacity_scope;
typedef enum sy_aux_counts { SY_AUX_COUNT_ALL, SY_AUX_COUNT_FIRST } sy_aux_counts;
typedef enum sy_aux_scope { SY_AUX_MICRO_BATCH, SY_AUX_SEQUENCE, SY_AUX_GLOBAL_BATCH } sy_aux_scope;

typedef struct sy_moe_config {
    int32_t experts, top_k, expert_hidden, adapter_kind, adapter_base, adapter_rank;
    bool adapter_attention;
    sy_str_list layers, expert_widths;
    int32_t shared_experts, shared_hidden;
    bool shared_gate, extra_ffn;
    char *router;
    int32_t score; /* sy_score of backend/ops.h */
    bool normalize_weights;
    double routed_scale, jitter;
    sy_opt_f64 capacity_factor, eval_capacity_factor;
    int32_t min_capacity, drop_policy;
    int32_t capacity_basis, capacity_rounding, capacity_multiple, capacity_group, capacity_scope;
    int32_t drop_weights;
    bool pad_to_capacity;
    double recv_factor;
    double aux_loss_coeff, z_loss_coeff, bias_update_rate;
    int32_t aux_loss_scope, aux_loss_counts;
    int64_t bias_update_steps;
    bool width_penalty;
    bool force_balance;
    sy_str_list expert_labels;
    bool look_ahead;
    int32_t n_layers; /* of the model, set by resolving: what stands behind them is like the last */
    const void *own;  /* the chosen router's section, set by resolving; NULL: it has none */
} sy_moe_config;

extern const sy_config_section sy_moe_section;

/* Defaults that depend on other keys (expert_hidden = ffn_hidden, normalize_weights = top_k > 1,
   shared_hidden = shared_experts * expert_hidden) and checks that need other sections (layers
   within model.layers, and one at least), and what the router has to say. After parsing. Not
   collective. */
sy_status sy_moe_config_resolve(sy_config *config, int32_t n_layers, int32_t ffn_hidden);
/* Is layer i a MoE layer? False for all where experts is 0; beyond the last layer what that one is.
 * Not collective. */
bool sy_moe_config_layer(const sy_moe_config *config, int32_t layer);

#ifdef __cplusplus
}
#endif
#endif

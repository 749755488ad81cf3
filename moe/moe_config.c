#include "moe/moe_config.h"

#include "model/layer_list.h"
#include "model/model_config.h"
#include "moe/adapters.h"
#include "moe/router.h"
#include "moe/widths.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    {                                                                                              \
#field, kind, offsetof(sy_moe_config, field), def, lo, hi, choices, text                   \
    }

#define LABEL_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."

static const char *const score_choices[] = {"softmax", "sigmoid", NULL};
static const char *const adapter_choices[] = {"lora", "molora", "mov", "bottleneck", NULL};
static const char *const base_choices[] = {"full", "nf4", NULL};
static const char *const drop_choices[] = {"position",       "probability", "batch_priority",
                                           "token_position", "random",      NULL};
static const char *const dropped_choices[] = {"keep", "renormalize", NULL};
static const char *const basis_choices[] = {"assignment", "token", NULL};
static const char *const rounding_choices[] = {"ceil",       "floor",    "nearest",
                                               "per_choice", "per_rank", NULL};
static const char *const capacity_scope_choices[] = {"rank", "global", NULL};
static const char *const counts_choices[] = {"all", "first", NULL};
static const char *const scope_choices[] = {"micro_batch", "sequence", "global_batch", NULL};

static const sy_config_key keys[] = {
    KEY(experts, SY_CFG_I32, "0", 0, 1 << 16, NULL,
        "Routed experts per MoE layer (E). 0: a dense model."),
    KEY(top_k, SY_CFG_I32, "2", 1, 1 << 10, NULL, "Experts per token (K)."),
    KEY(expert_hidden, SY_CFG_I32, "0", 0, 1 << 22, NULL,
        "Width of an expert (F_e). 0: model.ffn_hidden."),
    KEY(expert_widths, SY_CFG_STR_LIST, "null", 0, 0, NULL,
        "Experts of different width (HMoE): arithmetic:FIRST:LAST, geometric:FIRST:LAST, or a list "
        "of E widths. null: all have moe.expert_hidden."),
    KEY(adapter_kind, SY_CFG_ENUM, "lora", 0, 0, adapter_choices,
        "What experts are with moe.adapter_rank, on one MLP that they share: lora, deltas B A; "
        "molora, the same mixed before the product (moe.router soft); bottleneck, U gelu(D y) on "
        "its output y. mov, without a rank: vectors that rescale its activation, mixed (soft)."),
    KEY(adapter_base, SY_CFG_ENUM, "full", 0, 0, base_choices,
        "The MLP that adapters change: full, or nf4: frozen, in 4 bits and a scale per 64 weights "
        "(QLoRA), in memory and in the file."),
    KEY(adapter_rank, SY_CFG_I32, "0", 0, 1 << 16, NULL,
        "Rank, or inner width, of experts that are adapters on one MLP that they share, which "
        "train.freeze: [layers/*/moe/base/*] keeps as it is. 0: every expert has matrices of its "
        "own."),
    KEY(adapter_attention, SY_CFG_BOOL, "false", 0, 0, NULL,
        "adapter_kind mov: vectors on the keys and values too, as published, mixed by routers of "
        "their own."),
    KEY(layers, SY_CFG_STR_LIST, "all", 0, 0, NULL,
        "Which layers are MoE: all, every:N (layers i with i mod N = N-1), from:N (layers i >= N), "
        "or a list of layer numbers from 0."),
    KEY(shared_experts, SY_CFG_I32, "0", 0, 1 << 10, NULL,
        "Shared experts: every token visits them."),
    KEY(shared_hidden, SY_CFG_I32, "0", 0, 1 << 24, NULL,
        "Total width of the shared experts. 0: shared_experts * expert_hidden."),
    KEY(shared_gate, SY_CFG_BOOL, "false", 0, 0, NULL,
        "Scale the shared experts by sigmoid(x w) (Qwen2-MoE)."),
    KEY(extra_ffn, SY_CFG_BOOL, "false", 0, 0, NULL,
        "A dense MLP of width model.ffn_hidden behind the experts of every MoE layer, with a norm "
        "of its own (ST-MoE, OpenMoE)."),
    KEY(router, SY_CFG_STR, "topk", 0, 0, NULL, "Routing method."),
    KEY(score, SY_CFG_ENUM, "softmax", 0, 0, score_choices, "From router logits to scores."),
    KEY(normalize_weights, SY_CFG_BOOL, "true", 0, 0, NULL,
        "Divide the chosen scores by their sum. With top_k 1 the default is false and true is "
        "refused: the router would get no gradient."),
    KEY(routed_scale, SY_CFG_F64, "1.0", 0, 1e6, NULL,
        "Factor on the routed experts' weights (DeepSeek-V3: 2.5)."),
    KEY(jitter, SY_CFG_F64, "0.0", 0, 1, NULL,
        "Multiply the router's input by U(1-x, 1+x) in training (Switch: 0.01)."),
    KEY(capacity_factor, SY_CFG_OPT_F64, "null", 0, 1e6, NULL,
        "Capacity C = ceil(factor * T * K / E) per expert, source rank and micro-batch in "
        "training, unless the capacity_ keys say otherwise. null: dropless."),
    KEY(eval_capacity_factor, SY_CFG_OPT_F64, "null", 0, 1e6, NULL,
        "The same in evaluation and generation. null: dropless."),
    KEY(min_capacity, SY_CFG_I32, "4", 0, 1 << 24, NULL, "Capacity is at least this many rows."),
    KEY(capacity_basis, SY_CFG_ENUM, "assignment", 0, 0, basis_choices,
        "What capacity_factor is a share of: T * K assignments (Megatron-LM, DeepSpeed), or T "
        "tokens (Switch, GShard, ST-MoE)."),
    KEY(capacity_rounding, SY_CFG_ENUM, "ceil", 0, 0, rounding_choices,
        "From the share to rows: up, down, to the nearest (half to even), K * floor(factor * "
        "ceil(T / E)) (per_choice: Tutel), floor(ceil(factor * T) * K / E) (per_rank: FastMoE)."),
    KEY(capacity_multiple, SY_CFG_I32, "1", 1, 1 << 16, NULL,
        "Capacity is rounded up to a multiple of this (GShard in Lingvo, V-MoE: 4)."),
    KEY(capacity_group, SY_CFG_I32, "0", 0, 1 << 30, NULL,
        "Tokens that capacity is counted in, one group behind the other (Switch: 1024, ST-MoE: "
        "4096). 0: the micro-batch."),
    KEY(capacity_scope, SY_CFG_ENUM, "rank", 0, 0, capacity_scope_choices,
        "Whose tokens share an expert's rows: those of one rank's micro-batch (or group), or of "
        "all ranks' micro-batches together, which makes drops independent of the layout."),
    KEY(drop_policy, SY_CFG_ENUM, "position", 0, 0, drop_choices,
        "Who is dropped beyond capacity: later positions, first choices before second ones; the "
        "smallest weights (probability: Megatron-LM; looks ahead); like position, but tokens in "
        "the order of their best score (batch_priority: V-MoE; looks ahead); later tokens with all "
        "their choices (token_position); tokens by lot in training (random: DeepSpeed)."),
    KEY(drop_weights, SY_CFG_ENUM, "keep", 0, 0, dropped_choices,
        "What a token's other choices weigh after a drop: what they did, or divided by their sum "
        "anew (renormalize: DeepSpeed, fairseq)."),
    KEY(pad_to_capacity, SY_CFG_BOOL, "false", 0, 0, NULL,
        "Exchange full capacity with fixed shapes instead of exact counts. Needs capacity_factor."),
    KEY(recv_factor, SY_CFG_F64, "2.0", 0.01, 1e6, NULL,
        "Receive buffer of a rank, in multiples of its own T * K rows. Rows beyond it travel in "
        "further passes."),
    KEY(aux_loss_coeff, SY_CFG_F64, "0.01", 0, 1e6, NULL,
        "Coefficient of the balance loss E * sum f P per layer, summed over layers (1 at "
        "balance)."),
    KEY(aux_loss_scope, SY_CFG_ENUM, "sequence", 0, 0, scope_choices,
        "Tokens over which the load fractions f are taken."),
    KEY(width_penalty, SY_CFG_BOOL, "false", 0, 0, NULL,
        "The balance loss counts a choice by its expert's width over the mean width (HMoE's "
        "parameter penalty). Needs moe.expert_widths."),
    KEY(aux_loss_counts, SY_CFG_ENUM, "all", 0, 0, counts_choices,
        "Which choices of a token f counts: all, or the first one alone (Switch, GShard, "
        "DeepSpeed, Tutel)."),
    KEY(z_loss_coeff, SY_CFG_F64, "0.001", 0, 1e6, NULL,
        "Coefficient of mean logsumexp(z)^2 per layer, summed over layers."),
    KEY(bias_update_rate, SY_CFG_F64, "0.0", 0, 1, NULL,
        "Aux-loss-free balancing: step of the choosing bias after each update (DeepSeek-V3: "
        "0.001). 0: no bias."),
    KEY(bias_update_steps, SY_CFG_I64, "0", 0, 1e15, NULL,
        "Updates after which the choosing bias stays as it is (DeepSeek-V3: the last 3 % of "
        "training). 0: it never does."),
    KEY(force_balance, SY_CFG_BOOL, "false", 0, 0, NULL,
        "For benchmarks only: experts are dealt round-robin whatever the router says. Labelled in "
        "every output."),
    KEY(look_ahead, SY_CFG_BOOL, "false", 0, 0, NULL,
        "Let a router that looks at later tokens (expert_choice) train this causal model, and let "
        "a drop_policy do so without a warning."),
    KEY(expert_labels, SY_CFG_STR_LIST, "null", 0, 0, NULL,
        "Names of n kinds of experts: expert e belongs to name e mod n. Evaluation then says how "
        "the choices are shared out among them. merge --method btx writes its sources' names."),
    {0},
};

/* They become parts of metrics' names. */
static sy_status check_labels(const sy_moe_config *m, const sy_config *config)
{
    sy_status st = SY_OK;
    const sy_str_list *labels = &m->expert_labels;
    if (labels->n > 0 && m->experts % labels->n != 0) {
        SY_TRY(sy_config_error(config, "moe.expert_labels",
                               "moe.expert_labels: moe.experts %d is not a multiple of %d labels",
                               m->experts, labels->n));
    }
    for (int32_t i = 0; i < labels->n; i++) {
        const char *label = labels->item[i];
        size_t n = strlen(label);
        if (n == 0 || n > SY_EXPERT_LABEL || strspn(label, LABEL_CHARACTERS) != n) {
            SY_TRY(sy_config_error(config, "moe.expert_labels",
                                   "moe.expert_labels: '%s' becomes part of a metric's name and "
                                   "may have 1 to %d letters, digits and the signs _ - . only",
                                   label, SY_EXPERT_LABEL));
        }
        for (int32_t k = 0; k < i; k++) {
            if (strcmp(label, labels->item[k]) == 0) {
                SY_TRY(sy_config_error(config, "moe.expert_labels",
                                       "moe.expert_labels: '%s' is given twice", label));
            }
        }
    }
cleanup:
    return st;
}

/* Keys of a part that is not there, unless that is written down, as in a checkpoint. */
static sy_status check_partners(const sy_moe_config *m, const sy_config *config)
{
    const struct {
        bool is_set, has;
        const char *key, *needs;
    } pairs[] = {
        {m->shared_hidden > 0, m->shared_experts > 0, "moe.shared_hidden", "moe.shared_experts"},
        {m->bias_update_steps > 0, m->bias_update_rate > 0, "moe.bias_update_steps",
         "moe.bias_update_rate"}};
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        if (pairs[i].is_set && !pairs[i].has && !sy_config_was_set(config, pairs[i].needs)) {
            return sy_config_error(config, pairs[i].key,
                                   "%s needs %s; set that too, or leave it out", pairs[i].key,
                                   pairs[i].needs);
        }
    }
    return SY_OK;
}

static sy_status check_padding(const sy_moe_config *m, const sy_config *config)
{
    const sy_router_ops *router = sy_router_find(m->router);
    if (m->pad_to_capacity && router != NULL && router->traits & SY_ROUTER_NO_CAPACITY) {
        return sy_config_error(config, "moe.pad_to_capacity",
                               "moe.pad_to_capacity with moe.router %s, which has no capacity; set "
                               "it to false, or use moe.router topk",
                               m->router);
    }
    return m->pad_to_capacity && !m->capacity_factor.set
               ? sy_config_error(config, "moe.pad_to_capacity",
                                 "moe.pad_to_capacity needs moe.capacity_factor")
               : SY_OK;
}

static sy_status check(const void *section, const sy_config *config)
{
    sy_status st = SY_OK;
    const sy_moe_config *m = section;
    SY_TRY(sy_layer_list_check(&m->layers, "moe.layers", config));
    SY_TRY(check_labels(m, config));
    if (m->experts > 0 && m->top_k > m->experts) {
        SY_TRY(sy_config_error(config, "moe.top_k",
                               "moe.top_k %d is larger than moe.experts %d; set it to %d", m->top_k,
                               m->experts, m->experts));
    }
    if (m->top_k == 1 && m->normalize_weights &&
        sy_config_was_set(config, "moe.normalize_weights")) {
        SY_TRY(sy_config_error(config, "moe.normalize_weights",
                               "moe.normalize_weights true with moe.top_k 1: the weight is always "
                               "1 and the router gets "
                               "no gradient; set it to false"));
    }
    SY_TRY(check_padding(m, config));
    SY_TRY(check_partners(m, config));
    if (m->extra_ffn && m->experts == 0) {
        SY_TRY(sy_config_error(config, "moe.extra_ffn", "moe.extra_ffn needs moe.experts"));
    }
    if (m->shared_gate && m->shared_experts == 0) {
        SY_TRY(
            sy_config_error(config, "moe.shared_gate", "moe.shared_gate needs moe.shared_experts"));
    }
cleanup:
    return st;
}

const sy_config_section sy_moe_section = {
    .name = "moe",
    .help = "Mixture of experts.",
    .keys = keys,
    .struct_bytes = sizeof(sy_moe_config),
    .check = check,
};

static sy_status check_name(const sy_moe_config *m, const sy_config *config)
{
    const char *const *names = sy_router_names();
    const char *near = NULL;
    int32_t n = 0;
    if (sy_router_find(m->router) != NULL) {
        return SY_OK;
    }
    while (names[n] != NULL) {
        n++;
    }
    near = sy_nearest_name(m->router, names, n);
    return sy_config_error(config, "moe.router",
                           "moe.router: unknown router '%s' (did you mean '%s'?)", m->router,
                           near != NULL ? near : names[0]);
}

static sy_status set_number(sy_config *config, const char *key, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%ld", (long)value);
    return sy_config_default(config, key, text);
}

static sy_status check_any_layer(const sy_moe_config *m, int32_t n_layers, const sy_config *config)
{
    for (int32_t i = 0; i < n_layers; i++) {
        if (sy_moe_config_layer(m, i)) {
            return SY_OK;
        }
    }
    return m->experts == 0 ? SY_OK
                           : sy_config_error(config, "moe.layers",
                                             "moe.layers names none of the %d layers; for a dense "
                                             "model set moe.experts to 0",
                                             n_layers);
}

/* A layer has one kind of experts. */
static sy_status check_no_peer(const sy_moe_config *m, const sy_config *config, int32_t n_layers)
{
    const sy_model_config *model = sy_config_get(config, "model");
    for (int32_t i = 0; model != NULL && i < n_layers; i++) {
        if (sy_moe_config_layer(m, i) && sy_model_layer_peer(model, i)) {
            return sy_config_error(config, "model.peer_layers",
                                   "layer %d is in moe.layers and in model.peer_layers; take it "
                                   "out of one of them, or set moe.experts to 0",
                                   i);
        }
    }
    return SY_OK;
}

sy_status sy_moe_config_resolve(sy_config *config, int32_t n_layers, int32_t ffn_hidden)
{
    sy_status st = SY_OK;
    const sy_moe_config *m = sy_config_get(config, "moe");
    ((sy_moe_config *)sy_config_edit(config, "moe"))->n_layers = n_layers;
    SY_TRY(check_name(m, config));
    SY_TRY(sy_moe_widths_settle(config));
    if (m->expert_hidden == 0) {
        SY_TRY(set_number(config, "moe.expert_hidden", ffn_hidden));
    }
    SY_TRY(sy_moe_adapters_settle(config));
    if (m->shared_experts > 0 && m->shared_hidden == 0) {
        SY_TRY(
            set_number(config, "moe.shared_hidden", (int64_t)m->shared_experts * m->expert_hidden));
    }
    if (m->top_k == 1 && !sy_config_was_set(config, "moe.normalize_weights")) {
        SY_TRY(sy_config_default(config, "moe.normalize_weights", "false"));
    }
    SY_TRY(sy_layer_list_fits(&m->layers, "moe.layers", n_layers, config));
    SY_TRY(check_any_layer(m, n_layers, config));
    SY_TRY(check_no_peer(m, config, n_layers));
    SY_TRY(sy_router_settle(config));
cleanup:
    return st;
}

bool sy_moe_config_layer(const sy_moe_config *config, int32_t layer)
{
    const bool behind = config->n_layers > 0 && layer >= config->n_layers;
    return config->experts > 0 &&
           sy_layer_list_has(&config->layers, behind ? config->n_layers - 1 : layer);
}

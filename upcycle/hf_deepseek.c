/* What DeepSeek-V2 and V3 say with keys that nobody else has: leading dense layers, groups of
   experts, a latent for queries that may be missing, a balance loss per layer and sequence. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "moe/router.h"
#include "upcycle/hf_impl.h"

/* ---- moe.grouped ---- */

/* By name, of a configuration whose router is `grouped`. */
static double grouped(const sy_moe_config *moe, const char *name)
{
    const sy_config_key *key = sy_router_section_grouped.keys;
    while (strcmp(key->name, name) != 0) {
        key++;
    }
    const char *field = (const char *)moe->own + key->offset;
    return key->type == SY_CFG_F64 ? *(const double *)(const void *)field
                                   : *(const int32_t *)(const void *)field;
}

static bool is_grouped(const sy_moe_config *moe)
{
    return strcmp(moe->router, "grouped") == 0;
}

/* What groups count by: V3 their two best, V2 their best; as moe.grouped.group_score has them. */
static const char *group_score(const sy__hf_arch *a)
{
    return a->router_bias ? "top2" : "max";
}

/* ---- fits ---- */

/* Dense layers first, then MoE layers; -1: another order. */
static int32_t dense_first(const sy_model_config *model, const sy_moe_config *moe)
{
    int32_t k = 0;
    while (k < model->layers && !sy_moe_config_layer(moe, k)) {
        k++;
    }
    for (int32_t i = k; i < model->layers; i++) {
        if (!sy_moe_config_layer(moe, i)) {
            return -1;
        }
    }
    return k;
}

static bool router_fits(const sy__hf_arch *a, const sy_moe_config *moe, char *why)
{
    if (!is_grouped(moe)) {
        snprintf(why, SY__HF_WHY, "moe.router is %.64s", moe->router);
        return strcmp(moe->router, "topk") == 0;
    }
    const char *score = grouped(moe, "group_score") > 0 ? "top2" : "max";
    snprintf(why, SY__HF_WHY, "moe.grouped.group_score is %s", score);
    return strcmp(score, group_score(a)) == 0;
}

bool sy__hf_deepseek_fits(const sy__hf_arch *a, const sy_model_config *model,
                          const sy_moe_config *moe, char *why, bool *trick)
{
    if (model->kv_lora_rank == 0) {
        snprintf(why, SY__HF_WHY, "model.kv_lora_rank is 0");
        return false;
    }
    if (dense_first(model, moe) < 0) {
        snprintf(why, SY__HF_WHY, "moe.layers has dense layers behind MoE layers");
        return false;
    }
    if (moe->shared_experts == 0 || moe->shared_gate ||
        moe->shared_hidden != (int64_t)moe->shared_experts * moe->expert_hidden) {
        snprintf(why, SY__HF_WHY,
                 "moe.shared_experts is %d, of width %d together%s; there is one at least, without "
                 "gate, each as wide as an expert",
                 moe->shared_experts, moe->shared_hidden, moe->shared_gate ? ", gated" : "");
        return false;
    }
    if (!a->router_bias && moe->bias_update_rate > 0) {
        snprintf(why, SY__HF_WHY, "moe.bias_update_rate is %g", moe->bias_update_rate);
        return false;
    }
    *trick = *trick || (a->router_bias && moe->bias_update_rate == 0);
    return router_fits(a, moe, why);
}

/* ---- reading ---- */

/* A whole number from low to high; *out is kept where the key is missing or null. */
static sy_status read_count(const sy__hf_reader *r, const char *key, double low, double high,
                            int32_t *out)
{
    const json_t *value = sy__hf_find(r, key);
    if (value == NULL) {
        return SY_OK;
    }
    if (!json_is_integer(value) || !(json_number_value(value) >= low) ||
        !(json_number_value(value) <= high)) {
        return sy__hf_refuse(r, key, value, "it must be a whole number from %.10g to %.10g", low,
                             high);
    }
    *out = (int32_t)json_integer_value(value);
    return SY_OK;
}

static const char next_n[] = "num_nextn_predict_layers";

sy_status sy__hf_read_latent(sy__hf_reader *r)
{
    sy_status st = SY_OK;
    int32_t mtp = 0;
    const bool null = json_is_null(json_object_get(r->root, "q_lora_rank"));
    const double heads = sy__hf_number(r, "model.heads");
    int32_t rank = null ? 0 : 1536;
    SY_REQUIRE(sy__hf_number(r, "model.kv_heads") == heads, SY_ERR_USAGE,
               "%s: num_key_value_heads %g: latent attention has keys for each of "
               "num_attention_heads %g",
               r->path, sy__hf_number(r, "model.kv_heads"), heads);
    SY_REQUIRE(fmod(sy__hf_number(r, "model.qk_rope_head_dim"), 2) == 0, SY_ERR_USAGE,
               "%s: qk_rope_head_dim is %g: rotary angles need an even number", r->path,
               sy__hf_number(r, "model.qk_rope_head_dim"));
    SY_TRY(read_count(r, "q_lora_rank", 1, 1 << 20, &rank));
    sy__hf_add_value(r, "model.q_lora_rank", rank);
    if (r->arch->router_bias) {
        SY_TRY(read_count(r, next_n, 0, 16, &mtp));
        sy__hf_add_value(r, "model.mtp_layers", r->no_mtp ? 0 : mtp);
    }
cleanup:
    return st;
}

/* V2's two ways; V3 has one. */
static sy_status read_method(const sy__hf_reader *r, bool *by_group)
{
    const json_t *value = sy__hf_find(r, "topk_method");
    const char *method = value != NULL ? json_string_value(value) : "greedy";
    *by_group =
        r->arch->router_bias || (method != NULL && strcmp(method, "group_limited_greedy") == 0);
    if (*by_group || (method != NULL && strcmp(method, "greedy") == 0)) {
        return SY_OK;
    }
    return sy__hf_refuse(r, "topk_method", value,
                         "known are \"greedy\" and \"group_limited_greedy\"");
}

static sy_status add_groups(sy__hf_reader *r)
{
    sy_status st = SY_OK;
    const double experts = sy__hf_number(r, "moe.experts"), top_k = sy__hf_number(r, "moe.top_k");
    int32_t groups = r->arch->router_bias ? 8 : 1, kept = r->arch->router_bias ? 4 : 1;
    bool by_group = false;
    SY_TRY(read_method(r, &by_group));
    if (by_group) {
        SY_TRY(read_count(r, "n_group", 1, 1 << 16, &groups));
        SY_TRY(read_count(r, "topk_group", 1, groups, &kept));
    }
    if (!by_group || groups == 1) {
        sy__hf_add(r, "  router: topk\n");
        goto cleanup;
    }
    SY_REQUIRE(fmod(experts, groups) == 0 && kept * experts / groups >= top_k, SY_ERR_USAGE,
               "%s: n_group %d, topk_group %d: the groups kept of n_routed_experts %g must have "
               "num_experts_per_tok %g",
               r->path, groups, kept, experts, top_k);
    sy__hf_add(r, "  router: grouped\n  grouped: {groups: %d, groups_kept: %d, group_score: %s}\n",
               groups, kept, group_score(r->arch));
cleanup:
    return st;
}

static sy_status add_layers(sy__hf_reader *r)
{
    sy_status st = SY_OK;
    const int32_t n = (int32_t)sy__hf_number(r, "model.layers");
    int32_t dense = r->arch->router_bias ? 3 : 0;
    SY_TRY(read_count(r, "first_k_dense_replace", 0, n - 1, &dense));
    SY_REQUIRE(dense < n, SY_ERR_USAGE,
               "%s: first_k_dense_replace is missing, and its default %d leaves none of "
               "num_hidden_layers %d with experts",
               r->path, dense, n);
    if (dense == 0) {
        sy__hf_add(r, "  layers: all\n");
    } else {
        sy__hf_add(r, "  layers: from:%d\n", dense);
    }
cleanup:
    return st;
}

sy_status sy__hf_read_deepseek(sy__hf_reader *r)
{
    sy_status st = SY_OK;
    const json_t *sequence = sy__hf_find(r, "seq_aux");
    SY_TRY(add_layers(r));
    SY_TRY(add_groups(r));
    if (sequence != NULL && !json_is_boolean(sequence)) {
        SY_TRY(sy__hf_refuse(r, "seq_aux", sequence, "it must be true or false"));
    }
    sy__hf_add_value(r, "moe.aux_loss_coeff", sy__hf_number(r, "moe.aux_loss_coeff"));
    sy__hf_add(r, "  aux_loss_scope: %s\n", json_is_false(sequence) ? "micro_batch" : "sequence");
    sy__hf_add_value(r, "moe.bias_update_rate", r->arch->router_bias ? 0.001 : 0);
cleanup:
    return st;
}

/* ---- writing ---- */

sy_status sy__hf_write_deepseek(json_t *root, const sy__hf_arch *a, const sy_model_config *model,
                                const sy_moe_config *moe)
{
    sy_status st = SY_OK;
    const bool groups = is_grouped(moe);
    json_t *values =
        json_pack("{s:o, s:i, s:i, s:i, s:b}", "q_lora_rank",
                  model->q_lora_rank > 0 ? json_integer(model->q_lora_rank) : json_null(),
                  "first_k_dense_replace", dense_first(model, moe), "n_group",
                  groups ? (int)grouped(moe, "groups") : 1, "topk_group",
                  groups ? (int)grouped(moe, "groups_kept") : 1, "seq_aux",
                  moe->aux_loss_scope == SY_AUX_SEQUENCE);
    const char *method = a->router_bias ? "noaux_tc" : groups ? "group_limited_greedy" : "greedy";
    SY_REQUIRE(values != NULL && json_object_update(root, values) == 0 &&
                   json_object_set_new(root, "topk_method", json_string(method)) == 0,
               SY_ERR_MEMORY, "out of memory for config.json");
    if (a->router_bias) {
        SY_REQUIRE(json_object_set_new(root, next_n, json_integer(model->mtp_layers)) == 0,
                   SY_ERR_MEMORY, "out of memory for config.json");
    }
cleanup:
    json_decref(values);
    return st;
}

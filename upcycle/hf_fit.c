/* Which architecture can hold a model without loss. Tricks that change no number (docs/FORMATS.md):
   biases of zero; a shared expert of zero; a gate that is sigmoid(0) before weights times two;
   weights times a power of two. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "upcycle/hf_impl.h"
#include "moe/adapters.h"

static bool is_power_of_two(double x)
{
    int exponent;
    return frexp(x, &exponent) == 0.5;
}

/* "model.qk_norm is head" */
static void describe(const char *ours, double value, char *out, size_t out_bytes)
{
    bool in_moe;
    const sy_config_key *key = sy__hf_config_key(ours, &in_moe);
    if (key->type == SY_CFG_ENUM) {
        snprintf(out, out_bytes, "%s is %s", ours, key->choices[(int32_t)value]);
    } else if (key->type == SY_CFG_BOOL) {
        snprintf(out, out_bytes, "%s is %s", ours, value != 0 ? "true" : "false");
    } else if (strcmp(ours, "moe.routed_scale") == 0) {
        snprintf(out, out_bytes, "%s is %.10g, no power of two", ours, value);
    } else {
        snprintf(out, out_bytes, "%s is %.10g", ours, value);
    }
}

/* A value that differs from the only one that the architecture has: does a trick mend it? */
static bool can_mend(const sy__hf_arch *a, const char *ours, double value,
                     const sy_model_config *model, bool *trick)
{
    if (strcmp(ours, "model.attention_multiplier") == 0) {
        return fabs(value * sqrt(model->head_dim) - 1) < 1e-12; /* the same by its value */
    }
    *trick = true;
    return (strcmp(ours, "model.attention_bias") == 0 && a->has_bias) ||
           (strcmp(ours, "moe.routed_scale") == 0 && is_power_of_two(value));
}

static bool constants_fit(const sy__hf_arch *a, const sy_model_config *model,
                          const sy_moe_config *moe, char *why, bool *trick)
{
    for (const sy__hf_key *key = a->keys; key->ours != NULL; key++) {
        double value = sy__hf_get(key->ours, model, moe);
        bool same = value == key->absent || (isnan(value) && isnan(key->absent));
        if (key->json == NULL && !same && !can_mend(a, key->ours, value, model, trick)) {
            describe(key->ours, value, why, SY__HF_WHY);
            return false;
        }
    }
    return true;
}

static bool heads_fit(const sy__hf_arch *a, const sy_model_config *model, char *why)
{
    if (a->heads == SY__HF_HEADS_DIVIDE && model->hidden % model->heads != 0) {
        snprintf(why, SY__HF_WHY, "model.hidden %d is not divisible by model.heads %d",
                 model->hidden, model->heads);
        return false;
    }
    if (a->heads == SY__HF_HEADS_FILL && (int64_t)model->heads * model->head_dim != model->hidden) {
        snprintf(why, SY__HF_WHY, "model.heads %d times model.head_dim %d is not model.hidden %d",
                 model->heads, model->head_dim, model->hidden);
        return false;
    }
    return true;
}

static bool shared_fits(const sy__hf_arch *a, const sy_moe_config *moe, char *why, bool *trick)
{
    if (moe->shared_experts > 0 && a->shared == SY__HF_SHARED_NONE) {
        snprintf(why, SY__HF_WHY, "moe.shared_experts is %d", moe->shared_experts);
        return false;
    }
    if (moe->shared_experts > 0 && moe->shared_gate && a->shared != SY__HF_SHARED_GATED) {
        snprintf(why, SY__HF_WHY, "moe.shared_gate is true");
        return false;
    }
    *trick = *trick || (a->shared == SY__HF_SHARED_GATED && !moe->shared_gate);
    return true;
}

static bool experts_fit(const sy_moe_config *moe, char *why)
{
    if (sy_moe_has_adapters(moe)) {
        snprintf(why, SY__HF_WHY, "its experts are adapters (moe.adapter_rank is %d)",
                 moe->adapter_rank);
        return false;
    }
    snprintf(why, SY__HF_WHY, "moe.expert_widths is set");
    return moe->expert_widths.n == 0;
}

static bool routing_fits(const sy__hf_arch *a, const sy_model_config *model,
                         const sy_moe_config *moe, char *why)
{
    int32_t n = sy__hf_n_moe_layers(model, moe);
    if (a->latent) {
        return true; /* hf_deepseek.c */
    }
    if (strcmp(moe->router, "topk") != 0) {
        snprintf(why, SY__HF_WHY, "moe.router is %.64s", moe->router);
        return false;
    }
    if (n < model->layers && !a->dense_layers) {
        snprintf(why, SY__HF_WHY, "moe.layers makes %d of %d layers dense", model->layers - n,
                 model->layers);
        return false;
    }
    return true;
}

static bool depth_fits(const sy__hf_arch *a, const sy_model_config *model, char *why)
{
    if (model->mtp_layers > 0 && !a->router_bias) {
        snprintf(why, SY__HF_WHY, "model.mtp_layers is %d (--drop-mtp leaves its modules out)",
                 model->mtp_layers);
        return false;
    }
    if (model->peer_keys > 0) {
        snprintf(why, SY__HF_WHY, "model.peer_keys is %d", model->peer_keys);
        return false;
    }
    snprintf(why, SY__HF_WHY, "model.depth_capacity is %g", model->depth_capacity.value);
    return !model->depth_capacity.set;
}

bool sy__hf_fits(const sy__hf_arch *a, const sy_model_config *model, const sy_moe_config *moe,
                 char *why, bool *trick)
{
    *trick = false;
    if (a->moe != (moe->experts > 0)) {
        snprintf(why, SY__HF_WHY, "moe.experts is %d", moe->experts);
        return false;
    }
    if (model->rope_scaling == SY_ROPE_SCALING_YARN && !a->latent) {
        snprintf(why, SY__HF_WHY, "model.rope_scaling is yarn");
        return false;
    }
    if (a->latent && !sy__hf_deepseek_fits(a, model, moe, why, trick)) {
        return false;
    }
    return constants_fit(a, model, moe, why, trick) && heads_fit(a, model, why) &&
           depth_fits(a, model, why) &&
           (!a->moe || (experts_fit(moe, why) && shared_fits(a, moe, why, trick) &&
                        routing_fits(a, model, moe, why)));
}

/* "Qwen3ForCausalLM, ..." or "". Returns how many. */
static int32_t list_fitting(const sy_model_config *model, const sy_moe_config *moe, char *out,
                            size_t out_bytes)
{
    char why[SY__HF_WHY];
    bool trick;
    int32_t n = 0;
    size_t at = 0;
    out[0] = '\0';
    for (int32_t i = 0; i < SY_N_HF_ARCHS; i++) {
        const sy__hf_arch *a = sy__hf_arch_at((sy_hf_arch)i);
        if (sy__hf_fits(a, model, moe, why, &trick) && at < out_bytes) {
            at += (size_t)snprintf(out + at, out_bytes - at, "%s%s", n > 0 ? ", " : "", a->name);
            n++;
        }
    }
    return n;
}

sy_status sy_hf_can_hold(sy_hf_arch arch, const sy_model_config *model, const sy_moe_config *moe)
{
    char why[SY__HF_WHY], others[512];
    bool trick;
    if (sy__hf_fits(sy__hf_arch_at(arch), model, moe, why, &trick)) {
        return SY_OK;
    }
    int32_t n = list_fitting(model, moe, others, sizeof others);
    return sy_error(SY_ERR_USAGE, "%s cannot hold this model without loss: %s; %s%s",
                    sy_hf_arch_name(arch), why, n > 0 ? "possible: " : "no known architecture can",
                    others);
}

sy_status sy_hf_choose(const sy_model_config *model, const sy_moe_config *moe, sy_hf_arch *out)
{
    char why[SY__HF_WHY], all[SY_N_HF_ARCHS * (SY__HF_WHY + 40)];
    size_t n = 0;
    bool trick;
    for (int32_t tricks = 0; tricks < 2; tricks++) {
        for (int32_t i = 0; i < SY_N_HF_ARCHS; i++) {
            const sy__hf_arch *a = sy__hf_arch_at((sy_hf_arch)i);
            if (sy__hf_fits(a, model, moe, why, &trick)) {
                if (!trick || tricks > 0) {
                    *out = (sy_hf_arch)i;
                    return SY_OK;
                }
            } else if (tricks == 0 && a->moe == (moe->experts > 0)) {
                n += (size_t)snprintf(all + n, sizeof all - n, "%s%s: %s", n > 0 ? "; " : "",
                                      a->name, why);
            }
        }
    }
    return sy_error(SY_ERR_USAGE, "no known architecture can hold this model without loss: %s",
                    all);
}

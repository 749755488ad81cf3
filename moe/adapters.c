#include "moe/adapters.h"

#include <string.h>

#include "backend/nf4.h"
#include "model/model_config.h"

bool sy_moe_has_adapters(const sy_moe_config *config)
{
    return config->experts > 0 &&
           (config->adapter_rank > 0 || config->adapter_kind == SY_ADAPTER_MOV);
}

bool sy_moe_mixes(const sy_moe_config *config)
{
    return sy_moe_has_adapters(config) &&
           (config->adapter_kind == SY_ADAPTER_MOV || config->adapter_kind == SY_ADAPTER_MOLORA);
}

bool sy_moe_has_kv_vectors(const sy_moe_config *config)
{
    return sy_moe_has_adapters(config) && config->adapter_kind == SY_ADAPTER_MOV &&
           config->adapter_attention;
}

bool sy_moe_has_bottlenecks(const sy_moe_config *config)
{
    return sy_moe_has_adapters(config) && config->adapter_kind == SY_ADAPTER_BOTTLENECK;
}

double sy_moe_adapter_params(const sy_moe_config *config, int64_t hidden, double experts)
{
    const double H = (double)hidden, F = config->expert_hidden, r = config->adapter_rank;
    const double base = 3 * H * F, delta = 3 * r * (H + F);
    switch (config->adapter_kind) {
    case SY_ADAPTER_MOV:
        return base + config->experts * F;
    case SY_ADAPTER_MOLORA:
        return base + config->experts * delta;
    case SY_ADAPTER_BOTTLENECK:
        return base + experts * 2 * r * H;
    default: /* the base runs for every choice */
        return experts * (base + delta);
    }
}

static sy_status check_activation(const sy_moe_config *m, const sy_config *config)
{
    const sy_model_config *model = sy_config_get(config, "model");
    return sy_moe_has_adapters(m) && model->activation != SY_ACT_SWIGLU
               ? sy_config_error(config, "model.activation",
                                 "adapters (moe.adapter_kind, moe.adapter_rank %d) change a SwiGLU "
                                 "MLP; set model.activation to swiglu, or leave the adapters out",
                                 m->adapter_rank)
               : SY_OK;
}

static sy_status check_rank(const sy_moe_config *m, const sy_config *config)
{
    if (m->adapter_kind == SY_ADAPTER_MOV && m->adapter_rank > 0) {
        return sy_config_error(config, "moe.adapter_rank",
                               "moe.adapter_rank %d with moe.adapter_kind mov: vectors have no "
                               "rank; set it to 0, or use molora",
                               m->adapter_rank);
    }
    /* a rank of 0 that is written down is no adapter: a checkpoint writes all keys down */
    const bool lora = m->adapter_kind == SY_ADAPTER_LORA &&
                      sy_config_was_set(config, "moe.adapter_kind") &&
                      !sy_config_was_set(config, "moe.adapter_rank");
    if (m->adapter_rank == 0 && (m->adapter_kind == SY_ADAPTER_MOLORA ||
                                 m->adapter_kind == SY_ADAPTER_BOTTLENECK || lora)) {
        return sy_config_error(config, "moe.adapter_kind",
                               "moe.adapter_kind %s needs moe.adapter_rank, the adapters' inner "
                               "width: 8, say",
                               lora                                   ? "lora"
                               : m->adapter_kind == SY_ADAPTER_MOLORA ? "molora"
                                                                      : "bottleneck");
    }
    return SY_OK;
}

/* Latent attention has no keys and values of its own that could be rescaled alone. */
static sy_status check_attention(const sy_moe_config *m, const sy_config *config)
{
    const sy_model_config *model = sy_config_get(config, "model");
    if (m->adapter_attention && m->adapter_kind != SY_ADAPTER_MOV) {
        return sy_config_error(config, "moe.adapter_attention",
                               "moe.adapter_attention rescales keys and values as "
                               "moe.adapter_kind mov does; set the kind to mov, or this to false");
    }
    if (m->adapter_attention && model != NULL && model->kv_lora_rank > 0) {
        return sy_config_error(config, "moe.adapter_attention",
                               "moe.adapter_attention with latent attention (model.kv_lora_rank "
                               "%d), whose keys and values are made of one latent; set it to "
                               "false",
                               model->kv_lora_rank);
    }
    return SY_OK;
}

/* Rows of NF4 hold whole scales. */
static sy_status check_base(const sy_moe_config *m, const sy_config *config)
{
    const sy_model_config *model = sy_config_get(config, "model");
    const int32_t F = m->expert_hidden, H = model != NULL ? model->hidden : 0;
    if (m->adapter_base == SY_BASE_FULL) {
        return SY_OK;
    }
    if (!sy_moe_has_adapters(m)) {
        return sy_config_error(config, "moe.adapter_base",
                               "moe.adapter_base nf4 needs adapters, which train while it rests: "
                               "set moe.adapter_rank, or moe.adapter_kind to mov");
    }
    if (F % SY_NF4_MULTIPLE != 0 || H % SY_NF4_MULTIPLE != 0) {
        return sy_config_error(config, "moe.adapter_base",
                               "moe.adapter_base nf4 needs multiples of %d: model.hidden is %d, "
                               "moe.expert_hidden %d; use full",
                               SY_NF4_MULTIPLE, H, F);
    }
    return SY_OK;
}

sy_status sy_moe_adapters_settle(const sy_config *config)
{
    sy_status st = SY_OK;
    const sy_moe_config *m = sy_config_get(config, "moe");
    if (m->experts == 0) {
        goto cleanup;
    }
    SY_TRY(check_rank(m, config));
    SY_TRY(check_base(m, config));
    SY_TRY(check_activation(m, config));
    SY_TRY(check_attention(m, config));
    if (sy_moe_mixes(m) && strcmp(m->router, "soft") != 0) {
        SY_TRY(sy_config_error(config, "moe.router",
                               "moe.router %s with moe.adapter_kind mov or molora, which mix all "
                               "adapters of a token before the product: set moe.router to soft, or "
                               "moe.adapter_kind to lora",
                               m->router));
    }
    if (sy_moe_has_adapters(m) && m->expert_widths.n > 0) {
        SY_TRY(sy_config_error(config, "moe.expert_widths",
                               "moe.expert_widths with adapters (moe.adapter_kind, "
                               "moe.adapter_rank %d), which are of the width of the one MLP that "
                               "they share; leave it out",
                               m->adapter_rank));
    }
cleanup:
    return st;
}

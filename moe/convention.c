#include "moe/convention.h"

#include <string.h>

/* Letters: f_e share of the counted choices (sum 1), P_e mean probability, n_e choices, T tokens,
   L MoE layers, lse logsumexp of a token's logits. Read in the codes that are named: Megatron-LM
   moe_utils.py, DeepSpeed sharded_moe.py, Tutel losses.py, Transformers load_balancing_loss_func,
   MegaBlocks moe.py, OLMo-core loss.py, flaxformer routing.py, mesh-TF moe.py, Lingvo
   gshard_layers.py; DeepSeek-V3 (arXiv 2412.19437) 2.1.2; OLMoE's z-loss by its authors. */
static const sy_convention conventions[] = {
    {.name = "megatron",
     .title = "Megatron-LM",
     .balance = "sum over layers of E / (K T^2) sum_e n_e sum_t p_te",
     .z = "sum over layers of mean lse^2",
     .scope = SY_AUX_MICRO_BATCH},
    {.name = "deepspeed",
     .title = "DeepSpeed",
     .balance = "sum over layers of E sum_e f_e P_e, first choices for top-1 and top-2",
     .first_up_to = 2,
     .scope = SY_AUX_MICRO_BATCH},
    {.name = "tutel",
     .title = "Tutel (gshard loss)",
     .balance = "sum over layers of E sum_e f_e P_e of first choices",
     .first_up_to = INT32_MAX,
     .scope = SY_AUX_MICRO_BATCH},
    {.name = "hf",
     .title = "Transformers: Mixtral, Qwen-MoE, OLMoE",
     .balance = "E sum_k sum_e f_ke P_e over the tokens of all layers together",
     .k_times = true,
     .layer_mean = true,
     .pooled = true,
     .scope = SY_AUX_MICRO_BATCH},
    {.name = "megablocks",
     .title = "MegaBlocks",
     .balance = "mean over layers of E / (K T) sum_e n_e P_e",
     .z = "mean over layers of mean lse^2",
     .layer_mean = true,
     .scope = SY_AUX_MICRO_BATCH},
    {.name = "olmoe",
     .title = "OLMoE's training code",
     .balance = "mean over layers of E / (K T) sum_e n_e P_e",
     .z = "sum of lse^2 / (L T K)",
     .layer_mean = true,
     .z_per_choice = true,
     .scope = SY_AUX_MICRO_BATCH},
    {.name = "olmo_core",
     .title = "OLMo-core",
     .balance = "sum over layers of E / K sum_e n_e P_e / T",
     .z = "sum over layers of mean lse^2",
     .scope = SY_AUX_MICRO_BATCH},
    {.name = "flaxformer",
     .title = "flaxformer: ST-MoE, OpenMoE",
     .balance = "mean over layers of E^2 mean_e (K f_e) P_e",
     .z = "mean over layers of mean lse^2",
     .k_times = true,
     .layer_mean = true,
     .scope = SY_AUX_MICRO_BATCH},
    {.name = "mesh",
     .title = "mesh-TF: Switch",
     .balance = "sum over layers of E^2 mean_e f_e P_e of first choices",
     .z = "sum over layers of mean lse^2, times the balance loss's coefficient too",
     .first_up_to = INT32_MAX,
     .z_times_balance = true,
     .scope = SY_AUX_MICRO_BATCH},
    {.name = "lingvo",
     .title = "Lingvo: GShard",
     .balance = "sum over layers of E^2 mean_e f_e P_e of first choices",
     .first_up_to = INT32_MAX,
     .scope = SY_AUX_MICRO_BATCH},
    {.name = "deepseek",
     .title = "DeepSeekMoE, V2, V3",
     .balance = "sum over layers of the sequences' mean of sum_e (E / (K S)) n_e P_e",
     .scope = SY_AUX_SEQUENCE},
};
enum { N_CONVENTIONS = sizeof conventions / sizeof conventions[0] };

const sy_convention *sy_conventions(int32_t *n)
{
    *n = N_CONVENTIONS;
    return conventions;
}

const sy_convention *sy_convention_find(const char *name)
{
    for (int32_t i = 0; i < N_CONVENTIONS; i++) {
        if (strcmp(conventions[i].name, name) == 0) {
            return &conventions[i];
        }
    }
    return NULL;
}

double sy_convention_balance_factor(const sy_convention *c, int32_t L, int32_t K)
{
    return (c->k_times ? K : 1.0) / (c->layer_mean ? L : 1);
}

double sy_convention_z_factor(const sy_convention *c, int32_t L, int32_t K, double balance)
{
    if (c->z == NULL) {
        return 0;
    }
    return (c->z_times_balance ? balance : 1) / (c->layer_mean ? L : 1) / (c->z_per_choice ? K : 1);
}

sy_aux_counts sy_convention_counts(const sy_convention *c, int32_t K)
{
    return K > 1 && K <= c->first_up_to ? SY_AUX_COUNT_FIRST : SY_AUX_COUNT_ALL;
}

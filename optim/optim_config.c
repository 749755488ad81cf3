#include "optim/optim_config.h"

#include "optim/schedule.h"

#include <stdio.h>
#include <stdlib.h>

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    {                                                                                              \
#field, kind, offsetof(sy_optim_config, field), def, lo, hi, choices, text                 \
    }

static const char *const name_choices[] = {"adamw", "adafactor", NULL};
static const char *const schedule_choices[] = {"cosine",   "wsd",    "linear", "inverse_sqrt",
                                               "constant", "phases", NULL};

static const sy_config_key keys[] = {
    KEY(name, SY_CFG_ENUM, "adamw", 0, 0, name_choices,
        "Optimizer: AdamW, or Adafactor (T5, ST-MoE, OpenMoE), whose second moments are sums over "
        "rows and columns."),
    KEY(lr, SY_CFG_F64, "3.0e-4", 0, 1e3, NULL, "Peak learning rate."),
    KEY(min_lr, SY_CFG_OPT_F64, "null", 0, 1e3, NULL,
        "Learning rate at the end of decay. null: 0.1 * lr."),
    KEY(betas, SY_CFG_F64_PAIR, "[0.9, 0.95]", 0, 1, NULL, "Decay of the first and second moment."),
    KEY(eps, SY_CFG_F64, "1.0e-8", 0, 1, NULL, "Added to the root of the second moment."),
    KEY(weight_decay, SY_CFG_F64, "0.1", 0, 1e3, NULL,
        "Decoupled decay, on matrices only (no norms, no biases)."),
    KEY(clip_norm, SY_CFG_F64, "1.0", 0, 1e9, NULL,
        "Largest global gradient norm, over dense and expert parameters together. 0: no clipping."),
    KEY(schedule, SY_CFG_ENUM, "cosine", 0, 0, schedule_choices,
        "Course of the learning rate after warm-up."),
    KEY(warmup_steps, SY_CFG_I64, "0", 0, 1e15, NULL,
        "Linear warm-up: the rate of step s is lr * s / warmup_steps."),
    KEY(decay_steps, SY_CFG_I64, "0", 0, 1e15, NULL,
        "Step at which the rate reaches min_lr. 0: train.steps. wsd decays over its last fifth."),
    KEY(phases, SY_CFG_STR_LIST, "null", 0, 0, NULL,
        "schedule phases: a list of \"UNTIL SHAPE FACTOR\": until this fraction of decay_steps "
        "the rate is FACTOR * lr (SHAPE constant), or goes there (linear, cosine)."),
    KEY(hold_steps, SY_CFG_I64, "0", 0, 1e15, NULL,
        "inverse_sqrt: the rate stays at lr until this step, then falls as lr * sqrt(hold_steps / "
        "step) (T5: lr 0.01, 10000). 0: warmup_steps."),
    {0},
};

static sy_status check_phases(const sy_optim_config *o, const sy_config *config)
{
    if ((o->schedule == SY_SCHEDULE_PHASES) != (o->phases.n > 0)) {
        return sy_config_error(config, "optim.phases",
                               "optim.phases and optim.schedule phases go together: set both, or "
                               "neither");
    }
    return sy_phases_check(&o->phases, "optim.phases", config);
}

static sy_status check(const void *section, const sy_config *config)
{
    const sy_optim_config *o = section;
    for (int32_t i = 0; i < 2; i++) {
        if (o->betas[i] >= 1) {
            return sy_config_error(config, "optim.betas",
                                   "optim.betas: %g never forgets; it must be below 1",
                                   o->betas[i]);
        }
    }
    if (o->hold_steps > 0 && o->schedule != SY_SCHEDULE_INVERSE_SQRT) {
        return sy_config_error(config, "optim.hold_steps",
                               "optim.hold_steps is of optim.schedule inverse_sqrt, not %s",
                               schedule_choices[o->schedule]);
    }
    if (o->hold_steps > 0 && o->hold_steps < o->warmup_steps) {
        return sy_config_error(config, "optim.hold_steps",
                               "optim.hold_steps %lld is less than optim.warmup_steps %lld: the "
                               "rate rises until there",
                               (long long)o->hold_steps, (long long)o->warmup_steps);
    }
    if (o->min_lr.set && o->min_lr.value > o->lr) {
        return sy_config_error(config, "optim.min_lr", "optim.min_lr %g is larger than optim.lr %g",
                               o->min_lr.value, o->lr);
    }
    return check_phases(o, config);
}

const sy_config_section sy_optim_section = {
    .name = "optim",
    .help = "Optimizer and learning rate.",
    .keys = keys,
    .struct_bytes = sizeof(sy_optim_config),
    .check = check,
};

#define OWN(field, kind, def, lo, hi, text)                                                        \
    {                                                                                              \
#field, kind, offsetof(sy_adafactor_config, field), def, lo, hi, NULL, text                \
    }

static const sy_config_key adafactor_keys[] = {
    OWN(decay_rate, SY_CFG_F64, "0.8", 0, 1,
        "The second moments' decay in step t is 1 - t^-decay_rate."),
    OWN(clip_threshold, SY_CFG_F64, "1.0", 0, 1e9,
        "Largest RMS of a matrix's update before it is scaled (d). 0: not clipped."),
    OWN(eps1, SY_CFG_F64, "1.0e-30", 1e-37, 1, "Added to squared gradients."),
    OWN(eps2, SY_CFG_F64, "1.0e-3", 0, 1e3, "Least RMS of a matrix in scale_parameter."),
    OWN(momentum, SY_CFG_F64, "0.0", 0, 0.999999,
        "Decay of a first moment of the update. 0: there is none, and no memory for it."),
    OWN(scale_parameter, SY_CFG_BOOL, "true", 0, 0, "Multiply optim.lr by the RMS of each matrix."),
    OWN(min_factored, SY_CFG_I32, "128", 1, 1 << 24,
        "A matrix with a side shorter than this keeps a whole second moment (T5: 128)."),
    {0},
};

const sy_config_section sy_adafactor_section = {
    .name = "optim.adafactor",
    .help = "Adafactor (Shazeer & Stern 2018).",
    .keys = adafactor_keys,
    .struct_bytes = sizeof(sy_adafactor_config),
};

static bool is_default(const sy_config *config, const sy_config_key *k)
{
    const char *field = (const char *)sy_config_get(config, "optim.adafactor") + k->offset;
    switch (k->type) {
    case SY_CFG_BOOL:
        return *(const bool *)field;
    case SY_CFG_I32:
        return *(const int32_t *)(const void *)field == strtol(k->default_text, NULL, 10);
    default:
        return *(const double *)(const void *)field == strtod(k->default_text, NULL);
    }
}

/* Which keys say something to the other optimizer alone; a value that is the default is nobody's
   wish (checkpoints hold all keys). */
static sy_status check_others(const sy_optim_config *o, const sy_config *config)
{
    const bool betas = o->betas[0] != 0.9 || o->betas[1] != 0.95;
    if (o->name == SY_OPTIM_ADAFACTOR && (betas || o->eps != 1e-8)) {
        return sy_config_error(config, betas ? "optim.betas" : "optim.eps",
                               "optim.%s is AdamW's, and optim.name is adafactor: see "
                               "optim.adafactor.%s",
                               betas ? "betas" : "eps", betas ? "momentum, decay_rate" : "eps1");
    }
    return SY_OK;
}

sy_status sy_optim_config_resolve(sy_config *config)
{
    sy_status st = SY_OK;
    sy_optim_config *o = sy_config_edit(config, "optim");
    char key[64];
    SY_TRY(check_others(o, config));
    if (o->name == SY_OPTIM_ADAFACTOR) {
        o->adafactor = sy_config_get(config, "optim.adafactor");
        goto cleanup;
    }
    for (const sy_config_key *k = adafactor_keys; k->name != NULL; k++) {
        snprintf(key, sizeof key, "optim.adafactor.%s", k->name);
        if (sy_config_was_set(config, key) && !is_default(config, k)) {
            SY_TRY(sy_config_error(config, key,
                                   "%s belongs to the optimizer 'adafactor', and optim.name is "
                                   "adamw; set optim.name, or leave the key out",
                                   key));
        }
    }
cleanup:
    return st;
}

bool sy_adafactor_factors(const sy_adafactor_config *config, int32_t n_dim, int64_t rows,
                          int64_t columns)
{
    return n_dim >= 2 && (rows < columns ? rows : columns) >= config->min_factored;
}

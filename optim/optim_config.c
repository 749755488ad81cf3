#include "optim/optim_config.h"

#include "optim/schedule.h"

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    {                                                                                              \
#field, kind, offsetof(sy_optim_config, field), def, lo, hi, choices, text                 \
    }

static const char *const name_choices[] = {"adamw", NULL};
static const char *const schedule_choices[] = {"cosine",   "wsd",    "linear", "inverse_sqrt",
                                               "constant", "phases", NULL};

static const sy_config_key keys[] = {
    KEY(name, SY_CFG_ENUM, "adamw", 0, 0, name_choices, "Optimizer."),
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
    {0},
};

static sy_status check_phases(const sy_optim_config *o, const sy_config *config)
{
    double before = 0;
    if ((o->schedule == SY_SCHEDULE_PHASES) != (o->phases.n > 0)) {
        return sy_config_error(config, "optim.phases",
                               "optim.phases and optim.schedule phases go together: set both, or "
                               "neither");
    }
    for (int32_t i = 0; i < o->phases.n; i++) {
        sy_phase phase;
        if (!sy_phase_parse(o->phases.item[i], &phase) || phase.until <= before) {
            return sy_config_error(config, "optim.phases",
                                   "optim.phases '%s' is not \"UNTIL SHAPE FACTOR\", UNTIL from "
                                   "above %g to 1, SHAPE constant, linear or cosine (\"0.8 "
                                   "constant 1\")",
                                   o->phases.item[i], before);
        }
        before = phase.until;
    }
    return SY_OK;
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

/* Config section `optim`. */
#ifndef SY_OPTIM_OPTIM_CONFIG_H
#define SY_OPTIM_OPTIM_CONFIG_H

#include "core/config.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_schedule {
    SY_SCHEDULE_COSINE,
    SY_SCHEDULE_WSD,
    SY_SCHEDULE_LINEAR,
    SY_SCHEDULE_INVERSE_SQRT,
    SY_SCHEDULE_CONSTANT,
    SY_SCHEDULE_PHASES
} sy_schedule;

typedef enum sy_optim_name { SY_OPTIM_ADAMW, SY_OPTIM_ADAFACTOR } sy_optim_name;

/* Section `optim.adafactor`. */
typedef struct sy_adafactor_config {
    double decay_rate, clip_threshold, eps1, eps2, momentum;
    bool scale_parameter;
    int32_t min_factored;
} sy_adafactor_config;

typedef struct sy_optim_config {
    int32_t name; /* sy_optim_name */
    double lr, betas[2], eps, weight_decay, clip_norm;
    sy_opt_f64 min_lr;                    /* null: 0.1 lr */
    int32_t schedule;                     /* sy_schedule */
    int64_t warmup_steps, decay_steps;    /* decay_steps 0: train.steps */
    int64_t hold_steps;                   /* of inverse_sqrt; 0: warmup_steps */
    const sy_adafactor_config *adafactor; /* set by resolving; NULL: another optimizer */
    sy_str_list phases;                   /* see optim/schedule.h */
} sy_optim_config;

extern const sy_config_section sy_optim_section, sy_adafactor_section;

/* Refuse keys of the optimizer that is not the chosen one. After parsing. Not collective. */
sy_status sy_optim_config_resolve(sy_config *config);
/* Is a parameter's piece [rows, columns] of so many dimensions kept as sums of rows and columns?
 * Not collective. */
bool sy_adafactor_factors(const sy_adafactor_config *config, int32_t n_dim, int64_t rows,
                          int64_t columns);

#ifdef __cplusplus
}
#endif
#endif

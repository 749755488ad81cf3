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

typedef struct sy_optim_config {
    int32_t name; /* 0: adamw */
    double lr, betas[2], eps, weight_decay, clip_norm;
    sy_opt_f64 min_lr;                 /* null: 0.1 lr */
    int32_t schedule;                  /* sy_schedule */
    int64_t warmup_steps, decay_steps; /* decay_steps 0: train.steps */
    sy_str_list phases;                /* see optim/schedule.h */
} sy_optim_config;

extern const sy_config_section sy_optim_section;

#ifdef __cplusplus
}
#endif
#endif

/* Learning-rate schedules: functions of the step alone. */
#ifndef SY_OPTIM_SCHEDULE_H
#define SY_OPTIM_SCHEDULE_H

#include "optim/optim_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rate of step s = 1, 2, ...; decay_steps as resolved (> 0). Warm-up: lr s / warmup. Then, with x =
   (s - warmup) / (decay_steps - warmup) in 0..1: cosine        min + (lr - min) (1 + cos(pi x)) / 2
     linear        lr + (min - lr) x
     wsd           lr, then linear to min over the last fifth of 0 .. decay_steps (Hu et al. 2024,
   MiniCPM) inverse_sqrt  max(min, lr sqrt(max(warmup, 1) / s)) constant      lr Beyond decay_steps:
   min (constant: lr; inverse_sqrt goes on). Not collective. */
double sy_schedule_lr(const sy_optim_config *config, int64_t decay_steps, int64_t step);

#ifdef __cplusplus
}
#endif
#endif

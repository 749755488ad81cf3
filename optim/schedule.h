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
   MiniCPM) inverse_sqrt  max(min, lr sqrt(h / max(s, h))), h = hold_steps, or warmup, at least 1
   (Shazeer & Stern 2018; T5) constant      lr Beyond decay_steps:
   min (constant: lr; inverse_sqrt goes on). phases: a list of "UNTIL SHAPE FACTOR", in order: until
   the fraction UNTIL of decay_steps the rate is lr FACTOR (constant), or goes there from where the
   phase before it ended (linear, cosine); the last FACTOR stays. Not collective. */
double sy_schedule_lr(const sy_optim_config *config, int64_t decay_steps, int64_t step);

/* One entry of optim.phases. false: it is none. Not collective. */
typedef struct sy_phase {
    double until, factor;
    enum { SY_PHASE_CONSTANT, SY_PHASE_LINEAR, SY_PHASE_COSINE } shape;
} sy_phase;
bool sy_phase_parse(const char *text, sy_phase *out);
/* A whole list under a key: parsed, UNTIL growing. SY_ERR_USAGE. And its factor at x, a step over
   decay_steps: 1 where the list is empty. Not collective. */
sy_status sy_phases_check(const sy_str_list *phases, const char *key, const sy_config *config);
double sy_phases_factor(const sy_str_list *phases, double x);

#ifdef __cplusplus
}
#endif
#endif

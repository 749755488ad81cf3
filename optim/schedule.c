#include "optim/schedule.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static double progress(double step, double from, double to)
{
    double x = to > from ? (step - from) / (to - from) : 1;
    return x < 0 ? 0 : x > 1 ? 1 : x;
}

bool sy_phase_parse(const char *text, sy_phase *out)
{
    static const char *const shapes[] = {"constant", "linear", "cosine"};
    char shape[16], beyond;
    if (sscanf(text, "%lf %15s %lf %c", &out->until, shape, &out->factor, &beyond) != 3) {
        return false;
    }
    for (int i = 0; i < 3; i++) {
        if (strcmp(shape, shapes[i]) == 0) {
            out->shape = i;
            return out->until > 0 && out->until <= 1 && out->factor >= 0 && out->factor <= 1e6;
        }
    }
    return false;
}

sy_status sy_phases_check(const sy_str_list *phases, const char *key, const sy_config *config)
{
    double before = 0;
    for (int32_t i = 0; i < phases->n; i++) {
        sy_phase phase;
        if (!sy_phase_parse(phases->item[i], &phase) || phase.until <= before) {
            return sy_config_error(config, key,
                                   "%s '%s' is not \"UNTIL SHAPE FACTOR\", UNTIL from above %g to "
                                   "1, SHAPE constant, linear or cosine (\"0.8 constant 1\")",
                                   key, phases->item[i], before);
        }
        before = phase.until;
    }
    return SY_OK;
}

double sy_phases_factor(const sy_str_list *phases, double x)
{
    const double pi = 3.14159265358979323846;
    double from = 0, factor = 1;
    for (int32_t i = 0; i < phases->n; i++) {
        sy_phase phase;
        if (!sy_phase_parse(phases->item[i], &phase)) {
            return factor; /* the check refuses it */
        }
        if (x <= phase.until && phase.shape != SY_PHASE_CONSTANT) {
            const double gone = progress(x, from, phase.until);
            const double bent = phase.shape == SY_PHASE_COSINE ? 0.5 * (1 - cos(pi * gone)) : gone;
            return factor + (phase.factor - factor) * bent;
        }
        factor = phase.factor;
        if (x <= phase.until) {
            return factor;
        }
        from = phase.until;
    }
    return factor;
}

double sy_schedule_lr(const sy_optim_config *config, int64_t decay_steps, int64_t step)
{
    const double pi = 3.14159265358979323846;
    double s = (double)step, warmup = (double)config->warmup_steps, end = (double)decay_steps;
    double hold = fmax(1, config->hold_steps > 0 ? (double)config->hold_steps : warmup);
    double lr = config->lr, min = config->min_lr.set ? config->min_lr.value : 0.1 * lr;

    if (step <= config->warmup_steps) {
        return lr * s / warmup;
    }
    switch ((sy_schedule)config->schedule) {
    case SY_SCHEDULE_COSINE:
        return min + (lr - min) * 0.5 * (1 + cos(pi * progress(s, warmup, end)));
    case SY_SCHEDULE_LINEAR:
        return lr + (min - lr) * progress(s, warmup, end);
    case SY_SCHEDULE_WSD:
        return lr + (min - lr) * progress(s, fmax(warmup, 0.8 * end), end);
    case SY_SCHEDULE_INVERSE_SQRT:
        return fmax(min, lr * sqrt(hold / fmax(s, hold)));
    case SY_SCHEDULE_PHASES:
        return lr * sy_phases_factor(&config->phases, s / end);
    case SY_SCHEDULE_CONSTANT:
        break;
    }
    return lr;
}

#include "optim/schedule.h"

#include <math.h>

static double progress(double step, double from, double to)
{
    double x = to > from ? (step - from) / (to - from) : 1;
    return x < 0 ? 0 : x > 1 ? 1 : x;
}

double sy_schedule_lr(const sy_optim_config *config, int64_t decay_steps, int64_t step)
{
    const double pi = 3.14159265358979323846;
    double s = (double)step, warmup = (double)config->warmup_steps, end = (double)decay_steps;
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
        return fmax(min, lr * sqrt(fmax(warmup, 1) / s));
    case SY_SCHEDULE_CONSTANT:
        break;
    }
    return lr;
}

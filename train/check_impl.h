/* What the checks share. */
#ifndef SY_TRAIN_CHECK_IMPL_H
#define SY_TRAIN_CHECK_IMPL_H

#include <math.h>
#include <stdbool.h>

/* A NaN is worse than any number, and stays. */
static inline bool sy__is_worse(double now, double worst)
{
    return !isnan(worst) && !(now <= worst);
}

#endif

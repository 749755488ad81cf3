/* Parts of a step's record. */
#ifndef SY_TRAIN_STEP_METRICS_IMPL_H
#define SY_TRAIN_STEP_METRICS_IMPL_H

#include "train/step_metrics.h"

/* Time by phase, memory by purpose, and what the output itself costs. Not collective. */
sy_status sy__step_perf_fill(sy_step_metrics *metrics, const sy_step_result *r);

#endif

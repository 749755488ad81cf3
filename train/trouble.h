/* What a run does about a step of trouble, beside skipping it: say so, count, stop in the end. */
#ifndef SY_TRAIN_TROUBLE_H
#define SY_TRAIN_TROUBLE_H

#include "train/trainer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A warning that names the step, what stands out, the data and the parameter that went first.
   Between sy_trainer_gradients and sy_trainer_update. Collective over the engine's world. */
sy_status sy_trouble_report(const sy_trainer *trainer, const sy_step_result *r);
/* After the update: SY_ERR_NUMERIC where train.nonfinite is stop, or train.skip_limit is reached,
   with the facts in the log. The same on every rank. Not collective. */
sy_status sy_trouble_limit(const sy_trainer *trainer, const sy_step_result *r);
/* Leave out the next n sequences of the data. Not collective. */
void sy_train_skip_data(sy_trainer *trainer, int64_t n);

#ifdef __cplusplus
}
#endif
#endif

/* How many sequences a step has. With train.batch_ramp_from the batch grows in equal increments
   while the run sees its first train.batch_ramp_tokens, as long at each size in sequences. It is a
   function of the step alone, as the learning rate is: neither a resume nor data that are left out
   move it. */
#ifndef SY_TRAIN_BATCH_RAMP_H
#define SY_TRAIN_BATCH_RAMP_H

#include "train/train_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Refuse a ramp that cannot be, with the nearest that can. Not collective. SY_ERR_USAGE. */
sy_status sy_batch_ramp_check(const sy_run_settings *settings);

/* Sequences of step s = 1, 2, ...: with n = (global_batch - from) / by increments over R sequences,
   and x sequences in the steps before s, from + by floor(x n / R), global_batch from x = R on
   (Megatron-LM's --rampup-batch-size). Not collective. */
int32_t sy_batch_ramp_size(const sy_run_settings *settings, int64_t step);
/* Sequences of steps 1 .. steps together, INT64_MAX where there are more. Not collective. */
int64_t sy_batch_ramp_sequences(const sy_run_settings *settings, int64_t steps);
/* Steps before the first one of global_batch; 0: there is no ramp. Not collective. */
int64_t sy_batch_ramp_steps(const sy_run_settings *settings);
/* "4" or "2 to 8": sequences of the first so many steps. Not collective. Returns buf. */
const char *sy_batch_ramp_format(const sy_run_settings *settings, int64_t steps, char *buf,
                                 size_t buf_bytes);

#ifdef __cplusplus
}
#endif
#endif

/* Is a checkpoint all that its own configuration says a model, or a training run, consists of?
   Checksums tell that nothing was changed; this tells that nothing was left out. */
#ifndef SY_TRAIN_COMPLETE_H
#define SY_TRAIN_COMPLETE_H

#include "checkpoint/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Every (layer, expert, tensor) of the configuration, and in a training checkpoint every moment,
   master and counter, in an ensemble every member and the prior, is there once, in its shape, as a
   float (a counter: i64), and nothing else is below /model, /members, /optim and /state.
   SY_ERR_DAMAGED names the first dataset that is missing, wrong or one too many. Not collective:
   reads the list of datasets alone. */
sy_status sy_checkpoint_complete(const char *path, const sy_checkpoint_info *info);

#ifdef __cplusplus
}
#endif
#endif

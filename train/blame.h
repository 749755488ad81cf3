/* Which part of the model went wrong first in a step that is to be skipped: asked while its
   gradients still stand, at the price of reading them all on the host. */
#ifndef SY_TRAIN_BLAME_H
#define SY_TRAIN_BLAME_H

#include "train/trainer.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SY_BLAME_BYTES = 256 };

/* Between sy_trainer_gradients and sy_trainer_update. Of what is not finite: the lowest layer whose
   statistics were so already in forward, with the lowest rank that saw it; else the parameter whose
   gradient backward reached first, with piece, expert and element, and the rank that holds it. Of a
   spike: the parameter with the largest part of the gradient. text [SY_BLAME_BYTES], on every rank.
   Collective over the engine's world; errors are agreed upon. */
sy_status sy_blame(const sy_trainer *trainer, const sy_step_result *r, char *text);

#ifdef __cplusplus
}
#endif
#endif

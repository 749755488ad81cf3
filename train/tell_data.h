/* What a run that begins anew tells its model of the training data. */
#ifndef SY_TRAIN_TELL_DATA_H
#define SY_TRAIN_TELL_DATA_H

#include "train/trainer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where the router wants it: count the ids of the training data (sy_loader_token_shares) on rank 0,
   and let the layers of all ranks make their state of it. Before the first step; the state is the
   model's, so a run that goes on has it from its checkpoint. Collective over the trainer's ranks.
   Errors: those of reading. */
sy_status sy_train_tell_data(sy_trainer *trainer);

#ifdef __cplusplus
}
#endif
#endif

/* Does the model fit the memory of the device? Asked before anything of it is allocated. */
#ifndef SY_TRAIN_ROOM_H
#define SY_TRAIN_ROOM_H

#include "train/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

/* twin: the dry engine of the same spec, after its passes. SY_ERR_USAGE with what takes how much
   where dev has memory of its own and less is free than training (or the pass) needs. Not
   collective. */
sy_status sy_room_check(sy_device *dev, sy_engine *twin);

#ifdef __cplusplus
}
#endif
#endif

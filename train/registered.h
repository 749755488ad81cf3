/* Memory that collectives move again and again in every step, made known to their network
   (parallel.register_buffers, sy_comm_register): gradients and values over the replicas, and what
   rows of tokens travel in over ep. */
#ifndef SY_TRAIN_REGISTERED_H
#define SY_TRAIN_REGISTERED_H

#include "train/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All of an engine that is complete, where the configuration asks for it. *bytes: what was taken.
   Collective over the engine's world, also where a rank fails. */
sy_status sy_registered_begin(sy_engine *engine, int64_t *bytes);
/* Nothing of it any more, before any of it is freed; whatever was begun. Not collective. */
void sy_registered_end(sy_engine *engine);

#ifdef __cplusplus
}
#endif
#endif

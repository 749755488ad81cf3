/* What several ranks hold alike must be alike, bit for bit: compared now and then by digests, so
   that a bit that flipped in one rank's memory does not train on in silence. Compared are weights,
   and without ZeRO masters, moments and reduced gradients, each over the replicas that the mesh
   gives: dense parameters over all ranks, an expert's over edp. */
#ifndef SY_TRAIN_REPLICAS_H
#define SY_TRAIN_REPLICAS_H

#include "train/trainer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_replicas sy_replicas;

/* trainer is borrowed. Not collective. */
sy_status sy_replicas_create(const sy_trainer *trainer, sy_replicas **out);
void sy_replicas_destroy(sy_replicas **replicas);
/* Between sy_trainer_gradients and sy_trainer_update, or outside a step; gradients: take them in.
   SY_ERR_NUMERIC, on every rank, names the first tensor that differs and the rank that is not like
   the others (of two: both), and whether a second reading gives the same. Reads everything on the
   host and sends 16 bytes, and as many for each rank of ep. Nothing is allocated where all is
   alike. Collective over the engine's world. */
sy_status sy_replicas_check(sy_replicas *replicas, int64_t step, bool gradients);

#ifdef __cplusplus
}
#endif
#endif

/* ZeRO's updated values: each rank of the replicas has updated its part of every bucket, and the
   parts are gathered beside the next forward pass, in the order in which it wants them. Whoever
   reads or writes values between an update and the end of that pass asks for them first. */
#ifndef SY_PARALLEL_VALUE_SYNC_H
#define SY_PARALLEL_VALUE_SYNC_H

#include "parallel/param.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_value_sync sy_value_sync;

/* For bound parameters; streams are borrowed. Not collective. */
sy_status sy_value_sync_create(sy_params *params, sy_stream *compute, sy_stream *comm,
                               sy_value_sync **out);
/* Waits for what is under way. Not collective. */
void sy_value_sync_destroy(sy_value_sync **vs);
/* What the compute stream has written into params->range goes to all replicas, on the comm stream
   (zero 0: nothing). Those of the update before must have been waited for. Collective over the
   replicas' groups. */
sy_status sy_value_sync_begin(sy_value_sync *vs);
/* The compute stream waits for the values of all parameters declared at or before `param`, as
   forward goes in the order of declaration. vs NULL: nobody updates them. Not collective. */
sy_status sy_value_sync_need(sy_value_sync *vs, const sy_param *param);
/* It waits for all that is under way. vs NULL: nothing is. Not collective. */
sy_status sy_value_sync_finish(sy_value_sync *vs);

/* What the compute stream has stood still for values since the last call, by its clock. Not
   collective. */
double sy_value_sync_take_s(sy_value_sync *vs);

#ifdef __cplusplus
}
#endif
#endif

/* Gradient reduction in buckets, beside backward: as soon as every gradient of a bucket is complete
   its reduction is enqueued on the comm stream. zero 0: all-reduce; zero 1: reduce-scatter to the
   owner of each part, both in the step's last micro-batch; zero 2: the layers' in every micro-batch,
   and the owner adds them up. Gradients are only ever summed; nothing is scaled by ep. */
#ifndef SY_PARALLEL_GRAD_SYNC_H
#define SY_PARALLEL_GRAD_SYNC_H

#include "parallel/param.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_grad_sync sy_grad_sync;

/* For bound parameters; streams are borrowed. Not collective. */
sy_status sy_grad_sync_create(sy_params *params, sy_stream *compute, sy_stream *comm,
                              sy_grad_sync **out);
void sy_grad_sync_destroy(sy_grad_sync **gs);
/* Start of a micro-batch's backward; last: of the step's last one, where everything is reduced that
   was not before. Each is followed by finish. Not collective. */
sy_status sy_grad_sync_begin(sy_grad_sync *gs, bool last);
/* All gradients of parameters declared at or after `param` are complete on the compute stream
   (backward runs against the order of declaration). Collective over the replicas' groups of the
   buckets that become complete: the same calls in the same order on every rank. */
sy_status sy_grad_sync_reached(sy_grad_sync *gs, const sy_param *param);
/* Reduce what is left of this micro-batch; after the last one the compute stream may read the
   reduced gradients in params->range. Collective. zero 1 and 2: every gradient that another rank
   updates is zero here, ready for the next step. */
sy_status sy_grad_sync_finish(sy_grad_sync *gs);
/* Set out [1] F64 to the sum over this rank's ranges of grad^2, on the compute stream, such that
   the sum over the WORLD of all ranks' values is the squared norm of the whole gradient (a range
   that k ranks hold counts on one of them only). After finish. Not collective. */
sy_status sy_grad_sync_norm(sy_grad_sync *gs, sy_tensor *out);

/* Host time inside reductions (reached, finish) since the last call: that of the reductions where
   streams run at once. Not collective. */
double sy_grad_sync_take_s(sy_grad_sync *gs);

#ifdef __cplusplus
}
#endif
#endif

/* AdamW or Adafactor over the ranges of the parameter table: masters and moments of what this rank
 * updates (everything, or its ZeRO-1 share). */
#ifndef SY_OPTIM_OPTIMIZER_H
#define SY_OPTIM_OPTIMIZER_H

#include "backend/ops.h"
#include "optim/optim_config.h"
#include "parallel/param.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_optimizer {
    const sy_optim_config *config; /* borrowed */
    sy_params *params;             /* borrowed */
    void *master, *m, *v; /* [shard_n] wide; master NULL where values are wide themselves, v with
                             Adafactor, m with it where there is no momentum */
    struct sy_factored_moments *factored; /* NULL: AdamW */
    sy_tensor ctl;                        /* [SY_CTL_N] F64 */
    double h_ctl[SY_CTL_N];
    int64_t t; /* updates done, skipped ones not counted: Adam's bias correction */
} sy_optimizer;

typedef struct sy_update {
    double lr, grad_scale;
    bool skip; /* leave values and moments as they are; gradients are zeroed all the same */
} sy_update;

/* After the parameters are bound. Not collective. */
sy_status sy_optimizer_create(const sy_optim_config *config, sy_params *params, sy_optimizer **out);
void sy_optimizer_destroy(sy_optimizer **opt);
/* Masters = values (after initialisation, or a load of weights without masters). Enqueued. Not
 * collective. */
sy_status sy_optimizer_sync_masters(sy_optimizer *opt, sy_stream *stream);
/* Forget the past: moments zero, no update done. Masters stay. Enqueued. Not collective. */
sy_status sy_optimizer_reset(sy_optimizer *opt, sy_stream *stream);
/* One update of this rank's ranges; their gradients are zero afterwards, as sy_grad_sync_finish
 * left the others. The values of the ranges change; with ZeRO they want sy_value_sync_begin next.
 * Enqueued; the stream passes before the next call. Collective over the groups of replicas with
 * Adafactor and ZeRO-1, else not. */
sy_status sy_optimizer_step(sy_optimizer *opt, const sy_update *update, sy_stream *stream);
/* State owner: optim/master (bf16 models), optim/exp_avg, optim/exp_avg_sq, state/optim_t; with
 * Adafactor optim/exp_avg_sq_row and _col too (docs/FORMATS.md). Not collective. */
sy_status sy_optimizer_walk(void *self, sy_emit *emit, void *to);
/* Factor on gradients: clip_norm / norm where that is below 1. clip_norm 0: 1. Not collective. */
double sy_clip_scale(double norm, double clip_norm);

#ifdef __cplusplus
}
#endif
#endif

/* Adafactor's second moments: sums over rows and columns of every matrix, the same on all ranks
   that hold it, whatever part of it a rank updates. Shazeer & Stern 2018 (arXiv 1804.04235). */
#ifndef SY_OPTIM_ADAFACTOR_IMPL_H
#define SY_OPTIM_ADAFACTOR_IMPL_H

#include "optim/optimizer.h"

typedef struct sy_factored_moments sy__adafactor;

/* What an update needs of the optimizer beside the moments. */
typedef struct sy__adafactor_step {
    const sy_adafactor_config *config;
    void *master, *m; /* [shard_n] wide; master NULL: the values are; m NULL: no momentum */
    sy_tensor ctl;
    double weight_decay;
    sy_stream *stream;
} sy__adafactor_step;

/* After the parameters are bound. Not collective. */
sy_status sy__adafactor_create(const sy_adafactor_config *config, sy_params *params,
                               sy__adafactor **out);
void sy__adafactor_destroy(sy__adafactor **a);
/* Enqueued. Not collective. */
sy_status sy__adafactor_reset(sy__adafactor *a, sy_stream *stream);
/* Enqueued. With ZeRO-1 collective over the groups of replicas: sums over parts of matrices meet.
 */
sy_status sy__adafactor_step_all(sy__adafactor *a, const sy__adafactor_step *step);
/* Emit optim/exp_avg_sq_row and optim/exp_avg_sq_col of factored matrices (without the last,
   without the last but one dimension), optim/exp_avg_sq of the others. Not collective. */
sy_status sy__adafactor_walk(sy__adafactor *a, sy_emit *emit, void *to);

#endif

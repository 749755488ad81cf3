/* SY_SAMPLE_LOG=PREFIX: every rank says in PREFIX.<rank> what its model is given, a line for each
   sequence, to prove in what order a run reads its data. For tests and doubts; it is as large as
   the data. */
#ifndef SY_TRAIN_SAMPLE_LOG_H
#define SY_TRAIN_SAMPLE_LOG_H

#include <stdio.h>

#include "core/batch.h"
#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* *out stays NULL where the variable is not set. Lines go to the end of the file. Not collective.
   Errors: SY_ERR_USAGE. */
sy_status sy_sample_log_open(int32_t rank, FILE **out);
/* "step sequence id ...", sequence being its place in the order, of the batch that the model is
   about to see; data_step: the place at which the step begins. On disk when this returns. NULL is
   fine. Not collective. Errors: SY_ERR_IO. */
sy_status sy_sample_log_add(FILE *log, int64_t step, int64_t data_step, const sy_batch *batch);
/* NULL is fine. Not collective. */
void sy_sample_log_close(FILE **log);

#ifdef __cplusplus
}
#endif
#endif

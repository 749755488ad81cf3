/* TensorBoard event files: the metrics of a run once more, for TensorBoard to show. Written by
   ourselves: a record is a length, a checksum and a small protocol buffer (tensorflow/core/util/
   event.proto, summary.proto). */
#ifndef SY_REPORT_TENSORBOARD_H
#define SY_REPORT_TENSORBOARD_H

#include "report/metrics.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_tensorboard sy_tensorboard;

/* Events go to a new file in a folder; both are made with the first of them. keep_step: what
   earlier files hold of later steps is void (a resumed run); -1: the folder's event files are
   deleted. Not collective. Rank 0 only, as owner of the run directory. SY_ERR_IO. */
sy_status sy_tensorboard_open(const char *folder, int64_t keep_step, sy_tensorboard **out);
/* Numbers become scalars, loads of experts (arrays) histograms over the experts' numbers. In one
   write. A write that fails is SY_ERR_IO, and so is every one after it. Not collective. */
sy_status sy_tensorboard_append(sy_tensorboard *board, int64_t step, const sy_metrics *metrics);
/* NULL is fine. Not collective. */
void sy_tensorboard_close(sy_tensorboard **board);

#ifdef __cplusplus
}
#endif
#endif

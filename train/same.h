/* Do all ranks of a run see the same data and the same run directory? Each host may have its own
   file systems. */
#ifndef SY_TRAIN_SAME_H
#define SY_TRAIN_SAME_H

#include "parallel/comm.h"
#include "report/run_dir.h"
#include "train/run.h"

#ifdef __cplusplus
extern "C" {
#endif

/* SY_ERR_USAGE naming the ranks whose files under a path of data.train or data.valid are others
   (names, lengths, some blocks), or that do not see the run directory that rank 0 has claimed.
   Collective over world. */
sy_status sy_run_same(const sy_run_settings *settings, const sy_run_dir *dir, sy_comm *world);

#ifdef __cplusplus
}
#endif
#endif

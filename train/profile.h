/* train --profile N[@STEP]: some steps of every rank as RUN_DIR/trace.json. */
#ifndef SY_TRAIN_PROFILE_H
#define SY_TRAIN_PROFILE_H

#include "parallel/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_profile {
    int64_t first, n; /* steps first .. first + n - 1; n 0: none */
    sy_comm *world;
    const char *folder; /* of the run; rank 0 */
    double begun_s, ahead_s;
    bool is_on;
} sy_profile;

/* Choose the steps of a run that stands at `step` and ends at `last`. n: how many; first: 0 takes
   the third from here, when everything is warm, or as late as n steps allow. Not collective.
   SY_ERR_USAGE where the run has no such steps. */
sy_status sy_profile_plan(sy_profile *profile, int64_t n, int64_t first, int64_t step,
                          int64_t last);
/* Before step `step`, and after all that belongs to it: recording begins and ends here, and the
   file is written. A profile that fails is a warning. Collective over world where recording begins
   or ends, else nothing. */
void sy_profile_before(sy_profile *profile, int64_t step);
void sy_profile_after(sy_profile *profile, int64_t step);
/* The run ends: what was recorded so far is written. Collective as above. */
void sy_profile_finish(sy_profile *profile);

#ifdef __cplusplus
}
#endif
#endif

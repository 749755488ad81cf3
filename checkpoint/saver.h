/* Saving beside the training. A save goes through stages, and every rank does its part of a stage
   by itself (in a thread of its own, which makes no collective and no HDF5 call): write and hash;
   read back the pieces that several ranks share; on rank 0 close and publish. Between two stages
   all ranks meet for a moment. What is saved is copied first; only the copy must be waited for
   before the state may change. */
#ifndef SY_CHECKPOINT_SAVER_H
#define SY_CHECKPOINT_SAVER_H

#include "checkpoint/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_saver sy_saver;

typedef struct sy_saver_spec {
    sy_comm *io;           /* host memory; used by the saver alone */
    sy_device *dev;        /* the copy's memory is booked there */
    int64_t staging_bytes; /* of the copy, at least 8 MiB: what does not fit is copied as the file
                              grows, and sy_saver_wait_copied waits for it */
} sy_saver_spec;

/* Start the thread. Not collective. */
sy_status sy_saver_create(const sy_saver_spec *spec, sy_saver **out);
/* Give up what is not finished. Not collective: the others must do the same. */
void sy_saver_destroy(sy_saver **saver);
/* Bytes of device memory that this rank writes of a state. Not collective. */
sy_status sy_saver_bytes(const sy_state *state, int64_t *out);

/* Begin a save; see sy_checkpoint_save. Host fields are copied at once. Requires that none is under
   way, and that the work on device fields has been waited for. Collective over io. */
sy_status sy_saver_begin(sy_saver *saver, const char *path, const sy_state *state);
/* Wait until the state may change. Not collective. */
void sy_saver_wait_copied(sy_saver *saver);
/* Is a save under way? The same on every rank. Not collective. */
bool sy_saver_busy(const sy_saver *saver);
/* Has this rank's part of the stage ended? Never waits. Not collective. */
bool sy_saver_ready(sy_saver *saver);
/* On to the next stage; waits where this rank's part has not ended. An error ends the save, on
   every rank alike, as that of sy_checkpoint_save does. *finished: the file stands under its name.
   Collective over io. */
sy_status sy_saver_advance(sy_saver *saver, bool *finished);
/* All stages that are left; nothing where no save is under way. Collective over io. */
sy_status sy_saver_finish(sy_saver *saver);

#ifdef __cplusplus
}
#endif
#endif

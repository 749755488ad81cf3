/* The run directory (docs/INTERFACES.md sections 4 and 6): its names, its owner, and which
   checkpoints stand in it. Names are a function of the path and may be asked on any rank; whatever
   touches the disk is for rank 0 alone. */
#ifndef SY_REPORT_RUN_DIR_H
#define SY_REPORT_RUN_DIR_H

#include "core/status.h"
#include "report/run_lock.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SY_RUN_LOCK_WAIT_S 15.0 /* how long a new job waits for a holder that is ending */

typedef struct sy_run_dir {
    char *path;        /* "runs/a" */
    char *config;      /* "runs/a/config.yaml" */
    char *metrics;     /* "runs/a/metrics.jsonl" */
    char *tensorboard; /* "runs/a/tensorboard" */
    char *checkpoints; /* "runs/a/checkpoints" */
    char *report;      /* "runs/a/report.html" */
    sy_run_lock *lock; /* rank 0 after sy_run_dir_claim, else NULL */
} sy_run_dir;

/* The names; nothing on disk is touched.
   Not collective. Any rank. */
sy_status sy_run_dir_init(const char *path, sy_run_dir *out);

/* Free the names, and let go of the lock where it is held. A zeroed struct is fine.
   Not collective. Any rank. */
void sy_run_dir_free(sy_run_dir *run);

/* Become the owner: create the folders, prove that they can be written, take the lock.
   Not collective. Rank 0 only; everything below, but the listing and the path of a checkpoint,
   wants the claim first. SY_ERR_USAGE names the folder and why it cannot be written, or the holder
   that did not end within wait_s. */
sy_status sy_run_dir_claim(sy_run_dir *run, double wait_s);

/* Write config.yaml, whole or not at all.
   Not collective. Rank 0 only. SY_ERR_IO. */
sy_status sy_run_dir_write_config(const sy_run_dir *run, const char *yaml);

/* A finished checkpoint: a regular file `step_%08lld.h5`. Whether it is sound is for checkpoint/ to
 * say. */
typedef struct sy_run_checkpoint {
    int64_t step;
    char *path;
} sy_run_checkpoint;

typedef struct sy_run_checkpoints {
    sy_run_checkpoint *item; /* [n] newest (largest step) first */
    int32_t n;
    int32_t n_unfinished; /* files `.step_*.h5.tmp` that a dead save left */
} sy_run_checkpoints;

/* What stands in a `checkpoints` folder.
   Not collective. Needs no claim. A folder that does not exist is an empty list. SY_ERR_IO if it
   cannot be read. */
sy_status sy_run_checkpoints_list(const char *folder, sy_run_checkpoints *out);
void sy_run_checkpoints_free(sy_run_checkpoints *list);

/* The final name of the checkpoint of a step; free with sy_free.
   Not collective. Any rank. */
sy_status sy_run_checkpoint_path(const sy_run_dir *run, int64_t step, char **out);

/* Where a run starts. */
typedef enum sy_run_start {
    SY_RUN_NEW,      /* step 0 in a folder without a past */
    SY_RUN_AGAIN,    /* step 0; what is there is left of a run that saved nothing, and may be
                        overwritten */
    SY_RUN_CONTINUE, /* from a checkpoint: the one named, or the newest that verifies */
} sy_run_start;

/* The rules of --resume (docs/INTERFACES.md section 6), in one place.
   Not collective. Rank 0 only. resume: --resume was given; named: its CKPT, or NULL.
     checkpoints, no --resume   SY_ERR_USAGE: nobody overwrites a run by accident
     no checkpoint, --resume    NEW or AGAIN, and says so in the log
     checkpoints or a name      CONTINUE
   Nothing is changed on disk. */
sy_status sy_run_dir_decide(const sy_run_dir *run, bool resume, const char *named,
                            sy_run_start *out);

/* Remove what dead saves left (`.step_*.h5.tmp`); *n_removed (may be NULL) counts them.
   Not collective. Rank 0 only, while no save is under way. A file that cannot be removed is a
   warning. SY_ERR_IO if the folder cannot be read. */
sy_status sy_run_dir_clean(const sy_run_dir *run, int32_t *n_removed);

/* Point `latest` at the checkpoint of `step`, which must exist: a relative link, replaced in one
   rename. Not collective. Rank 0 only. SY_ERR_IO. */
sy_status sy_run_dir_publish(const sy_run_dir *run, int64_t step);

/* Rename the checkpoints of later steps than `step`, and one of that step which is not the file
   `named`, to `step_*.h5.old`: a run that goes on from a checkpoint of its choice, or passed over
   newer ones, leaves that line, and the next --resume must find its own; nor does sy_run_dir_prune
   count them. `latest` points at the newest that stays. *stands: so
   does `named`, under the name of its step. Not collective. Rank 0 only. SY_ERR_IO. */
sy_status sy_run_dir_set_aside(const sy_run_dir *run, int64_t step, const char *named,
                               bool *stands);

/* Remove old checkpoints: of those up to `step` (the one just saved) the `keep` newest stay, and
   those of steps that keep_every divides (0: none); keep 0 keeps all. Not collective. Rank 0 only.
   Later steps are left alone. A file that cannot be removed is a warning. */
sy_status sy_run_dir_prune(const sy_run_dir *run, int64_t step, int32_t keep, int64_t keep_every);

#ifdef __cplusplus
}
#endif
#endif

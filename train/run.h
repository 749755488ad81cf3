/* A training run: run directory, resume, the loop over steps, metrics, evaluation, checkpoints. */
#ifndef SY_TRAIN_RUN_H
#define SY_TRAIN_RUN_H

#include "train/train_config.h"
#include "parallel/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --reset: what of the past a resumed run leaves behind, as bits. */
enum { SY_RESET_OPTIMIZER = 1, SY_RESET_SCHEDULE = 2, SY_RESET_DATA = 4 };

typedef struct sy_run_spec {
    const sy_run_settings *settings;
    sy_comm *world;
    int32_t threads;     /* where the config says 0 */
    const char *run_dir; /* --run-dir, NULL: from the config */
    bool resume;
    const char *resume_from;      /* --resume CKPT, NULL: the newest that verifies */
    uint32_t reset;               /* with resume, as is the next */
    int64_t skip_batches;         /* global batches of the data to leave out */
    const char *init_from;        /* --init-from CKPT, or NULL */
    const char *const *overrides; /* --set */
    int32_t n_overrides;
    int64_t profile_steps, profile_first; /* --profile N[@STEP]: 0 none; 0 where it suits */
    bool (*stop)(void);                   /* was this rank asked to stop? */
} sy_run_spec;

/* Collective over spec->world. *stopped: ended on request, after saving a checkpoint. The same
 * status on every rank. */
sy_status sy_run_train(const sy_run_spec *spec, bool *stopped);

/* Every checksum of a checkpoint, and that nothing is missing that its configuration asks for. (A
   configuration that this version cannot read is left to whoever reads it.) Collective over world.
   SY_ERR_DAMAGED, or SY_ERR_IO where it cannot be told. */
sy_status sy_checkpoint_check(const char *path, sy_comm *world);
/* The checkpoint that a CKPT argument means: a file, the `latest` link, or a run directory's newest
 * that passes that check; each one passed over is a warning that says why. What cannot be read is
 * tried again for a second; where nothing is whole, and something could not be read, SY_ERR_IO.
 * Collective over world; *path is freed with sy_free. */
sy_status sy_find_checkpoint(const char *ckpt, sy_comm *world, char **path);
/* The same where one model is needed: an ensemble is SY_ERR_USAGE. Collective over world. */
sy_status sy_find_model(const char *ckpt, sy_comm *world, char **path);
/* All checkpoints that the argument means, one path per line, newest first: of a folder every one.
 * Collective over world; *text is freed with sy_free. */
sy_status sy_checkpoint_paths(const char *ckpt, sy_comm *world, char **text);
/* Configuration text of a checkpoint, parsed, on every rank. overrides may be NULL. Collective over
 * world. */
sy_status sy_checkpoint_settings(const char *path, const char *const *overrides,
                                 int32_t n_overrides, sy_comm *world, sy_run_settings *out);

#ifdef __cplusplus
}
#endif
#endif

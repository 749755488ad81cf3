/* What the files of a run share: train/run_start.c opens it, train/run.c goes through it. */
#ifndef SY_TRAIN_RUN_IMPL_H
#define SY_TRAIN_RUN_IMPL_H

#include "checkpoint/tokenizer_files.h"
#include "report/run_dir.h"
#include "report/tensorboard.h"
#include "train/eval.h"
#include "train/profile.h"
#include "train/replicas.h"
#include "train/run.h"
#include "train/saves.h"
#include "train/step_metrics.h"

typedef struct sy__run {
    const sy_run_spec *spec;
    const sy_run_settings *settings;
    sy_comm *world;
    sy_run_dir dir;
    char *config_yaml;
    sy_tokenizer_files tokenizer; /* what the first checkpoint came with goes into the next */
    sy_trainer *trainer;
    sy_replicas *replicas;
    sy_eval_set *valid;
    int32_t n_valid;
    sy_metrics_file *metrics_file; /* rank 0 */
    sy_tensorboard *tensorboard;   /* rank 0; NULL once it cannot be written */
    sy_step_metrics *metrics;      /* rank 0 */
    sy_progress *progress;         /* rank 0 */
    sy_saves saves;
    sy_profile profile;
    int64_t sequences_before; /* of the whole run that this one goes on from */
    double begun_s;
} sy__run;

static inline bool sy__run_is_root(const sy__run *r)
{
    return r->world->rank == 0;
}

/* Everything up to the first step: the folder is claimed, weights are there, outputs are open.
   Collective over r->world, as are the next two. */
sy_status sy__run_start(sy__run *r);
/* The trainer as a checkpoint has it. */
sy_status sy__run_load(sy__run *r, const char *path, sy_load_what what);
/* A failure is a warning, or comes back at the end (train/saves.h). */
void sy__run_save(sy__run *r, bool final);

/* A second view of the metrics: a run does not fail for it. Rank 0, not collective. */
void sy__run_open_tensorboard(sy__run *r, int64_t keep_step);
/* It could not be written: from here on there is none. Rank 0, not collective. */
void sy__run_tensorboard_failed(sy__run *r);

#endif

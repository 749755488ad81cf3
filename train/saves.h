/* The checkpoints of a run: when one is due, the save itself (waited for, or beside the next
   steps), and what follows it: `latest`, and old ones removed. A save that fails is a warning, not
   the end. */
#ifndef SY_TRAIN_SAVES_H
#define SY_TRAIN_SAVES_H

#include "checkpoint/saver.h"
#include "report/run_dir.h"
#include "train/trainer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_saves_spec {
    sy_trainer *trainer;
    const sy_run_dir *dir;
    const char *config_yaml;
    const sy_blob *blobs; /* tokenizer files */
    int32_t n_blobs;
} sy_saves_spec;

typedef struct sy_saves {
    sy_saves_spec spec;
    sy_saver *saver;    /* train.checkpoint_async; NULL: saves are waited for */
    int64_t saved_step; /* of the last checkpoint on disk that this run knows; -1: none */
    int64_t under_way;  /* step of the save beside the training */
    bool last_failed;   /* the last save that ended did */
    double stall_s;     /* that training waited for saves since this was last set to 0, */
    double waited_s;    /* and for the last save alone */
    double begun_s;     /* when the last save, or the run, began */
} sy_saves;

/* Collective. The spec's pointers live as long as the saves. */
sy_status sy_saves_open(const sy_saves_spec *spec, int64_t saved_step, sy_saves *out);
void sy_saves_close(sy_saves *saves);

/* What this rank says at the head of a step. Not collective. */
bool sy_saves_time_is_up(const sy_saves *saves); /* train.checkpoint_minutes have passed */
bool sy_saves_ready(const sy_saves *saves);      /* sy_saves_go_on can be called without a wait */
/* Take the save under way to its next stage. Collective. */
void sy_saves_go_on(sy_saves *saves);
/* Wait until parameters may change. Not collective. */
void sy_saves_wait_copied(sy_saves *saves);

/* Is a save due after the step just finished? The same on every rank. Not collective. */
bool sy_saves_due(const sy_saves *saves, bool time_is_up);
/* Save after the step just finished; one that is under way is finished first. `final`: wait for it.
   Rank 0's `mine` is what it did before (metrics on disk): where that failed, so does the save.
   Collective. */
void sy_saves_save(sy_saves *saves, bool final, sy_status mine);
/* Finish what is under way. Collective. */
void sy_saves_finish(sy_saves *saves);

#ifdef __cplusplus
}
#endif
#endif

/* The trainer: engine, optimizer, data, and the order of one step. */
#ifndef SY_TRAIN_TRAINER_H
#define SY_TRAIN_TRAINER_H

#include <stdio.h>

#include "data/loader.h"
#include "optim/optimizer.h"
#include "train/engine.h"
#include "train/probe.h"
#include "train/spikes.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_verdict {
    SY_STEP_DONE,
    SY_STEP_SKIPPED, /* for its trouble: nothing was updated */
    SY_STEP_STOP     /* a rank was asked to stop: nothing was computed */
} sy_verdict;

/* Where the time of a step went on this rank. Host time: it is that of the work on devices whose
   streams run at once. The phases lie beside each other; dispatch, combine and experts lie in
   forward and backward. */
typedef struct sy_step_times {
    double sync_s;           /* head and foot: all ranks meet, so mostly waiting for the slowest */
    double forward_s;        /* with the loss and the head's gradients */
    double backward_s;       /* without what grad_sync_wait_s has */
    double grad_sync_wait_s; /* reducing gradients where it is not hidden */
    double optimizer_s, param_gather_s;
    double digest_s; /* comparing replicas */
} sy_step_times;

/* The same on every rank, but the times. */
typedef struct sy_step_result {
    sy_verdict verdict;
    sy_trouble trouble;
    bool roll_back; /* the policy for this trouble: the run goes back to a checkpoint */
    int64_t step;   /* its number, from 1 */
    double loss, grad_norm, lr;
    double mtp_factor; /* of model.mtp_loss_coeff */
    double output_z;   /* mean of logsumexp(logits)^2; where model.output_z_loss_coeff is not 0 */
    int64_t loss_tokens, routed_tokens;
    int32_t n_sequences;
    const double *sums;         /* [L, SY_N_SUMS], L with the blocks behind the layers */
    const double *mtp;          /* [D, SY_MTP_N_SUMS] of the modules that predict further tokens */
    const int64_t *load, *kept; /* [L, E] */
    const int64_t *dropped_at;  /* [L, SY_DROP_PARTS] */
    double compute_s;           /* of the step, without waiting for other ranks */
    double step_s, data_wait_s, dispatch_s, combine_s, experts_s;
    sy_step_times time;
    int64_t n_extra_passes;
    bool save_now, savers_ready; /* any rank's vote; every rank's */
} sy_step_result;

/* What the modules that predict further tokens add to the loss that is trained on: coefficient / D
 * * sum of their nll / loss tokens. Not collective. */
double sy_step_mtp_loss(const sy_model_config *model, const sy_step_result *result);

/* What a rank has to say beside stop, at the head of a step: the run sets it. */
typedef struct sy_step_votes {
    bool save_now;    /* a checkpoint is due by the clock */
    bool saver_ready; /* this rank's part of the save under way has ended */
} sy_step_votes;

/* Counters that a checkpoint holds. */
typedef struct sy_train_counters {
    int64_t step;      /* finished updates, skipped ones included */
    int64_t data_step; /* position in the data, in sequences */
    int64_t tokens_seen;
    int64_t skipped, skipped_in_row; /* steps; the last ones that were */
    int64_t spikes;
    int64_t rollbacks, rollbacks_in_row; /* all, those kept in no checkpoint of a later step too */
    int64_t skipped_sequences;           /* of the data, left out on purpose */
    int64_t
        schedule_start; /* step at which the learning rate's schedule began (--reset schedule) */
} sy_train_counters;

typedef struct sy_trainer {
    const sy_run_settings *settings;
    sy_engine *engine;
    sy_optimizer *opt;
    sy_grad_sync *grads;
    sy_value_sync *values;
    sy_loader *loader;
    FILE *samples; /* NULL: nobody asked (train/sample_log.h) */
    sy_train_counters count;
    sy_spikes spikes;
    sy_probe *probe;  /* NULL: none */
    int64_t *h_loads; /* [L, E] rows that the last step sent to each expert; NULL: dense */
    sy_step_votes votes;
    sy_step_times time; /* of the step under way */
    sy_owner owner[5];
} sy_trainer;

typedef struct sy_trainer_spec {
    const sy_run_settings *settings;
    sy_comm *world;
    int32_t threads;         /* where the config says 0 */
    const sy_prices *prices; /* not NULL: for sy_trainer_rehearse; no data is opened */
} sy_trainer_spec;

/* The training data of a configuration, as one of dp_size ranks reads them. Errors blame
   data.train. Not collective. */
sy_status sy_train_data_open(const sy_run_settings *settings, int32_t dp_rank, int32_t dp_size,
                             sy_loader **out);

/* Warn where the training data, as they are open now, come in another order than for a run of so
   many sequences, which this one goes on from. Not collective. */
void sy_train_order_warn(const sy_trainer *trainer, int64_t sequences);

/* Build everything; parameters get their initial values. Collective over spec->world. */
sy_status sy_trainer_create(const sy_trainer_spec *spec, sy_trainer **out);
void sy_trainer_destroy(sy_trainer **trainer);
/* One step. stop: this rank was asked to stop. Collective. An error that a rank meets before the
   step begins is returned on all ranks alike; one in the midst of it ends the job (parallel/comm.h,
   sy_comm_abort). */
sy_status sy_trainer_step(sy_trainer *trainer, bool stop, sy_step_result *out);
/* The two halves of a step, errors as there. Up to the gradients: reduced (parallel/grad_sync.h)
   and added to what stands in them, nothing updated; the verdict is out. Then the update, which
   leaves the gradients at zero. Collective. */
sy_status sy_trainer_gradients(sy_trainer *trainer, bool stop, sy_step_result *out);
sy_status sy_trainer_update(sy_trainer *trainer, sy_step_result *result);
/* A step over micro-batches without contents, on an engine that rehearses: the clocks of its device
   move on, and the times of the result are theirs. Not collective. */
sy_status sy_trainer_rehearse(sy_trainer *trainer, const sy_step_batch *batch, sy_step_result *out);
/* What is persistent. The pointers live as long as the trainer. config_yaml is the caller's. Not
 * collective. */
sy_state sy_trainer_state(sy_trainer *trainer, const char *config_yaml);

#ifdef __cplusplus
}
#endif
#endif

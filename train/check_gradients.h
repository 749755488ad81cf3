/* Are the gradients those of the loss? On ref: central differences of the whole loss that is
   trained on (cross-entropy, balance loss, z-loss) through the complete model, at sampled
   coordinates of every parameter. On another backend: its gradients against those of ref. */
#ifndef SY_TRAIN_CHECK_GRADIENTS_H
#define SY_TRAIN_CHECK_GRADIENTS_H

#include "train/check_digest.h"
#include "train/trainer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Parameters of one kind: those whose names differ in the number of the layer only. */
typedef struct sy_gradient_row {
    char kind[SY_PARAM_NAME]; /* "layers/_/attn/q" */
    int32_t n_tensors;
    int32_t n_checked; /* coordinates; other backends: tensors, experts one by one */
    int32_t n_flipped; /* coordinates left out: a nudge changed which expert a token goes to */
    double worst;
    sy_digest_entry param; /* where */
    int64_t index;         /* where, in the row-major tensor; other backends: -1 */
    double gradient, difference;
} sy_gradient_row;

/* The same on every rank. */
typedef struct sy_gradient_check {
    sy_gradient_row *row;
    int32_t n;
    bool by_differences; /* else against ref */
    sy_dtype compute;
    int32_t ep, sequences, seq_len;
    double loss, bound;
    int64_t n_choices; /* of experts, over all ranks; other backends make the same ones as ref */
    int64_t n_evaluations;
} sy_gradient_check;

typedef struct sy_gradient_check_spec {
    const sy_run_settings *settings; /* on the backend to be checked */
    sy_comm *world;
    int32_t threads;            /* where the config says 0 */
    int32_t samples;            /* coordinates per parameter, >= 1 */
    int32_t sequences, seq_len; /* of the batch; 0: as many as ranks, two at least; 16 at most */
    bool progress;              /* on standard error */
    /* For tests: a defect, after the trainer was made. NULL: none. */
    sy_status (*plant)(void *self, sy_trainer *trainer);
    void *plant_self;
} sy_gradient_check_spec;

/* On the whole world, with the largest ep that divides it and the configuration's ep. Collective
   over spec->world. Deviations are results, not errors. */
sy_status sy_check_gradients(const sy_gradient_check_spec *spec, sy_gradient_check *out);
void sy_gradient_check_free(sy_gradient_check *check);
/* SY_OK, or SY_ERR_NUMERIC that names the parameter that is farthest over the bound. Not
   collective. */
sy_status sy_gradient_check_verdict(const sy_gradient_check *check);

#ifdef __cplusplus
}
#endif
#endif

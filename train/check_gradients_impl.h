/* What the files of check gradients share. */
#ifndef SY_TRAIN_CHECK_GRADIENTS_IMPL_H
#define SY_TRAIN_CHECK_GRADIENTS_IMPL_H

#include "train/check_gradients.h"

typedef struct sy__subject_spec {
    const sy_gradient_check_spec *check;
    char *config_yaml;
    int32_t ep, sequences, seq_len;
    bool on_ref; /* whatever the configuration says, and without the planted defect */
} sy__subject_spec;

/* A trainer on the small batch, and what its last evaluation gave. */
typedef struct sy__subject {
    sy_run_settings settings;
    sy_trainer *t;
    void *chosen, *kept; /* device memory of the choices, [n_chosen_max] */
    int32_t *h_chosen;   /* of this rank, after the last evaluation */
    uint8_t *h_kept;
    int64_t n_chosen_max;
    double loss; /* all terms */
    int64_t n_evaluations;
} sy__subject;

/* Collective over the check's world, the first three. Errors are agreed upon. */
sy_status sy__subject_open(const sy__subject_spec *spec, sy__subject *out);
/* Forward and backward; loss, gradients and choices are there afterwards. */
sy_status sy__subject_evaluate(sy__subject *subject);
/* *out: choices of the last evaluation, over all ranks, that are not these of this rank. */
sy_status sy__subject_compare_choices(const sy__subject *subject, const int32_t *chosen,
                                      const uint8_t *kept, int64_t *out);
void sy__subject_close(sy__subject *subject);

/* A coordinate of a parameter. */
typedef struct sy__coordinate {
    int32_t tensor;
    int64_t index;   /* in the row-major tensor */
    void *at;        /* where it is in this rank's device memory; NULL: elsewhere */
    double x, slope; /* its value, and its gradient as backward has it */
} sy__coordinate;

typedef struct sy__sampled_tensor {
    char name[SY_PARAM_NAME];
    int32_t n_dim;
    int64_t shape[SY_MAX_DIM], n;
    int64_t each;    /* elements of an expert, where experts come first; else 0 */
    int64_t largest; /* index of the largest gradient */
    int32_t first, n_coordinates;
} sy__sampled_tensor;

typedef struct sy__samples {
    sy__sampled_tensor *tensor; /* trainable ones, in order of declaration */
    sy__coordinate *coordinate;
    int32_t n_tensors, n;
} sy__samples;

/* Draw coordinates where there is something to see: experts that have tokens, rows of the embedding
   that are used, several rows of a router, and each tensor's largest gradient. After an evaluation.
   Collective over the mesh's world. */
sy_status sy__samples_draw(const sy__subject *s, int32_t per_tensor, sy__samples *out);
void sy__samples_free(sy__samples *samples);

#endif

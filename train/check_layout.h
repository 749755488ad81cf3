/* Does a run depend on its layout? A few steps of the user's own configuration with several
   layouts, each on the first ranks of the job, compared step by step with the first of them. */
#ifndef SY_TRAIN_CHECK_LAYOUT_H
#define SY_TRAIN_CHECK_LAYOUT_H

#include "parallel/comm.h"
#include "train/train_config.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_layout {
    int32_t ranks, ep, zero;
} sy_layout;

/* What is compared, per step. The last one: choices that went to another expert, as a part of all.
 */
typedef enum sy_layout_figure {
    SY_LAYOUT_LOSS,
    SY_LAYOUT_NORM,
    SY_LAYOUT_AUX,
    SY_LAYOUT_Z,
    SY_LAYOUT_LOADS,
    SY_N_LAYOUT_FIGURES
} sy_layout_figure;
/* "grad_norm". Not collective. */
const char *sy_layout_figure_name(sy_layout_figure figure);

typedef struct sy_layout_row {
    sy_layout layout;
    bool
        skipped; /* deals the micro-batches otherwise, and the loss depends on that by definition */
    double worst[SY_N_LAYOUT_FIGURES]; /* relative to the first layout, over the judged steps */
    int64_t at_step[SY_N_LAYOUT_FIGURES];
} sy_layout_row;

/* The same on every rank. */
typedef struct sy_layout_check {
    sy_layout_row *row; /* [n]; the first is what the others are compared with */
    int32_t n;
    sy_dtype compute;
    int64_t n_judged; /* steps: all on ref, else the first five: one flipped choice of an expert
                         grows */
    double bound[SY_N_LAYOUT_FIGURES]; /* INFINITY: reported, not judged */
} sy_layout_check;

typedef struct sy_layout_check_spec {
    const sy_run_settings *settings;
    sy_comm *world;
    int32_t threads; /* where the config says 0 */
    int64_t steps;   /* >= 1 */
    const sy_layout *layouts;
    int32_t n_layouts;
} sy_layout_check_spec;

/* Collective over spec->world; ranks beyond a layout's wait. A layout that the job or the number of
   experts does not allow: SY_ERR_USAGE. Deviations are results, not errors. */
sy_status sy_check_layout(const sy_layout_check_spec *spec, sy_layout_check *out);
void sy_layout_check_free(sy_layout_check *check);
/* Is every figure of a row within its bound? Not collective. */
bool sy_layout_row_passes(const sy_layout_check *check, const sy_layout_row *row);

/* All layouts of 1 to n_ranks ranks with every ep that divides ranks and experts, zero 0 and 1. For
   aux_loss_scope global_batch the largest come first, else the smallest. Freed with sy_free. Not
   collective. */
sy_status sy_layouts_all(const sy_run_settings *settings, int32_t n_ranks, sy_layout **out,
                         int32_t *n);

#ifdef __cplusplus
}
#endif
#endif

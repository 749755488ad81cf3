/* Does a run depend on its layout? A few steps of the user's own configuration with several
   layouts, each on the first ranks of the job, compared step by step with the first of them. */
#ifndef SY_TRAIN_CHECK_LAYOUT_H
#define SY_TRAIN_CHECK_LAYOUT_H

#include "train/check_digest.h"
#include "train/trainer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- layouts ---- */

/* Another way to the same numbers: how rows are exchanged, what backward computes again. */
typedef enum sy_layout_variant {
    SY_LAYOUT_AS_IS, /* as the configuration says */
    SY_LAYOUT_PASSES,
    SY_LAYOUT_PADDED,
    SY_LAYOUT_EXACT,
    SY_LAYOUT_RECOMPUTE_NONE,
    SY_LAYOUT_RECOMPUTE_MOE,
    SY_LAYOUT_RECOMPUTE_BLOCK,
    SY_N_LAYOUT_VARIANTS
} sy_layout_variant;

typedef struct sy_layout {
    int32_t ranks, ep, zero;
    int32_t micro_batch; /* 0: that of the configuration */
    sy_layout_variant variant;
} sy_layout;

enum { SY_LAYOUT_TEXT = 64, SY_LAYOUT_OVERRIDES = 5 };

/* RANKS:EP[:ZERO][:mbN][:VARIANT], as in 4:2, 4:2:0, 4:2:1:mb2, 4:2:1:padded. SY_ERR_USAGE names
   what is wrong. Not collective. */
sy_status sy_layout_parse(const char *text, size_t length, int32_t default_zero, sy_layout *out);
/* The same text into buf [SY_LAYOUT_TEXT]; returns buf. Not collective. */
const char *sy_layout_format(const sy_layout *layout, char *buf);
/* Can it be compared with others under these settings? SY_ERR_USAGE says why not: ranks and experts
   that ep does not divide, a micro-batch that is part of the definition of the loss, a variant of
   what is not there. Not collective. */
sy_status sy_layout_require(const sy_run_settings *settings, int32_t n_ranks,
                            const sy_layout *layout);
/* May the micro-batch change without changing the loss? Not where capacity or the balance loss are
   taken over it, or where the router decides over it. Not collective. */
bool sy_layout_micro_batch_is_free(const sy_run_settings *settings);
/* With aux_loss_scope global_batch the load fractions are those of the micro-batches so far: they
   are the same only where the ranks go through the same sequences in the same rounds. Not
   collective. */
bool sy_layout_same_rounds(const sy_run_settings *settings, const sy_layout *a, const sy_layout *b);
/* What the user would write into the configuration to get this layout; texts stay valid as long as
   buf [SY_LAYOUT_OVERRIDES][SY_LAYOUT_TEXT]. Returns how many. Not collective. */
int32_t sy_layout_overrides(const sy_layout *layout, char buf[][SY_LAYOUT_TEXT],
                            const char **overrides);

/* What this job allows: 1, 2, 3, 4, 8, 16 .. ranks and all of them, each ep that divides ranks and
   experts, zero 0 and 1; on all ranks also other micro-batches and the variants. The first is one
   rank (for aux_loss_scope global_batch: all ranks). Freed with sy_free. Not collective. */
sy_status sy_layouts_all(const sy_run_settings *settings, int32_t n_ranks, sy_layout **out,
                         int32_t *n);

/* ---- the check ---- */

/* What is compared, per step. loads: choices that went to another expert, or were dropped
   elsewhere, as a part of all; gradient: see sy_digest_gap. */
typedef enum sy_layout_figure {
    SY_LAYOUT_LOSS,
    SY_LAYOUT_NORM,
    SY_LAYOUT_AUX,
    SY_LAYOUT_Z,
    SY_LAYOUT_LOADS,
    SY_LAYOUT_GRADIENT,
    SY_N_LAYOUT_FIGURES
} sy_layout_figure;
/* "grad_norm". Not collective. */
const char *sy_layout_figure_name(sy_layout_figure figure);

/* The worst of a figure, relative to the first layout, and where it is. */
typedef struct sy_layout_deviation {
    double value;
    int64_t step;
    int32_t layer;         /* aux, z, loads; -1 elsewhere */
    sy_digest_entry param; /* gradient */
} sy_layout_deviation;

typedef struct sy_layout_row {
    sy_layout layout;
    bool skipped; /* not sy_layout_same_rounds */
    sy_layout_deviation worst[SY_N_LAYOUT_FIGURES];
    /* In the first step where the figure is over its bound: later ones follow from it. step 0: in
       none. */
    sy_layout_deviation first[SY_N_LAYOUT_FIGURES];
} sy_layout_row;

/* The same on every rank. */
typedef struct sy_layout_check {
    sy_layout_row *row; /* [n]; the first is what the others are compared with */
    int32_t n;
    sy_dtype compute;
    int64_t n_judged; /* steps: all on ref, else the first five: one flipped choice of an expert
                         grows */
    int64_t n_judged_gradient;         /* steps: all on ref, else the first */
    double bound[SY_N_LAYOUT_FIGURES]; /* INFINITY: reported, not judged */
} sy_layout_check;

/* For tests: a defect in some layouts. NULL: none. After the trainer was made; after the gradients
   of a step were reduced. */
typedef struct sy_layout_plant {
    void *self;
    sy_status (*made)(void *self, const sy_layout *layout, sy_trainer *trainer);
    sy_status (*reduced)(void *self, const sy_layout *layout, sy_trainer *trainer);
} sy_layout_plant;

typedef struct sy_layout_check_spec {
    const sy_run_settings *settings;
    sy_comm *world;
    int32_t threads; /* where the config says 0 */
    int64_t steps;   /* >= 1 */
    const sy_layout *layouts;
    int32_t n_layouts;
    bool progress; /* on standard error */
    const sy_layout_plant *plant;
} sy_layout_check_spec;

/* Collective over spec->world; ranks beyond a layout's wait. A layout that the job or the
   configuration does not allow: SY_ERR_USAGE. Deviations are results, not errors. */
sy_status sy_check_layout(const sy_layout_check_spec *spec, sy_layout_check *out);
void sy_layout_check_free(sy_layout_check *check);
/* Is a figure of a row within its bound? Not collective. */
bool sy_layout_row_passes(const sy_layout_check *check, const sy_layout_row *row,
                          sy_layout_figure figure);
/* SY_OK, or SY_ERR_NUMERIC that names figure, layout and place: what is farthest over its bound in
   the first step in which anything is. Not collective. */
sy_status sy_layout_check_verdict(const sy_layout_check *check);

#ifdef __cplusplus
}
#endif
#endif

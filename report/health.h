/* Health in words: what the loads of the experts say about a run, as figures for each step and as
   sentences for a person. A sentence speaks of a window of steps and is said when a trouble begins,
   grows or ends, not at every window. */
#ifndef SY_REPORT_HEALTH_H
#define SY_REPORT_HEALTH_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* From here on a trouble is worth a word. */
#define SY_HEALTH_DROP_LIMIT 0.1     /* share of the rows dropped */
#define SY_HEALTH_LOAD_LIMIT 4.0     /* load of the fullest expert over the mean */
#define SY_HEALTH_PLACE_LIMIT 0.5    /* share of the drops in the last part of the sequences, */
#define SY_HEALTH_PLACE_DROPS 0.01   /* where at least this share of the rows was dropped */
#define SY_HEALTH_ENTROPY_LIMIT 0.05 /* entropy of the router over that of equal chances */
#define SY_HEALTH_GROWTH_LIMIT 4.0   /* size of the output over that in the window before */

enum { SY_HEALTH_PARTS = 8 }; /* of a sequence, for the places of drops */

typedef struct sy_health_spec {
    int32_t n_layers;         /* L: layers that route */
    int32_t n_experts;        /* E */
    const int32_t *layer_idx; /* [L] their numbers in the model; NULL: 0 .. L-1 */
    int32_t window;           /* steps between two looks; 0: 100 */
    double drop_limit; /* share of rows dropped that is worth a word; 0: SY_HEALTH_DROP_LIMIT */
    double load_limit; /* load of the fullest expert over the mean that is worth a word; 0:
                          SY_HEALTH_LOAD_LIMIT */
} sy_health_spec;

/* One step, summed over all ranks and micro-batches. */
typedef struct sy_health_step {
    const int64_t *load;       /* [L, E] rows routed, those dropped included */
    const int64_t *dropped;    /* [L] rows dropped; NULL: none */
    const int64_t *dropped_at; /* [L, SY_HEALTH_PARTS] the same by place in the sequence; NULL */
    const double *entropy;     /* [L] of the router per token, in nats; NULL: not known */
    const double *output_rms;  /* [L] of the sublayer's output over its input's; NULL: not known */
} sy_health_step;

/* Figures of the step last observed, over the layers that routed anything. */
typedef struct sy_health_figures {
    double load_max_over_mean; /* mean over layers; 1: perfectly even; 0: nothing was routed */
    double drop_fraction;      /* dropped rows over routed rows, all layers together */
    int32_t dead_experts;      /* without a row in this step, all layers together */
} sy_health_figures;

typedef struct sy_health sy_health;

/* Not collective. Rank 0 only. The spec is copied. Requires n_layers >= 0 and n_experts >= 1. */
sy_status sy_health_create(const sy_health_spec *spec, sy_health **out);
void sy_health_destroy(sy_health **health);

/* Take a step in. At the end of each window `say` (may be NULL: sy_info) gets the sentences, one
   call each, such as "layer 7: 3 of 64 experts got no token in 100 steps (12, 40, 41)". Not
   collective. Rank 0 only. Allocates nothing. */
void sy_health_observe(sy_health *health, const sy_health_step *step,
                       void (*say)(void *arg, const char *sentence), void *arg);

/* Not collective. Zeros before the first step. */
sy_health_figures sy_health_last(const sy_health *health);

/* The fullest expert's load over the mean of all n; 0 where nothing was routed.
   Not collective. */
double sy_health_max_over_mean(const int64_t *load, int32_t n);

/* Experts without a row, 0 where nothing was routed at all (an empty step says nothing about them).
   Not collective. */
int32_t sy_health_dead_experts(const int64_t *load, int32_t n);

/* "12, 40-43" from the indices i of 0 .. n-1 where is_in(arg, i); cut with ".." where buf is short.
   Not collective. Returns buf. */
const char *sy_health_list(bool (*is_in)(const void *arg, int32_t i), const void *arg, int32_t n,
                           char *buf, size_t buf_bytes);

#ifdef __cplusplus
}
#endif
#endif

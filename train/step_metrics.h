/* What a step says: from its result to the record of metrics.jsonl and the facts of the progress
 * line. Rank 0. */
#ifndef SY_TRAIN_STEP_METRICS_H
#define SY_TRAIN_STEP_METRICS_H

#include "report/health.h"
#include "report/metrics.h"
#include "report/progress.h"
#include "train/trainer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_step_metrics {
    const sy_trainer *trainer;
    sy_metrics *record;
    sy_health *health;
    double *load; /* [E] shares of one layer, for the record */
    /* Of the layers that route, side by side: */
    int64_t *dropped;                          /* [L] */
    int64_t *dropped_at;                       /* [L, SY_DROP_PARTS] */
    int64_t *routed_load;                      /* [L, E] */
    double *entropy, *confidence, *output_rms; /* [L] */
    int32_t *layer;                            /* numbers of the layers that route */
    int32_t n_layers;
    double flops_per_token, peak_flops; /* of all ranks together */
    double time_offset_s, start_s;
    double output_s;        /* spent on metrics and progress since the last record */
    double straggler_ratio; /* the slowest rank to the median of the others; the run sets it */
} sy_step_metrics;

/* peak_flops: FLOP/s of all ranks together; time_offset_s: time_s of the run before this process.
 * Not collective, all of them. */
sy_status sy_step_metrics_create(const sy_trainer *trainer, double peak_flops, double time_offset_s,
                                 sy_step_metrics **out);
void sy_step_metrics_destroy(sy_step_metrics **metrics);
/* Book the time since from_s (sy_clock_s) as spent on metrics and progress output: perf/metrics_ms
   of the next record. */
void sy_step_metrics_book(sy_step_metrics *metrics, double from_s);
/* Fill metrics->record with a step; evaluations may add to it. facts: for the progress line. */
sy_status sy_step_metrics_fill(sy_step_metrics *metrics, const sy_step_result *r,
                               double checkpoint_stall_s, sy_step_facts *facts);

/* Add what a probe of the routing said, and how long it took. Not collective. */
sy_status sy_step_metrics_probe(sy_step_metrics *metrics, const sy_probe *probe, double probe_s);

#ifdef __cplusplus
}
#endif
#endif

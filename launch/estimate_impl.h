/* What the files of `estimate` share. */
#ifndef SY_LAUNCH_ESTIMATE_IMPL_H
#define SY_LAUNCH_ESTIMATE_IMPL_H

#include <jansson.h>

#include "launch/cli.h"
#include "report/metrics_log.h"
#include "train/rehearsal.h"

typedef struct sy__estimate {
    const sy_cli *cli;
    sy_env *env;
    sy_machine machine;
    int32_t ranks;
    double imbalance, tokens; /* tokens: of the budget; 0: the run's own */
    sy_metrics_log loads;     /* of a run whose imbalance is taken; without lines: none */
    bool set_precision;       /* auto is bf16 on a GPU */
} sy__estimate;

/* What a rehearsal may have otherwise than the configuration; 0: as there. */
typedef struct sy__variant {
    int32_t ranks, ep, micro_batch, global_batch;
    const char *recompute;
    bool zero2; /* with parallel.zero 2 */
} sy__variant;

/* The configuration, computed on this machine. */
sy_status sy__estimate_settings(const sy__estimate *e, const sy__variant *variant,
                                sy_run_settings *out);
sy_status sy__estimate_run(const sy__estimate *e, const sy__variant *variant, sy_rehearsal *out);
/* Rows of the fullest rank over the mean, with these settings. */
double sy__estimate_imbalance(const sy__estimate *e, const sy_run_settings *settings);
/* The metrics of a run with so many experts; SY_ERR_USAGE where it is not. */
sy_status sy__estimate_loads_read(const char *run_dir, int32_t experts, sy_metrics_log *out);
/* Of its second half: mean over layers and steps of the fullest of ep ranks over the mean. */
double sy__estimate_uneven(const sy_metrics_log *log, int32_t ep);
bool sy__estimate_fits(const sy__estimate *e, const sy_rehearsal *r);

/* A row for every ep and micro-batch; *best the fastest that fits, ep 0: none does. */
sy_status sy__estimate_layouts(const sy__estimate *e, json_t *rows, sy__variant *best);
/* What is missing where nothing fits; freed with sy_free. */
sy_status sy__estimate_missing(const sy__estimate *e, char **out);
/* Rows over 8 to 4096 ranks, the global batch growing with them. */
sy_status sy__estimate_scaling(const sy__estimate *e, const sy__variant *layout, json_t *rows);
sy_status sy__estimate_plot(const sy__estimate *e, const json_t *rows, const char *path);

/* All figures of one rehearsal. */
json_t *sy__estimate_figures(const sy__estimate *e, const sy_run_settings *settings,
                             const sy_rehearsal *r);
void sy__estimate_print(const json_t *all);

#endif

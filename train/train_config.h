/* Config section `train`, and the whole configuration of a run: all sections together, their
 * derived defaults and their common checks. */
#ifndef SY_TRAIN_TRAIN_CONFIG_H
#define SY_TRAIN_TRAIN_CONFIG_H

#include "backend/device_config.h"
#include "data/data_config.h"
#include "model/model_config.h"
#include "moe/moe_config.h"
#include "optim/optim_config.h"
#include "parallel/parallel_config.h"
#include "report/report_config.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_nonfinite {
    SY_NONFINITE_SKIP,
    SY_NONFINITE_STOP,
    SY_NONFINITE_ROLLBACK
} sy_nonfinite;
typedef enum sy_on_spike {
    SY_SPIKE_OFF,
    SY_SPIKE_WARN,
    SY_SPIKE_SKIP,
    SY_SPIKE_ROLLBACK
} sy_on_spike;

typedef struct sy_train_config {
    int64_t steps;
    int32_t global_batch, micro_batch;      /* sequences */
    int32_t batch_ramp_from, batch_ramp_by; /* see train/batch_ramp.h; from 0: none */
    int64_t batch_ramp_tokens;
    int32_t recompute; /* sy_recompute of model/pass.h */
    int64_t log_every, eval_every, eval_batches, checkpoint_every;
    int32_t checkpoint_keep;
    int64_t checkpoint_keep_every;
    double checkpoint_minutes;
    bool checkpoint_async;
    sy_opt_f64 checkpoint_staging_gb;
    double stop_after_minutes;
    int32_t nonfinite; /* sy_nonfinite */
    int32_t spike;     /* sy_on_spike */
    double spike_sigma;
    int32_t spike_window;
    int32_t skip_limit;
    int64_t skip_batches;
    int64_t digest_every, probe_every;
    sy_str_list freeze;
    sy_str_list mtp_phases;
} sy_train_config;

extern const sy_config_section sy_train_section;

/* Every section of a run, in the order of docs/INTERFACES.md section 3. Not collective. */
const sy_config_section *const *sy_train_sections(int32_t *n);

/* The sections of a parsed configuration, resolved. */
typedef struct sy_run_settings {
    sy_config *config; /* owned */
    const sy_run_config *run;
    const sy_device_config *device;
    const sy_model_config *model;
    const sy_moe_config *moe;
    const sy_parallel_config *parallel;
    const sy_optim_config *optim;
    const sy_train_config *train;
    const sy_data_config *data;
} sy_run_settings;

/* Parse and resolve. Not collective: all ranks parse the same bytes. SY_ERR_USAGE as in
 * core/config.h. */
sy_status sy_run_settings_parse(const char *text, size_t text_bytes, const char *file_name,
                                const char *const *overrides, int32_t n_overrides,
                                sy_run_settings *out);
void sy_run_settings_free(sy_run_settings *settings);

/* May a run that was saved with `old` go on with `now`? Shapes, seed and tokenizer may not change;
   optim, data, batch and loss settings only by an override (--set); the rest freely. SY_ERR_USAGE
   names the keys. *changes: lines "key: old -> new" of what changed, "" if nothing; free with
   sy_free. */
sy_status sy_run_settings_compatible(const sy_run_settings *old, const sy_run_settings *now,
                                     const char *const *overrides, int32_t n_overrides,
                                     char **changes);

#ifdef __cplusplus
}
#endif
#endif

/* What `bench step` trains and `bench layer` takes its layer from: the mini model or a
 * configuration, on random tokens of its own. */
#ifndef SY_LAUNCH_BENCH_STEP_IMPL_H
#define SY_LAUNCH_BENCH_STEP_IMPL_H

#include "launch/bench_impl.h"
#include "train/train_config.h"

/* A temporary folder of this rank with one token file in it. */
typedef struct sy__bench_data {
    char folder[256], prefix[300];
} sy__bench_data;

/* Not collective, all three. close removes what open and write made. */
sy_status sy__bench_data_open(sy__bench_data *data);
/* Random tokens for n_steps steps. */
sy_status sy__bench_data_write(const sy__bench_data *data, const sy_run_settings *settings,
                               int64_t n_steps);
void sy__bench_data_close(sy__bench_data *data);

/* The configuration of --config, or the mini model's, with --precision, --threads and --set,
   reading from data; `more` [n_more] override those. Collective over the bench's world. */
sy_status sy__bench_settings(const sy__bench *bench, const sy__bench_data *data,
                             const char *const *more, int32_t n_more, sy_run_settings *out);

#endif

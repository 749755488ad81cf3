/* Training sequences as the model sees them. */
#ifndef SY_LAUNCH_DATA_SAMPLES_H
#define SY_LAUNCH_DATA_SAMPLES_H

#include "train/train_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Print the first n sequences of a configuration's training order: what is given, what is learned
   (has a loss), a line for each stretch of either and of each document. Ids without text stand in
   angle brackets. Not collective; one rank. */
sy_status sy_data_show_samples(const sy_run_settings *settings, int64_t n);

#ifdef __cplusplus
}
#endif
#endif

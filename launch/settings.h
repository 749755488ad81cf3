/* Configuration files: read by rank 0, parsed by all. */
#ifndef SY_LAUNCH_SETTINGS_H
#define SY_LAUNCH_SETTINGS_H

#include "launch/env.h"
#include "train/train_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Read, broadcast, parse, resolve. Errors are agreed upon. Collective over world. */
sy_status sy_settings_load(const char *path, const char *const *overrides, int32_t n_overrides,
                           sy_comm *world, sy_run_settings *out);

/* Refuse what makes another function of the same tensors: weights of `path` were trained with the
 * value that `old_config` has. Not collective. */
sy_status sy_check_same_function(const char *command, const char *path, const sy_config *old_config,
                                 const sy_config *new_config);

#ifdef __cplusplus
}
#endif
#endif

/* What cmd_check.c and check_print.c share. */
#ifndef SY_LAUNCH_CHECK_IMPL_H
#define SY_LAUNCH_CHECK_IMPL_H

#include "train/check_gradients.h"
#include "train/check_layout.h"

/* A table for people, or one JSON object. Rank 0 only. Not collective. */
sy_status sy__print_layout_check(const sy_run_settings *settings, const sy_layout_check *check,
                                 int64_t steps, bool json);
sy_status sy__print_gradient_check(const sy_run_settings *settings, const sy_gradient_check *check,
                                   bool json);

#endif

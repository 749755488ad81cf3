/* One line per command; the table is in main.c. */
#ifndef SY_LAUNCH_COMMANDS_IMPL_H
#define SY_LAUNCH_COMMANDS_IMPL_H

#include "launch/cli.h"

extern const sy_command sy_cmd_train, sy_cmd_eval, sy_cmd_generate, sy_cmd_upcycle, sy_cmd_merge,
    sy_cmd_inspect, sy_cmd_tokenize, sy_cmd_data, sy_cmd_check, sy_cmd_bench, sy_cmd_report,
    sy_cmd_verify, sy_cmd_diff, sy_cmd_import, sy_cmd_export, sy_cmd_completion, sy_cmd_estimate,
    sy_cmd_doctor, sy_cmd_explain_loss;

#endif

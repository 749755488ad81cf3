/* Commands whose files are on their way: weak, so that the real ones take their place. */
#include "launch/commands_impl.h"

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    (void)env, (void)exit_code;
    return sy_error(SY_ERR_UNSUPPORTED, "%s is not part of this build", cli->command->name);
}

static const sy_option none[] = {{0}};

__attribute__((weak)) const sy_command sy_cmd_bench = {.name = "bench",
                                                       .operands = "",
                                                       .help = "Figures.",
                                                       .max_operands = -1,
                                                       .options = none,
                                                       .run = run};
__attribute__((weak)) const sy_command sy_cmd_check = {.name = "check",
                                                       .operands = "",
                                                       .help = "Checks.",
                                                       .max_operands = -1,
                                                       .options = none,
                                                       .run = run};
__attribute__((weak)) const sy_command sy_cmd_upcycle = {.name = "upcycle",
                                                         .operands = "",
                                                         .help = "Upcycle.",
                                                         .max_operands = -1,
                                                         .options = none,
                                                         .run = run};

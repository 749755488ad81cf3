/* switchyard COMMAND [ARGUMENTS]: finds the command, runs it on every rank, prints one error for
 * the job, exits alike everywhere. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/config.h"
#include "core/log.h"
#include "core/pulse.h"
#include "launch/commands_impl.h"
#include "launch/identity.h"
#include "launch/version.h"
#include "parallel/agree.h"
#include "parallel/watch.h"

const sy_command *const sy_commands[] = {
    &sy_cmd_train,    &sy_cmd_eval,   &sy_cmd_generate, &sy_cmd_upcycle,    &sy_cmd_merge,
    &sy_cmd_import,   &sy_cmd_export, &sy_cmd_inspect,  &sy_cmd_verify,     &sy_cmd_diff,
    &sy_cmd_tokenize, &sy_cmd_data,   &sy_cmd_check,    &sy_cmd_estimate,   &sy_cmd_explain_loss,
    &sy_cmd_bench,    &sy_cmd_report, &sy_cmd_doctor,   &sy_cmd_completion, NULL};

enum { COMMAND_COLUMN = 16 };

static void print_usage(void)
{
    sy_text text = {0};
    sy_text_puts(&text, "Usage: switchyard COMMAND [ARGUMENTS]\n\nCommands:\n");
    for (const sy_command *const *c = sy_commands; *c != NULL; c++) {
        int64_t line = text.n;
        sy_text_printf(&text, "  %s", (*c)->name);
        sy_cli_wrap(&text, line, COMMAND_COLUMN, (*c)->help);
    }
    printf("%s\nswitchyard COMMAND --help tells more; switchyard --version what was built in.\n",
           text.st == SY_OK ? text.data : "");
    sy_text_free(&text);
}

static sy_status find_command(const char *name, const sy_command **out)
{
    const char *names[32];
    int32_t n = 0;
    for (const sy_command *const *c = sy_commands; *c != NULL; c++) {
        names[n++] = (*c)->name;
        if (strcmp((*c)->name, name) == 0) {
            *out = *c;
            return SY_OK;
        }
    }
    const char *near = sy_nearest_name(name, names, n);
    return near != NULL
               ? sy_error(SY_ERR_USAGE, "unknown command '%s' (did you mean '%s'?)", name, near)
               : sy_error(SY_ERR_USAGE, "unknown command '%s'; see switchyard --help", name);
}

static bool wants_help(int argc, char **argv)
{
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            return true;
        }
    }
    return false;
}

static sy_status print_help(const sy_command *command)
{
    sy_status st = SY_OK;
    char *text = NULL;
    SY_TRY(sy_cli_help(command, &text));
    fputs(text, stdout);
cleanup:
    sy_free(&text);
    return st;
}

/* Parse and run on this rank. The ranks have the same command line. */
static sy_status run_command(int argc, char **argv, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    const sy_command *command = NULL;
    sy_cli cli = {0};
    SY_TRY(find_command(argv[1], &command));
    SY_TRY(sy_agree(env->world, sy_cli_parse(command, argc, argv, &cli)));
    SY_REQUIRE(!command->alone || env->world->size == 1, SY_ERR_USAGE,
               "%s runs on one rank; this job has %d", command->name, env->world->size);
    sy_pulse_phase(command->name);
    SY_TRY(command->run(&cli, env, exit_code));
    SY_REQUIRE(fflush(stdout) == 0 && !ferror(stdout), SY_ERR_IO,
               "%s: the results cannot be written to standard output", command->name);
cleanup:
    sy_cli_free(&cli);
    return st;
}

/* Rank 0 speaks for the one that failed. */
static void print_error(bool verbose)
{
    sy_trace trace;
    char text[4096];
    sy_error_take(&trace);
    sy_error_format(&trace, verbose, text, sizeof text);
    sy_log_from(trace.rank >= 0 ? trace.rank : 0, SY_LOG_ERROR, "%s", text);
}

/* What needs neither ranks nor anything to be started. */
static bool answered(int argc, char **argv)
{
    const sy_command *command = NULL;
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        if (sy_env_is_root()) {
            print_usage();
        }
        return true;
    }
    if (strcmp(argv[1], "--version") == 0) {
        if (sy_env_is_root()) {
            sy_version_print(stdout);
        }
        return true;
    }
    return wants_help(argc, argv) && find_command(argv[1], &command) == SY_OK &&
           (!sy_env_is_root() || print_help(command) == SY_OK);
}

int main(int argc, char **argv)
{
    sy_env env = {0};
    sy_status st;
    int exit_code = 0;

    if (answered(argc, argv)) {
        if (fflush(stdout) != 0 || ferror(stdout)) {
            sy_log_from(0, SY_LOG_ERROR, "the text cannot be written to standard output");
            return 1;
        }
        return argc < 2 ? 2 : 0;
    }
    st = sy_env_open(&argc, &argv, &env);
    if (env.world != NULL) {
        st = sy_agree(env.world, st);
    }
    st = st == SY_OK ? sy_watch_open(env.world) : st;
    st = st == SY_OK ? sy_identity_check(argc, argv, env.world) : st;
    if (st == SY_OK) {
        st = sy_agree(env.world, run_command(argc, argv, &env, &exit_code));
    }
    if (st != SY_OK) {
        exit_code = sy_status_exit_code(st);
        if (env.world == NULL || env.world->rank == 0) {
            print_error(st == SY_ERR_INTERNAL || st == SY_ERR_COMM);
        }
    }
    sy_env_close(&env);
    return exit_code;
}

/* The command line: one table per command makes the parser, its messages and its --help. */
#ifndef SY_LAUNCH_CLI_H
#define SY_LAUNCH_CLI_H

#include "launch/env.h"
#include "report/text.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_option_kind {
    SY_OPTION_FLAG,     /* --json */
    SY_OPTION_VALUE,    /* --seed N or --seed=N */
    SY_OPTION_OPTIONAL, /* --resume [CKPT]: takes the next argument if all operands have been seen
                           and it is no option */
    SY_OPTION_LIST /* VALUE, may be given several times; a list like --data A B takes all that is no
                      option */
} sy_option_kind;

typedef struct sy_option {
    const char *name; /* "max-tokens" */
    sy_option_kind kind;
    const char *arg, *help;
} sy_option;

enum { SY_MAX_OPTIONS = 24 };

typedef struct sy_cli {
    const struct sy_command *command;
    const char **operand; /* [n_operands] */
    int32_t n_operands;
    bool given[SY_MAX_OPTIONS];
    const char *value[SY_MAX_OPTIONS]; /* of FLAG NULL; of OPTIONAL maybe NULL */
    const char **list[SY_MAX_OPTIONS];
    int32_t n_list[SY_MAX_OPTIONS];
} sy_cli;

typedef struct sy_command {
    const char *name, *operands, *help; /* "train", "CONFIG.yaml", one sentence */
    int32_t min_operands, max_operands; /* max -1: any */
    const sy_option *options;           /* ends with name NULL */
    bool greedy_lists;                  /* LIST options take all following non-options */
    bool alone;                         /* runs on one rank only */
    sy_status (*run)(const sy_cli *cli, sy_env *env, int *exit_code);
} sy_command;

/* Parse argv[2..] for a command. SY_ERR_USAGE names what is wrong and the nearest option. Not
 * collective. */
sy_status sy_cli_parse(const sy_command *command, int argc, char **argv, sy_cli *out);
void sy_cli_free(sy_cli *cli);
/* Words and an end of line, broken at 100 columns and set from `column` on; the line began at byte
 * `line` of the text. Not collective. */
void sy_cli_wrap(sy_text *out, int64_t line, int32_t column, const char *words);
/* Text for --help; freed with sy_free. Not collective. */
sy_status sy_cli_help(const sy_command *command, char **out);

/* Values by option name (which the command's table has). Not given: *out untouched. Not collective.
 */
bool sy_cli_given(const sy_cli *cli, const char *name);
const char *sy_cli_text(const sy_cli *cli,
                        const char *name); /* NULL if not given. Not collective. */
sy_status sy_cli_i64(const sy_cli *cli, const char *name, int64_t min, int64_t max, int64_t *out);
sy_status sy_cli_f64(const sy_cli *cli, const char *name, double min, double max, double *out);
const char *const *sy_cli_list(const sy_cli *cli, const char *name, int32_t *n);

/* The commands, NULL-terminated; one file cmd_<name>.c each. */
extern const sy_command *const sy_commands[];

#ifdef __cplusplus
}
#endif
#endif

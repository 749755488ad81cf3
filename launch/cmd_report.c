#include <stdio.h>

#include "core/alloc.h"
#include "launch/cli.h"
#include "report/html.h"

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    char *written = NULL;
    (void)env, (void)exit_code;
    SY_TRY(sy_report_write(cli->operand, cli->n_operands, sy_cli_text(cli, "output"), &written));
    printf("%s\n", written);
cleanup:
    sy_free(&written);
    return st;
}

static const sy_option options[] = {
    {"output", SY_OPTION_VALUE, "FILE.html",
     "Where to write the page (RUN_DIR/report.html; of several runs, compare.html in the first)."},
    {0},
};

const sy_command sy_cmd_report = {
    .name = "report",
    .operands = "RUN_DIR...",
    .help = "One HTML page about a run, or about several beside each other.",
    .min_operands = 1,
    .max_operands = -1,
    .options = options,
    .alone = true,
    .run = run};

/* diff: where two checkpoints differ. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "checkpoint/diff.h"
#include "core/alloc.h"
#include "launch/cli.h"
#include "train/run.h"

/* A configuration is many lines; its keys that differ are what a reader wants. */
static sy_status print_config(const char *a, const char *b)
{
    sy_status st = SY_OK;
    sy_run_settings old = {0}, now = {0};
    char *text = NULL;
    SY_TRY(sy_run_settings_parse(a, strlen(a), "A", NULL, 0, &old));
    SY_TRY(sy_run_settings_parse(b, strlen(b), "B", NULL, 0, &now));
    SY_TRY(sy_config_diff(old.config, now.config, NULL, &text));
    for (char *rest = text, *line = strtok_r(rest, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        printf("config      %s\n", line);
    }
cleanup:
    sy_free(&text);
    sy_run_settings_free(&now);
    sy_run_settings_free(&old);
    return st;
}

static void print_attribute(const sy_diff_row *row)
{
    if (strcmp(row->path, "config") == 0 && print_config(row->a, row->b) == SY_OK) {
        return;
    }
    sy_error_clear();
    if (strcmp(row->path, "config") == 0) {
        printf("config      differs\n");
    } else {
        printf("attribute   %s: %s -> %s\n", row->path, row->a, row->b);
    }
}

static void print_row(const sy_diff_row *row)
{
    switch (row->kind) {
    case SY_DIFF_ATTRIBUTE:
        print_attribute(row);
        break;
    case SY_DIFF_ONLY_A:
        printf("only in A   /%s\n", row->path);
        break;
    case SY_DIFF_ONLY_B:
        printf("only in B   /%s\n", row->path);
        break;
    case SY_DIFF_SHAPE:
        printf("shape       /%s: %s -> %s\n", row->path, row->a, row->b);
        break;
    case SY_DIFF_TYPE:
        printf("type        /%s: %s -> %s\n", row->path, row->a, row->b);
        break;
    default:
        printf("values      /%s: %ld of %ld differ, first at %ld; by %.3e at most, relative %.3e\n",
               row->path, (long)row->n_different, (long)row->n_values, (long)row->first,
               row->largest_abs, row->largest_rel);
    }
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    sy_diff diff = {0};
    char *a = NULL, *b = NULL;
    double tolerance = 0;
    SY_TRY(sy_cli_f64(cli, "tolerance", 0, 2, &tolerance));
    SY_TRY(sy_find_checkpoint(cli->operand[0], env->world, &a));
    SY_TRY(sy_find_checkpoint(cli->operand[1], env->world, &b));
    SY_TRY(sy_checkpoint_diff(a, b, tolerance, env->world, &diff));
    *exit_code = diff.n > 0 ? 1 : 0;
    if (env->world->rank == 0) {
        for (int32_t i = 0; i < diff.n; i++) {
            print_row(&diff.row[i]);
        }
        printf("%s: %ld values compared\n", diff.n > 0 ? "different" : "same", (long)diff.n_values);
        fflush(stdout);
    }
cleanup:
    sy_diff_free(&diff);
    sy_free(&b);
    sy_free(&a);
    return st;
}

static const sy_option options[] = {
    {"tolerance", SY_OPTION_VALUE, "X",
     "Values differ where |a - b| > X max(|a|, |b|); float types may differ (default 0: bit for "
     "bit)."},
    {0},
};

const sy_command sy_cmd_diff = {.name = "diff",
                                .operands = "A B",
                                .help = "Where two checkpoints differ.",
                                .min_operands = 2,
                                .max_operands = 2,
                                .options = options,
                                .run = run};

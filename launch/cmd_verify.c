/* verify: every checksum of a checkpoint, and that nothing is missing. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/log.h"
#include "launch/output.h"
#include "parallel/agree.h"
#include "train/complete.h"
#include "train/run.h"

static sy_status check_complete(const char *path)
{
    sy_status st = SY_OK;
    sy_checkpoint_info info = {0};
    SY_TRY(sy_checkpoint_info_read(path, &info));
    SY_TRY(sy_checkpoint_complete(path, &info));
    printf("%s: whole: %s, step %ld, %d datasets", path, info.kind, (long)info.step,
           info.n_entries);
cleanup:
    sy_checkpoint_info_free(&info);
    return st;
}

/* Prints one line for a file that is whole. Collective. */
static sy_status verify(const char *path, sy_comm *world)
{
    sy_status st = SY_OK, mine = SY_OK;
    const double t0 = sy_clock_s();
    int64_t bytes = 0;
    char size[32], rate[32];
    SY_TRY(sy_checkpoint_verify(path, world, &bytes));
    const double seconds = sy_clock_s() - t0;
    if (world->rank == 0) {
        mine = check_complete(path);
        if (mine == SY_OK) {
            printf(", %s, %.1f s, %s/s\n", sy_format_bytes((double)bytes, size, sizeof size),
                   seconds, sy_format_bytes((double)bytes / seconds, rate, sizeof rate));
            fflush(stdout);
        }
    }
    SY_TRY(sy_agree(world, mine));
cleanup:
    return st;
}

/* The message of what is not whole or not there; the others are looked at all the same. */
static void note(sy_status st, const sy_comm *world, sy_status *worst)
{
    sy_trace trace;
    char text[SY_TRACE_MESSAGE + 64];
    if (st == SY_OK) {
        return;
    }
    *worst = st > *worst ? st : *worst;
    sy_error_take(&trace);
    sy_error_format(&trace, false, text, sizeof text);
    if (world->rank == 0) {
        sy_log_from(0, SY_LOG_ERROR, "%s", text);
    }
    sy_error_clear();
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status worst = SY_OK;
    char *text = NULL;
    for (int32_t i = 0; i < cli->n_operands; i++) {
        note(sy_checkpoint_paths(cli->operand[i], env->world, &text), env->world, &worst);
        for (char *rest = text, *path = text != NULL ? strtok_r(rest, "\n", &rest) : NULL;
             path != NULL; path = strtok_r(NULL, "\n", &rest)) {
            note(verify(path, env->world), env->world, &worst);
        }
        sy_free(&text);
    }
    *exit_code = sy_status_exit_code(worst);
    return SY_OK;
}

static const sy_option options[] = {{0}};

const sy_command sy_cmd_verify = {.name = "verify",
                                  .operands = "CKPT...",
                                  .help = "Check every byte of checkpoints, and that none is "
                                          "missing; of a run directory every one.",
                                  .min_operands = 1,
                                  .max_operands = -1,
                                  .options = options,
                                  .run = run};

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "launch/cli.h"
#include "launch/settings.h"
#include "train/run.h"

static sy_status print_config_help(bool markdown)
{
    sy_status st = SY_OK;
    int32_t n = 0;
    const sy_config_section *const *sections = sy_train_sections(&n);
    char *text = NULL;
    SY_TRY(sy_config_help(sections, n, markdown, &text));
    fputs(text, stdout);
cleanup:
    sy_free(&text);
    return st;
}

/* "optimizer,schedule,data" as bits. */
static sy_status read_reset(const sy_cli *cli, uint32_t *out)
{
    static const char *const name[] = {"optimizer", "schedule", "data"};
    sy_status st = SY_OK;
    const char *text = sy_cli_text(cli, "reset");
    SY_REQUIRE(text == NULL || sy_cli_given(cli, "resume"), SY_ERR_USAGE,
               "train: --reset goes with --resume; --init-from takes the weights alone");
    *out = 0;
    for (const char *at = text; at != NULL; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        int length = (int)strcspn(at, ",");
        uint32_t bit = 0;
        for (uint32_t i = 0; i < 3; i++) {
            bit |= strlen(name[i]) == (size_t)length && strncmp(at, name[i], (size_t)length) == 0
                       ? 1U << i
                       : 0;
        }
        SY_REQUIRE(bit != 0, SY_ERR_USAGE,
                   "train: --reset '%.*s' is not one of optimizer, schedule, data", length, at);
        *out |= bit;
    }
cleanup:
    return st;
}

/* "5" or "5@1000". */
static sy_status read_profile(const sy_cli *cli, sy_run_spec *spec)
{
    sy_status st = SY_OK;
    const char *text = sy_cli_text(cli, "profile");
    long long n = 0, first = 0;
    int n_read = 0;
    if (text == NULL) {
        return SY_OK;
    }
    bool is_n = sscanf(text, "%9lld%n", &n, &n_read) == 1;
    if (is_n && text[n_read] == '@') {
        const char *at = text + n_read + 1;
        is_n = sscanf(at, "%18lld%n", &first, &n_read) == 1 && first > 0;
        text = at;
    }
    SY_REQUIRE(is_n && text[n_read] == '\0' && n > 0, SY_ERR_USAGE,
               "train: --profile '%s' is not N or N@STEP, such as 3 or 3@1000",
               sy_cli_text(cli, "profile"));
    spec->profile_steps = n;
    spec->profile_first = first;
cleanup:
    return st;
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    sy_run_settings settings = {0};
    sy_run_spec spec = {.settings = &settings,
                        .world = env->world,
                        .threads = env->threads,
                        .run_dir = sy_cli_text(cli, "run-dir"),
                        .resume = sy_cli_given(cli, "resume"),
                        .resume_from = sy_cli_text(cli, "resume"),
                        .init_from = sy_cli_text(cli, "init-from"),
                        .stop = sy_env_stop_requested};
    bool stopped = false;

    if (sy_cli_given(cli, "help-config") || sy_cli_given(cli, "markdown")) {
        return env->world->rank == 0 ? print_config_help(sy_cli_given(cli, "markdown")) : SY_OK;
    }
    SY_REQUIRE(cli->n_operands == 1, SY_ERR_USAGE,
               "train: a configuration is missing; usage: switchyard train CONFIG.yaml");
    spec.overrides = sy_cli_list(cli, "set", &spec.n_overrides);
    SY_TRY(read_reset(cli, &spec.reset));
    SY_TRY(sy_cli_i64(cli, "skip-batches", 0, (int64_t)1 << 40, &spec.skip_batches));
    SY_REQUIRE(spec.skip_batches == 0 || spec.resume, SY_ERR_USAGE,
               "train: --skip-batches goes with --resume: it leaves out what the data has next");
    SY_TRY(read_profile(cli, &spec));
    SY_TRY(
        sy_settings_load(cli->operand[0], spec.overrides, spec.n_overrides, env->world, &settings));
    SY_TRY(sy_env_catch_signals());
    SY_TRY(sy_run_train(&spec, &stopped));
    *exit_code = stopped ? SY_EXIT_STOPPED : 0;
cleanup:
    sy_run_settings_free(&settings);
    return st;
}

static const sy_option options[] = {
    {"set", SY_OPTION_LIST, "KEY=VALUE", "Override a key of the configuration: --set moe.top_k=1."},
    {"run-dir", SY_OPTION_VALUE, "DIR",
     "Where the run lives (default: run.dir, or runs/<run.name>)."},
    {"resume", SY_OPTION_OPTIONAL, "[CKPT]",
     "Continue from the newest valid checkpoint, or from CKPT."},
    {"reset", SY_OPTION_VALUE, "LIST",
     "With --resume: begin anew with some of optimizer (moments), schedule (learning rate), data "
     "(position), as in optimizer,data."},
    {"skip-batches", SY_OPTION_VALUE, "N",
     "With --resume: leave out the next N global batches of the data."},
    {"init-from", SY_OPTION_VALUE, "CKPT", "Take the weights of a checkpoint and start at step 0."},
    {"profile", SY_OPTION_VALUE, "N[@STEP]",
     "Write N steps of every rank to RUN_DIR/trace.json, for ui.perfetto.dev; without @STEP those "
     "behind the first two."},
    {"help-config", SY_OPTION_FLAG, NULL,
     "Print every key of the configuration with its default and meaning."},
    {"markdown", SY_OPTION_FLAG, NULL, "The same as Markdown."},
    {0},
};

const sy_command sy_cmd_train = {.name = "train",
                                 .operands = "CONFIG.yaml",
                                 .help = "Train a model; under mpirun on all ranks.",
                                 .max_operands = 1,
                                 .options = options,
                                 .run = run};

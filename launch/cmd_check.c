/* check: proof on the user's own configuration that a run does not depend on how it is spread over
   ranks, and that its gradients are those of its loss. */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/log.h"
#include "launch/check_impl.h"
#include "launch/cli.h"
#include "launch/settings.h"
#include "parallel/agree.h"
#include "train/batch_ramp.h"

/* ---- the command line ---- */

static sy_status check_operands(const sy_cli *cli)
{
    static const char *const names[] = {"layout", "gradients"};
    sy_status st = SY_OK;
    const char *what = cli->operand[0], *near = sy_nearest_name(what, names, 2);
    SY_REQUIRE(strcmp(what, "layout") == 0 || strcmp(what, "gradients") == 0, SY_ERR_USAGE,
               "check: unknown check '%s' (did you mean '%s'?)", what,
               near != NULL ? near : "layout");
    SY_REQUIRE(cli->n_operands == 2, SY_ERR_USAGE,
               "check %s: a configuration is missing; usage: switchyard check %s CONFIG.yaml", what,
               what);
cleanup:
    return st;
}

/* An option of the other check. */
static sy_status check_options(const sy_cli *cli, const char *const *others, int32_t n)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < n; i++) {
        SY_REQUIRE(!sy_cli_given(cli, others[i]), SY_ERR_USAGE,
                   "check %s has no option --%s; see switchyard check --help", cli->operand[0],
                   others[i]);
    }
cleanup:
    return st;
}

static bool sets_key(const char *const *set, int32_t n, const char *key)
{
    for (int32_t i = 0; i < n; i++) {
        if (strncmp(set[i], key, strlen(key)) == 0 && set[i][strlen(key)] == '=') {
            return true;
        }
    }
    return false;
}

/* The configuration, on ref in double precision unless the user wants to see another backend. */
static sy_status load_settings(const sy_cli *cli, sy_comm *world, sy_run_settings *out)
{
    sy_status st = SY_OK;
    int32_t n_set = 0, n = 0;
    const char *const *set = sy_cli_list(cli, "set", &n_set);
    const char *backend = sy_cli_text(cli, "backend"), **overrides = NULL;
    char *device = NULL;
    SY_TRY(sy_agree(world, sy_alloc(n_set + 2, sizeof *overrides, (void **)&overrides)));
    if (!sets_key(set, n_set, "device.backend") || backend != NULL) {
        SY_TRY(sy_agree(
            world, sy_asprintf(&device, "device.backend=%s", backend != NULL ? backend : "ref")));
        overrides[n++] = device;
        if (backend == NULL || strcmp(backend, "ref") == 0) {
            overrides[n++] = "device.precision=auto";
        }
    }
    for (int32_t i = 0; i < n_set; i++) {
        overrides[n++] = set[i];
    }
    SY_TRY(sy_settings_load(cli->operand[1], overrides, n, world, out));
cleanup:
    sy_free(&device);
    sy_free(&overrides);
    return st;
}

static sy_status parse_layouts(const char *text, int32_t default_zero, sy_layout **out, int32_t *n)
{
    sy_status st = SY_OK;
    sy_layout *list = NULL;
    *n = 0;
    for (const char *at = text; at != NULL; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        SY_TRY(sy_realloc(*n + 1, sizeof *list, (void **)&list));
        SY_TRY(sy_layout_parse(at, strcspn(at, ","), default_zero, &list[(*n)++]));
    }
    *out = list;
    list = NULL;
cleanup:
    sy_free(&list);
    return st;
}

static sy_status take_i32(const sy_cli *cli, const char *name, int32_t max, int32_t *out)
{
    int64_t value = *out;
    sy_status st = sy_cli_i64(cli, name, 1, max, &value);
    *out = (int32_t)value;
    return st;
}

/* ---- the checks ---- */

static sy_status run_layout(const sy_cli *cli, sy_env *env, const sy_run_settings *settings)
{
    static const char *const others[] = {"samples", "sequences", "seq-len"};
    sy_status st = SY_OK;
    sy_layout *layouts = NULL;
    sy_layout_check check = {0};
    sy_layout_check_spec spec = {.settings = settings,
                                 .world = env->world,
                                 .threads = env->threads,
                                 .steps = 5,
                                 .progress = true};
    const char *text = sy_cli_text(cli, "layouts");
    char batch[64];
    SY_TRY(check_options(cli, others, 3));
    SY_TRY(sy_cli_i64(cli, "steps", 1, 1000000, &spec.steps));
    st = text != NULL ? parse_layouts(text, settings->parallel->zero, &layouts, &spec.n_layouts)
                      : sy_layouts_all(settings, env->world->size, &layouts, &spec.n_layouts);
    SY_TRY(sy_agree(env->world, st));
    spec.layouts = layouts;
    sy_info("check layout: %d layouts, %ld steps each, of %s sequences of %d tokens on %s",
            spec.n_layouts, (long)spec.steps,
            sy_batch_ramp_format(settings, spec.steps, batch, sizeof batch),
            settings->model->seq_len, settings->device->backend);
    SY_TRY(sy_check_layout(&spec, &check));
    if (env->world->rank == 0) {
        SY_TRY(sy__print_layout_check(settings, &check, spec.steps, sy_cli_given(cli, "json")));
    }
    SY_TRY(sy_layout_check_verdict(&check));
cleanup:
    sy_layout_check_free(&check);
    sy_free(&layouts);
    return st;
}

static sy_status run_gradients(const sy_cli *cli, sy_env *env, const sy_run_settings *settings)
{
    static const char *const others[] = {"steps", "layouts"};
    sy_status st = SY_OK;
    sy_gradient_check check = {0};
    sy_gradient_check_spec spec = {.settings = settings,
                                   .world = env->world,
                                   .threads = env->threads,
                                   .samples = 3,
                                   .progress = true};
    SY_TRY(check_options(cli, others, 2));
    SY_TRY(take_i32(cli, "samples", 1000000, &spec.samples));
    SY_TRY(take_i32(cli, "sequences", 1 << 20, &spec.sequences));
    SY_TRY(take_i32(cli, "seq-len", 1 << 20, &spec.seq_len));
    SY_TRY(sy_check_gradients(&spec, &check));
    if (env->world->rank == 0) {
        SY_TRY(sy__print_gradient_check(settings, &check, sy_cli_given(cli, "json")));
    }
    SY_TRY(sy_gradient_check_verdict(&check));
cleanup:
    sy_gradient_check_free(&check);
    return st;
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    sy_run_settings settings = {0};
    (void)exit_code;
    SY_TRY(check_operands(cli));
    SY_TRY(load_settings(cli, env->world, &settings));
    SY_TRY(strcmp(cli->operand[0], "layout") == 0 ? run_layout(cli, env, &settings)
                                                  : run_gradients(cli, env, &settings));
cleanup:
    sy_run_settings_free(&settings);
    return st;
}

static const sy_option options[] = {
    {"steps", SY_OPTION_VALUE, "N", "layout: steps to train with each layout (5)."},
    {"layouts", SY_OPTION_VALUE, "LIST",
     "layout: RANKS:EP[:ZERO][:mbN][:VARIANT] with commas between, the first one is compared with: "
     "1:1,4:2,4:4:0,4:4:1:mb2,4:4:1:passes (default: all that this job allows). mbN: micro-batches "
     "of N; variants: passes, padded, exact, recompute=none|moe|block."},
    {"samples", SY_OPTION_VALUE, "N", "gradients: coordinates per parameter (3)."},
    {"sequences", SY_OPTION_VALUE, "N", "gradients: sequences of the batch (one per rank, 2)."},
    {"seq-len", SY_OPTION_VALUE, "N", "gradients: tokens of a sequence (the model's, at most 16)."},
    {"backend", SY_OPTION_VALUE, "NAME", "Where to compute (default: ref, in double precision)."},
    {"set", SY_OPTION_LIST, "KEY=VALUE", "Override a key of the configuration."},
    {"json", SY_OPTION_FLAG, NULL, "Print one JSON object."},
    {0},
};

const sy_command sy_cmd_check = {
    .name = "check",
    .operands = "layout|gradients CONFIG.yaml",
    .help = "Show that losses and gradients do not depend on the layout, or that the gradients are "
            "those of the loss.",
    .min_operands = 1,
    .max_operands = 2,
    .options = options,
    .run = run};

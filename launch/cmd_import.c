/* import: a Hugging Face folder becomes a checkpoint. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "launch/output.h"
#include "launch/settings.h"
#include "parallel/agree.h"
#include "train/train_config.h"
#include "upcycle/transfer.h"

/* What config.json says with --set, and the vocabulary that it says without. */
static sy_status parse(const sy_cli *cli, const sy_source *source, sy_run_settings *out,
                       int32_t *vocab_size)
{
    sy_status st = SY_OK;
    sy_run_settings own = {0};
    int32_t n = 0;
    const char *const *set = sy_cli_list(cli, "set", &n);
    const char *yaml = source->yaml;
    SY_TRY(sy_run_settings_parse(yaml, strlen(yaml), "config.json", NULL, 0, &own));
    SY_TRY(sy_run_settings_parse(yaml, strlen(yaml), "config.json", set, n, out));
    SY_TRY(sy_check_same_function("import", source->path, own.config, out->config));
    *vocab_size = own.model->vocab_size;
    if (out->model->vocab_size < *vocab_size) {
        SY_TRY(sy_config_error(out->config, "model.vocab_size",
                               "model.vocab_size %d is smaller than the %d of '%s': rows may be "
                               "added, not left out",
                               out->model->vocab_size, *vocab_size, source->path));
    }
cleanup:
    sy_run_settings_free(&own);
    return st;
}

/* A source that is a file would be taken for a checkpoint. */
static sy_status check_source(const char *path)
{
    sy_status st = SY_OK;
    struct stat info;
    SY_REQUIRE(stat(path, &info) != 0 || S_ISDIR(info.st_mode), SY_ERR_USAGE,
               "import: '%s' is a file; give a Hugging Face folder", path);
cleanup:
    return st;
}

static void print_receipt(const char *out, const char *from, const sy_transfer_receipt *r)
{
    char size[32], rate[32];
    printf("wrote %s: %ld parameters in %ld tensors, %s in %s, from %s; %.1f s, %s/s\n", out,
           (long)r->n_params, (long)r->n_tensors,
           sy_format_bytes((double)r->n_bytes, size, sizeof size), sy_dtype_name(r->dtype), from,
           r->seconds, sy_format_bytes((double)r->n_bytes / r->seconds, rate, sizeof rate));
    fflush(stdout);
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    sy_comm *world = env->world;
    sy_output_progress progress = {.what = "import"};
    sy_source *source = NULL;
    sy_run_settings settings = {0};
    sy_transfer_receipt receipt;
    char *yaml = NULL;
    sy_import_spec spec = {.comm = world, .progress = sy_output_progress_update};
    (void)exit_code;
    SY_TRY(sy_output_path(cli, world, false, &spec.out));
    SY_TRY(sy_agree(world, world->rank == 0 ? check_source(cli->operand[0]) : SY_OK));
    SY_TRY(sy_source_open_on(cli->operand[0], sy_cli_text(cli, "adapter-base"), world, &source));
    SY_REQUIRE(source->base != NULL || !sy_cli_given(cli, "adapter-base"), SY_ERR_USAGE,
               "import: --adapter-base goes with an adapter, which '%s' is not", source->path);
    SY_TRY(sy_agree(world, parse(cli, source, &settings, &spec.vocab_size)));
    SY_TRY(sy_agree(world, sy_config_echo(settings.config, &yaml)));
    spec.source = source;
    spec.model = settings.model;
    spec.moe = settings.moe;
    spec.config_yaml = yaml;
    spec.progress_self = &progress;
    st = sy_import(&spec, &receipt);
    sy_progress_destroy(&progress.line);
    SY_TRY(st);
    if (world->rank == 0) {
        print_receipt(spec.out, source->form, &receipt);
    }
cleanup:
    sy_free(&yaml);
    sy_run_settings_free(&settings);
    sy_source_close(&source);
    return st;
}

static const sy_option options[] = {
    {"output", SY_OPTION_VALUE, "OUT.h5", "The checkpoint to write; must not exist."},
    {"adapter-base", SY_OPTION_VALUE, "MODEL",
     "The model that a LoRA adapter changes (default: its base_model_name_or_path)."},
    {"set", SY_OPTION_LIST, "KEY=VALUE",
     "Override a key of the configuration that config.json gives (model.seq_len, ...); a larger "
     "model.vocab_size adds rows to embedding and head, the mean of the others."},
    {0},
};

const sy_command sy_cmd_import = {
    .name = "import",
    .operands = "HF_DIR -o OUT.h5",
    .help = "Turn a Hugging Face model, or an adapter merged into its base, into "
            "a checkpoint.",
    .min_operands = 1,
    .max_operands = 1,
    .options = options,
    .run = run};

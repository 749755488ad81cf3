/* export: a checkpoint becomes a Hugging Face folder that transformers and its kin load. */
#include <stdio.h>
#include <string.h>

#include "checkpoint/checkpoint.h"
#include "core/alloc.h"
#include "launch/output.h"
#include "parallel/agree.h"
#include "train/run.h"
#include "upcycle/transfer.h"

static sy_status read_type(const sy_cli *cli, sy_dtype *out)
{
    static const struct {
        const char *name;
        sy_dtype dtype;
    } types[] = {{"bf16", SY_BF16}, {"fp32", SY_F32}, {"fp16", SY_F16}};
    sy_status st = SY_OK;
    const char *text = sy_cli_text(cli, "dtype");
    *out = SY_N_DTYPES;
    for (int32_t i = 0; text != NULL && i < 3; i++) {
        *out = strcmp(text, types[i].name) == 0 ? types[i].dtype : *out;
    }
    SY_REQUIRE(text == NULL || *out != SY_N_DTYPES, SY_ERR_USAGE,
               "export: --dtype '%s' is not one of bf16, fp32, fp16", text);
cleanup:
    return st;
}

/* The architecture that the checkpoint was imported from, where it (still) holds the model; -1:
   none. Rank 0. */
static int32_t source_arch(const char *path, const sy_run_settings *s)
{
    sy_hf_arch arch = SY_N_HF_ARCHS;
    void *bytes = NULL;
    char *yaml = NULL;
    int64_t n = 0;
    bool found = sy_checkpoint_read_blob(path, "config.json", &bytes, &n) == SY_OK &&
                 bytes != NULL &&
                 sy_hf_config_read("config.json", bytes, (size_t)n, &arch, &yaml) == SY_OK &&
                 sy_hf_can_hold(arch, s->model, s->moe) == SY_OK;
    sy_error_clear();
    sy_free(&yaml);
    sy_free(&bytes);
    return found ? (int32_t)arch : -1;
}

static sy_status choose(const sy_cli *cli, const char *path, const sy_run_settings *s,
                        sy_comm *world, sy_hf_arch *out)
{
    sy_status st = SY_OK;
    const char *name = sy_cli_text(cli, "architecture");
    int32_t source = name == NULL && world->rank == 0 ? source_arch(path, s) : -1;
    SY_TRY(sy_host_broadcast(world, &source, sizeof source, 0, "architecture"));
    if (name != NULL) {
        SY_TRY(sy_hf_arch_parse(name, out));
        SY_TRY(sy_hf_can_hold(*out, s->model, s->moe));
    } else if (source >= 0) {
        *out = (sy_hf_arch)source;
    } else {
        SY_TRY(sy_hf_choose(s->model, s->moe, out));
    }
cleanup:
    return st;
}

static void print_receipt(const sy_export_spec *spec, const sy_transfer_receipt *r)
{
    char size[32], rate[32];
    printf("wrote %s: %s, %ld parameters in %ld tensors, %s in %s; %.1f s, %s/s\n", spec->out,
           sy_hf_arch_name(spec->arch), (long)r->n_params, (long)r->n_tensors,
           sy_format_bytes((double)r->n_bytes, size, sizeof size), sy_dtype_name(r->dtype),
           r->seconds, sy_format_bytes((double)r->n_bytes / r->seconds, rate, sizeof rate));
    if (r->n_rounded > 0) {
        printf("%ld values were rounded to %s, by %.1e of their size at most\n", (long)r->n_rounded,
               sy_dtype_name(r->dtype), r->largest_rounding);
    }
    fflush(stdout);
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    static const char *const without[] = {"model.mtp_layers=0", "train.mtp_phases=null"};
    sy_status st = SY_OK;
    sy_comm *world = env->world;
    sy_output_progress progress = {.what = "export"};
    sy_run_settings settings = {0};
    sy_transfer_receipt receipt;
    char *path = NULL;
    sy_export_spec spec = {
        .comm = world, .progress = sy_output_progress_update, .progress_self = &progress};
    (void)exit_code;
    SY_TRY(read_type(cli, &spec.dtype));
    SY_TRY(sy_cli_i64(cli, "max-shard-bytes", 1, INT64_MAX, &spec.max_shard_bytes));
    SY_TRY(sy_output_path(cli, world, true, &spec.out));
    SY_TRY(sy_find_model(cli->operand[0], world, &path));
    SY_TRY(sy_checkpoint_settings(path, without, sy_cli_given(cli, "drop-mtp") ? 2 : 0, world,
                                  &settings));
    SY_TRY(choose(cli, path, &settings, world, &spec.arch));
    spec.checkpoint = path;
    spec.model = settings.model;
    spec.moe = settings.moe;
    st = sy_export(&spec, &receipt);
    sy_progress_destroy(&progress.line);
    SY_TRY(st);
    if (world->rank == 0) {
        print_receipt(&spec, &receipt);
    }
cleanup:
    sy_run_settings_free(&settings);
    sy_free(&path);
    return st;
}

static const sy_option options[] = {
    {"output", SY_OPTION_VALUE, "HF_DIR", "The folder to write; must not exist."},
    {"dtype", SY_OPTION_VALUE, "TYPE",
     "bf16, fp32 or fp16 (default: each tensor as it is). fp32 comes from the "
     "optimizer's masters where there are any."},
    {"architecture", SY_OPTION_VALUE, "NAME",
     "MixtralForCausalLM, ... (default: the one it was imported from, else the first that holds "
     "the model without loss)."},
    {"drop-mtp", SY_OPTION_FLAG, NULL,
     "Leave out the modules that predict further tokens (model.mtp_layers), which only training "
     "and speculative decoding need."},
    {"max-shard-bytes", SY_OPTION_VALUE, "N", "Largest file of weights (default 5e9)."},
    {0},
};

const sy_command sy_cmd_export = {.name = "export",
                                  .operands = "CKPT -o HF_DIR",
                                  .help = "Turn a checkpoint into a Hugging Face folder.",
                                  .min_operands = 1,
                                  .max_operands = 1,
                                  .options = options,
                                  .run = run};

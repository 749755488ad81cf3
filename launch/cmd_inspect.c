#include <jansson.h>
#include <stdio.h>

#include "checkpoint/checkpoint.h"
#include "core/alloc.h"
#include "launch/cli.h"
#include "parallel/param.h"
#include "train/run.h"

static int64_t numel(const sy_checkpoint_entry *entry)
{
    int64_t n = 1;
    for (int32_t i = 0; i < entry->n_dim; i++) {
        n *= entry->shape[i];
    }
    return n;
}

static bool is_model(const sy_checkpoint_entry *entry)
{
    return strncmp(entry->path, "model/", 6) == 0 ||
           (strncmp(entry->path, "members/", 8) == 0 && strcmp(entry->path, "members/prior") != 0);
}

static void print_shape(const sy_checkpoint_entry *entry)
{
    putchar('[');
    for (int32_t i = 0; i < entry->n_dim; i++) {
        printf("%s%ld", i > 0 ? ", " : "", (long)entry->shape[i]);
    }
    printf("]\n");
}

static void print_text(const char *path, const sy_checkpoint_info *info, bool params)
{
    int64_t n_model = 0, n_bytes = 0;
    for (int32_t i = 0; i < info->n_entries; i++) {
        n_model += is_model(&info->entry[i]) ? numel(&info->entry[i]) : 0;
        n_bytes += numel(&info->entry[i]) * (int64_t)sy_dtype_bytes(info->entry[i].dtype);
    }
    printf("%s\n  kind        %s\n  step        %ld\n  tokens seen %ld\n  created     %s by %s\n"
           "  parameters  %ld\n  bytes       %ld in %d datasets\n",
           path, info->kind, (long)info->step, (long)info->tokens_seen, info->created,
           info->producer, (long)n_model, (long)n_bytes, info->n_entries);
    if (info->n_entries > 0 && strcmp(info->entry[info->n_entries - 1].path, "x/receipt") == 0) {
        printf("  receipt     of upcycle or merge (--receipt)\n");
    }
    for (int32_t i = 0; params && i < info->n_entries; i++) {
        printf("  /%-55s %-5s ", info->entry[i].path, sy_dtype_name(info->entry[i].dtype));
        print_shape(&info->entry[i]);
    }
    printf("\nconfiguration:\n%s", info->config_yaml);
}

static json_t *entry_json(const sy_checkpoint_entry *entry)
{
    json_t *shape = json_array();
    char path[SY_PARAM_NAME + 32];
    for (int32_t d = 0; d < entry->n_dim; d++) {
        json_array_append_new(shape, json_integer(entry->shape[d]));
    }
    snprintf(path, sizeof path, "/%s", entry->path);
    return json_pack("{s:s, s:o, s:s}", "path", path, "shape", shape, "dtype",
                     sy_dtype_name(entry->dtype));
}

static sy_status print_json(const sy_checkpoint_info *info)
{
    sy_status st = SY_OK;
    json_t *params = json_array(), *all = NULL;
    for (int32_t i = 0; i < info->n_entries; i++) {
        if (is_model(&info->entry[i])) {
            json_array_append_new(params, entry_json(&info->entry[i]));
        }
    }
    all = json_pack("{s:s, s:I, s:s, s:o}", "kind", info->kind, "step", (json_int_t)info->step,
                    "config", info->config_yaml, "params", params);
    SY_REQUIRE(all != NULL && json_dumpf(all, stdout, JSON_COMPACT) == 0, SY_ERR_IO,
               "the description cannot be written as JSON");
    putchar('\n');
cleanup:
    json_decref(all);
    return st;
}

static sy_status print_receipt(const char *path)
{
    sy_status st = SY_OK;
    char *text = NULL;
    SY_TRY(sy_checkpoint_read_receipt(path, &text));
    SY_REQUIRE(text != NULL, SY_ERR_USAGE,
               "checkpoint '%s' has no receipt: upcycle and merge write one", path);
    puts(text);
cleanup:
    sy_free(&text);
    return st;
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    sy_checkpoint_info info = {0};
    char *path = NULL;
    (void)exit_code;
    SY_TRY(sy_find_checkpoint(cli->operand[0], env->world, &path));
    if (sy_cli_given(cli, "receipt")) {
        SY_TRY(print_receipt(path));
        goto cleanup;
    }
    SY_TRY(sy_checkpoint_info_read(path, &info));
    if (sy_cli_given(cli, "json")) {
        SY_TRY(print_json(&info));
    } else {
        print_text(path, &info, sy_cli_given(cli, "params"));
    }
cleanup:
    sy_checkpoint_info_free(&info);
    sy_free(&path);
    return st;
}

static const sy_option options[] = {
    {"params", SY_OPTION_FLAG, NULL, "List every dataset with its type and shape."},
    {"json", SY_OPTION_FLAG, NULL, "Print one JSON object."},
    {"receipt", SY_OPTION_FLAG, NULL, "Print the receipt of upcycle or merge, a JSON object."},
    {0},
};

const sy_command sy_cmd_inspect = {.name = "inspect",
                                   .operands = "CKPT",
                                   .help = "What is in a checkpoint.",
                                   .min_operands = 1,
                                   .max_operands = 1,
                                   .options = options,
                                   .alone = true,
                                   .run = run};

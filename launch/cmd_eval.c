#include <jansson.h>
#include <math.h>
#include <stdio.h>

#include "checkpoint/checkpoint.h"
#include "core/alloc.h"
#include "launch/cli.h"
#include "launch/model_load.h"
#include "parallel/agree.h"
#include "train/eval.h"

typedef struct result {
    const char *path;
    sy_eval_result r;
} result;

static void print_table(const sy_loaded_model *model, const result *results, int32_t n)
{
    printf("checkpoint %s, step %ld\n", model->path, (long)model->step);
    for (int32_t i = 0; i < n; i++) {
        const sy_eval_result *r = &results[i].r;
        printf("%-40s loss %.6f  perplexity %.4f  tokens %ld  drop %.2f %%\n", results[i].path,
               r->loss, exp(r->loss), (long)r->tokens, 100 * r->drop_fraction);
    }
}

/* The name of a set: the last part of its path. */
static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL && slash[1] != '\0' ? slash + 1 : path;
}

static sy_status print_json(const sy_loaded_model *model, const result *results, int32_t n)
{
    sy_status st = SY_OK;
    json_t *sets = json_array(), *all = NULL;
    for (int32_t i = 0; i < n; i++) {
        const sy_eval_result *r = &results[i].r;
        json_array_append_new(sets, json_pack("{s:s, s:s, s:I, s:f, s:f, s:f}", "name",
                                              base_name(results[i].path), "path", results[i].path,
                                              "tokens", (json_int_t)r->tokens, "loss", r->loss,
                                              "perplexity", exp(r->loss), "drop_fraction",
                                              r->drop_fraction));
    }
    all = json_pack("{s:s, s:I, s:o}", "checkpoint", model->path, "step", (json_int_t)model->step,
                    "sets", sets);
    SY_REQUIRE(all != NULL && json_dumpf(all, stdout, JSON_COMPACT | JSON_REAL_PRECISION(17)) == 0,
               SY_ERR_IO, "the results cannot be written as JSON");
    putchar('\n');
cleanup:
    json_decref(all);
    return st;
}

static sy_status eval_path(sy_loaded_model *model, const char *path, sy_eval_result *out)
{
    sy_status st = SY_OK;
    const sy_run_settings *s = &model->settings;
    sy_eval_set set = {0};
    SY_TRY(sy_eval_set_open(model->engine, base_name(path), path, s->train->micro_batch,
                            s->train->global_batch, s->data->mask_documents, &set));
    SY_TRY(sy_evaluate(model->engine, &set, s->train->eval_batches, NULL, NULL, out));
cleanup:
    sy_eval_set_close(&set);
    return st;
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    sy_loaded_model model = {0};
    result *results = NULL;
    int32_t n = 0, n_set = 0;
    const char *const *paths = sy_cli_list(cli, "data", &n);
    const char *const *set = sy_cli_list(cli, "set", &n_set);

    (void)exit_code;
    SY_REQUIRE(n > 0, SY_ERR_USAGE, "eval: --data names no data to evaluate on");
    SY_TRY(sy_alloc(n, sizeof *results, (void **)&results));
    SY_TRY(sy_model_load(cli->operand[0], set, n_set, SY_USE_EVAL, env, &model));
    for (int32_t i = 0; i < n; i++) {
        results[i].path = paths[i];
        SY_TRY(eval_path(&model, paths[i], &results[i].r));
    }
    if (env->world->rank == 0 && sy_cli_given(cli, "json")) {
        SY_TRY(print_json(&model, results, n));
    } else if (env->world->rank == 0) {
        print_table(&model, results, n);
    }
cleanup:
    sy_loaded_model_free(&model);
    sy_free(&results);
    return st;
}

static const sy_option options[] = {
    {"data", SY_OPTION_LIST, "PATH...", "Token files (the PREFIX given to tokenize -o)."},
    {"set", SY_OPTION_LIST, "KEY=VALUE", "Override a key of the checkpoint's configuration."},
    {"json", SY_OPTION_FLAG, NULL, "Print one JSON object."},
    {0},
};

const sy_command sy_cmd_eval = {.name = "eval",
                                .operands = "CKPT --data PATH...",
                                .help = "Loss, perplexity and drops of a checkpoint on data sets.",
                                .min_operands = 1,
                                .max_operands = 1,
                                .options = options,
                                .greedy_lists = true,
                                .run = run};

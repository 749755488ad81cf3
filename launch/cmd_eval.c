#include <jansson.h>
#include <math.h>
#include <stdio.h>

#include "checkpoint/checkpoint.h"
#include "core/alloc.h"
#include "launch/choices.h"
#include "launch/cli.h"
#include "launch/model_load.h"
#include "parallel/agree.h"
#include "train/routed.h"

typedef struct result {
    const char *path;
    sy_eval_result r;
    double *loss, *weight; /* [members] of an ensemble */
    double *share;         /* [1 + layers, groups] of a MoE's choices: in all layers, in each */
} result;

static void print_members(const sy_loaded_model *model, const result *r)
{
    for (int32_t j = 0; j < model->ensemble.n; j++) {
        printf("  member %-3d loss %.6f  mean weight %.4f\n", j, r->loss[j], r->weight[j]);
    }
}

static void print_shares(const sy_loaded_model *model, const result *r)
{
    char name[SY_EXPERT_LABEL + 1];
    const int32_t n = r->share != NULL ? sy_routed_groups(&model->settings) : 0;
    if (n > 0) {
        printf("  routed to %s:", model->settings.moe->expert_labels.n > 0 ? "" : "expert");
    }
    for (int32_t g = 0; g < n; g++) {
        printf("%s %s %.1f %%", g > 0 ? "," : "", sy_routed_name(&model->settings, g, name),
               100 * r->share[g]);
    }
    printf(n > 0 ? "\n" : "");
}

typedef struct quiz_result {
    const char *path;
    sy_choices_result r;
} quiz_result;

static void print_table(const sy_loaded_model *model, const result *results, int32_t n,
                        const quiz_result *quizzes, int32_t n_quizzes)
{
    printf("checkpoint %s, step %ld\n", model->path, (long)model->step);
    for (int32_t i = 0; i < n; i++) {
        const sy_eval_result *r = &results[i].r;
        printf("%-40s loss %.6f  perplexity %.4f  tokens %ld  drop %.2f %%\n", results[i].path,
               r->loss, exp(r->loss), (long)r->tokens, 100 * r->drop_fraction);
        print_members(model, &results[i]);
        print_shares(model, &results[i]);
    }
    for (int32_t i = 0; i < n_quizzes; i++) {
        const sy_choices_result *r = &quizzes[i].r;
        printf("%-40s accuracy %.2f %%  by likelihood per byte %.2f %%  questions %ld\n",
               quizzes[i].path, 100 * r->accuracy, 100 * r->accuracy_per_byte, (long)r->questions);
    }
}

/* The name of a set: the last part of its path. */
static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL && slash[1] != '\0' ? slash + 1 : path;
}

/* JSON has no NaN and no infinity. */
static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *members_json(const sy_loaded_model *model, const result *r)
{
    json_t *list = json_array();
    for (int32_t j = 0; j < model->ensemble.n; j++) {
        json_array_append_new(list, json_pack("{s:o, s:o}", "loss", number(r->loss[j]), "weight",
                                              number(r->weight[j])));
    }
    return list;
}

/* Each label (or expert) with its share of all choices, and of those of each MoE layer. */
static json_t *shares_json(const sy_loaded_model *model, const result *r)
{
    const sy_run_settings *s = &model->settings;
    const int32_t n = sy_routed_groups(s);
    char name[SY_EXPERT_LABEL + 1];
    json_t *list = json_array();
    for (int32_t g = 0; g < n; g++) {
        json_t *layers = json_array();
        for (int32_t i = 0; i < s->model->layers; i++) {
            if (sy_moe_config_layer(s->moe, i)) {
                json_array_append_new(layers, json_real(r->share[(i + 1) * n + g]));
            }
        }
        json_array_append_new(list,
                              json_pack("{s:s, s:f, s:o}", "label", sy_routed_name(s, g, name),
                                        "share", r->share[g], "layers", layers));
    }
    return list;
}

static json_t *set_json(const sy_loaded_model *model, const result *result)
{
    const sy_eval_result *r = &result->r;
    json_t *set =
        json_pack("{s:s, s:s, s:I, s:o, s:o, s:o}", "name", base_name(result->path), "path",
                  result->path, "tokens", (json_int_t)r->tokens, "loss", number(r->loss),
                  "perplexity", number(exp(r->loss)), "drop_fraction", number(r->drop_fraction));
    if (model->ensemble.n > 0) {
        json_object_set_new(set, "members", members_json(model, result));
    }
    if (result->share != NULL) {
        json_object_set_new(set, "routed", shares_json(model, result));
    }
    return set;
}

static json_t *quiz_json(const quiz_result *q)
{
    return json_pack("{s:s, s:s, s:I, s:f, s:f, s:o}", "name", base_name(q->path), "path", q->path,
                     "questions", (json_int_t)q->r.questions, "accuracy", q->r.accuracy,
                     "accuracy_per_byte", q->r.accuracy_per_byte, "nll", number(q->r.nll));
}

static sy_status print_json(const sy_loaded_model *model, const result *results, int32_t n,
                            const quiz_result *quizzes, int32_t n_quizzes)
{
    sy_status st = SY_OK;
    json_t *sets = json_array(), *all = NULL;
    for (int32_t i = 0; i < n; i++) {
        json_array_append_new(sets, set_json(model, &results[i]));
    }
    all = json_pack("{s:s, s:I, s:o}", "checkpoint", model->path, "step", (json_int_t)model->step,
                    "sets", sets);
    if (n_quizzes > 0) {
        json_t *list = json_array();
        for (int32_t i = 0; i < n_quizzes; i++) {
            json_array_append_new(list, quiz_json(&quizzes[i]));
        }
        json_object_set_new(all, "choices", list);
    }
    SY_REQUIRE(all != NULL && json_dumpf(all, stdout, JSON_COMPACT | JSON_REAL_PRECISION(17)) == 0,
               SY_ERR_IO, "the results cannot be written as JSON");
    putchar('\n');
cleanup:
    json_decref(all);
    return st;
}

static sy_status make_room(const sy_loaded_model *model, result *out)
{
    sy_status st = SY_OK;
    const int32_t n = model->ensemble.n;
    const int64_t groups = sy_routed_groups(&model->settings);
    if (n > 0) {
        SY_TRY(sy_alloc(n, sizeof *out->loss, (void **)&out->loss));
        SY_TRY(sy_alloc(n, sizeof *out->weight, (void **)&out->weight));
    } else if (groups > 0) {
        SY_TRY(sy_alloc((1 + model->settings.model->layers) * groups, sizeof *out->share,
                        (void **)&out->share));
    }
cleanup:
    return st;
}

static sy_status eval_path(sy_loaded_model *model, const char *path, int64_t stride, result *out)
{
    sy_status st = SY_OK;
    const sy_run_settings *s = &model->settings;
    const int64_t n_batches = s->train->eval_batches;
    const sy_data_valid from = {base_name(path), path, SY_SPLIT_ALL, (int32_t)stride};
    sy_eval_set set = {0};
    out->path = path;
    SY_TRY(sy_agree(model->engine->mesh->host, make_room(model, out)));
    SY_TRY(sy_eval_set_open(model->engine, &from, s->train->micro_batch, s->train->global_batch,
                            s->data->mask_documents, &set));
    if (model->ensemble.n > 0) {
        SY_TRY(sy_evaluate_ensemble(model->engine, &model->ensemble, &set, n_batches, &out->r,
                                    out->loss, out->weight));
    } else {
        SY_TRY(sy_evaluate(model->engine, &set, n_batches, NULL, NULL, &out->r));
    }
    for (int32_t i = -1; i < s->model->layers && out->share != NULL; i++) {
        sy_routed_shares(model->engine, i, out->share + (i + 1) * sy_routed_groups(s));
    }
cleanup:
    sy_eval_set_close(&set);
    return st;
}

static sy_status ask(const sy_loaded_model *model, const char *named, const char *const *paths,
                     int32_t n, quiz_result *out)
{
    sy_status st = SY_OK;
    sy_tokenizer *tokenizer = NULL;
    SY_REQUIRE(n == 0 || model->ensemble.n == 0, SY_ERR_USAGE,
               "eval: an ensemble answers no --choices");
    if (n > 0) {
        SY_TRY(sy_model_tokenizer(model, named, model->engine->mesh->host, &tokenizer));
    }
    for (int32_t i = 0; i < n; i++) {
        out[i].path = paths[i];
        SY_TRY(sy_choices_ask(model->engine, tokenizer, paths[i], &out[i].r));
    }
cleanup:
    sy_tokenizer_close(&tokenizer);
    return st;
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    sy_loaded_model model = {0};
    result *results = NULL;
    quiz_result *quizzes = NULL;
    int32_t n = 0, n_set = 0, n_quizzes = 0;
    int64_t stride = 0;
    const char *const *paths = sy_cli_list(cli, "data", &n);
    const char *const *set = sy_cli_list(cli, "set", &n_set);
    const char *const *quiz_paths = sy_cli_list(cli, "choices", &n_quizzes);

    (void)exit_code;
    SY_REQUIRE(n + n_quizzes > 0, SY_ERR_USAGE,
               "eval: --data names no data to evaluate on, and --choices no questions");
    SY_TRY(sy_cli_i64(cli, "stride", 1, INT32_MAX, &stride));
    SY_REQUIRE(stride == 0 || n > 0, SY_ERR_USAGE, "eval: --stride goes with --data");
    SY_TRY(sy_agree(env->world, sy_alloc(n, sizeof *results, (void **)&results)));
    SY_TRY(sy_agree(env->world, sy_alloc(n_quizzes, sizeof *quizzes, (void **)&quizzes)));
    SY_TRY(sy_model_load(cli->operand[0], set, n_set, SY_USE_EVAL, env, &model));
    SY_REQUIRE(stride <= model.settings.model->seq_len, SY_ERR_USAGE,
               "eval: --stride %ld is longer than model.seq_len %d", (long)stride,
               model.settings.model->seq_len);
    for (int32_t i = 0; i < n; i++) {
        SY_TRY(eval_path(&model, paths[i], stride, &results[i]));
    }
    SY_TRY(ask(&model, sy_cli_text(cli, "tokenizer"), quiz_paths, n_quizzes, quizzes));
    if (env->world->rank == 0 && sy_cli_given(cli, "json")) {
        SY_TRY(print_json(&model, results, n, quizzes, n_quizzes));
    } else if (env->world->rank == 0) {
        print_table(&model, results, n, quizzes, n_quizzes);
    }
cleanup:
    sy_loaded_model_free(&model);
    for (int32_t i = 0; i < n && results != NULL; i++) {
        sy_free(&results[i].share);
        sy_free(&results[i].weight);
        sy_free(&results[i].loss);
    }
    sy_free(&quizzes);
    sy_free(&results);
    return st;
}

static const sy_option options[] = {
    {"data", SY_OPTION_LIST, "PATH...", "Token files (the PREFIX given to tokenize -o)."},
    {"stride", SY_OPTION_VALUE, "N",
     "Sequences begin N tokens apart, and each token is predicted from the longest context that "
     "they give it (default: model.seq_len; they do not overlap)."},
    {"choices", SY_OPTION_LIST, "FILE...",
     "Multiple-choice questions: JSONL with \"context\", \"choices\" (texts) and \"answer\" (the "
     "number of the right one, from 0). A context has one token at least: where there is none, put "
     "a line feed."},
    {"tokenizer", SY_OPTION_VALUE, "NAME",
     "Of the questions, as of `tokenize` (data.tokenizer, or the one that came with the model)."},
    {"set", SY_OPTION_LIST, "KEY=VALUE", "Override a key of the checkpoint's configuration."},
    {"json", SY_OPTION_FLAG, NULL, "Print one JSON object."},
    {0},
};

const sy_command sy_cmd_eval = {.name = "eval",
                                .operands = "CKPT --data PATH...",
                                .help = "Loss on data sets, and to whose experts they went.",
                                .min_operands = 1,
                                .max_operands = 1,
                                .options = options,
                                .greedy_lists = true,
                                .run = run};

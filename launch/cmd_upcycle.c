/* upcycle: a dense checkpoint becomes a MoE's. Load, derive the configuration, fill, compare (the
   receipt), save. */
#include <stdio.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/tokenizer_files.h"
#include "core/alloc.h"
#include "launch/cli.h"
#include "launch/model_load.h"
#include "launch/output.h"
#include "parallel/agree.h"
#include "train/probe.h"
#include "train/run.h"
#include "upcycle/upcycle.h"

enum { PROBE_SEQUENCES = 4, PROBE_TOKENS = 256, MAX_DERIVED = 8 };

typedef struct job {
    const sy_cli *cli;
    sy_env *env;
    const char *out;
    double router_std;
    int64_t seed;               /* -1: run.seed */
    char *derived[MAX_DERIVED]; /* KEY=VALUE */
    int32_t n_derived;
    const char **overrides; /* derived, then --set */
    int32_t n_overrides;
    sy_loaded_model dense;
    sy_run_settings settings; /* of the MoE */
    char *config_yaml;
    sy_engine *moe;
} job;

/* ---- the command line ---- */

static sy_status check_method(const char *method)
{
    static const char *const known[] = {"copy", "noise", "drop", "granular"};
    if (method == NULL || strcmp(method, "copy") == 0) {
        return SY_OK;
    }
    for (int32_t i = 1; i < 4; i++) {
        if (strcmp(method, known[i]) == 0) {
            return sy_error(SY_ERR_USAGE,
                            "upcycle: --method %s is not part of this version; use copy", method);
        }
    }
    const char *near = sy_nearest_name(method, known, 4);
    return sy_error(SY_ERR_USAGE, "upcycle: unknown --method '%s' (did you mean '%s'?)", method,
                    near != NULL ? near : "copy");
}

/* Keys that have an option of their own. */
static sy_status check_overrides(const sy_cli *cli)
{
    static const char *const taken[][2] = {
        {"moe.experts=", "experts"}, {"moe.top_k=", "top-k"}, {"moe.layers=", "layers"}};
    sy_status st = SY_OK;
    int32_t n = 0;
    const char *const *set = sy_cli_list(cli, "set", &n);
    for (int32_t i = 0; i < n; i++) {
        for (int32_t k = 0; k < 3; k++) {
            SY_REQUIRE(strncmp(set[i], taken[k][0], strlen(taken[k][0])) != 0, SY_ERR_USAGE,
                       "upcycle: give '%s' as --%s", set[i], taken[k][1]);
        }
    }
cleanup:
    return st;
}

static sy_status read_options(job *j)
{
    sy_status st = SY_OK;
    const sy_cli *cli = j->cli;
    j->router_std = 0.02;
    j->seed = -1;
    SY_TRY(check_method(sy_cli_text(cli, "method")));
    SY_REQUIRE(sy_cli_given(cli, "experts"), SY_ERR_USAGE, "upcycle: --experts E is missing");
    SY_TRY(sy_cli_f64(cli, "router-init-std", 0, 10, &j->router_std));
    SY_TRY(sy_cli_i64(cli, "seed", 0, INT64_MAX, &j->seed));
    SY_TRY(check_overrides(cli));
    SY_TRY(sy_output_path(cli, j->env->world, &j->out));
cleanup:
    return st;
}

/* ---- the configuration ---- */

static bool user_sets(const job *j, const char *key)
{
    int32_t n = 0;
    const char *const *set = sy_cli_list(j->cli, "set", &n);
    for (int32_t i = 0; i < n; i++) {
        if (strncmp(set[i], key, strlen(key)) == 0 && set[i][strlen(key)] == '=') {
            return true;
        }
    }
    return false;
}

/* "key=value" before what the user sets. */
static sy_status derive(job *j, const char *key, const char *value)
{
    bool list = strchr(value, ',') != NULL && value[0] != '[';
    return sy_asprintf(&j->derived[j->n_derived++], list ? "%s=[%s]" : "%s=%s", key, value);
}

/* What the source's echo says about experts was not meant for this model where it depends on E, K
   and F. */
static sy_status derive_config(job *j, const sy_run_settings *source)
{
    sy_status st = SY_OK;
    int64_t experts = 0, top_k = source->moe->top_k;
    char text[32];
    SY_TRY(sy_cli_i64(j->cli, "experts", 1, 1 << 16, &experts));
    SY_TRY(sy_cli_i64(j->cli, "top-k", 1, 1 << 10, &top_k));
    snprintf(text, sizeof text, "%ld", (long)experts);
    SY_TRY(derive(j, "moe.experts", text));
    snprintf(text, sizeof text, "%ld", (long)top_k);
    SY_TRY(derive(j, "moe.top_k", text));
    if (sy_cli_given(j->cli, "layers")) {
        SY_TRY(derive(j, "moe.layers", sy_cli_text(j->cli, "layers")));
    }
    SY_TRY(derive(j, "moe.normalize_weights", top_k > 1 ? "true" : "false"));
    snprintf(text, sizeof text, "%d", source->model->ffn_hidden);
    SY_TRY(derive(j, "moe.expert_hidden", text));
cleanup:
    return st;
}

static sy_status collect_overrides(job *j)
{
    sy_status st = SY_OK;
    int32_t n = 0;
    const char *const *set = sy_cli_list(j->cli, "set", &n);
    SY_TRY(sy_alloc(j->n_derived + n, sizeof *j->overrides, (void **)&j->overrides));
    for (int32_t i = 0; i < j->n_derived + n; i++) {
        j->overrides[j->n_overrides++] = i < j->n_derived ? j->derived[i] : set[i - j->n_derived];
    }
cleanup:
    return st;
}

static sy_status check_settings(const sy_run_settings *s)
{
    sy_status st = SY_OK;
    if (s->moe->shared_experts > 0) {
        SY_TRY(sy_config_error(s->config, "moe.shared_experts",
                               "upcycle --method copy makes no shared experts"));
    }
    if (s->moe->expert_hidden != s->model->ffn_hidden) {
        SY_TRY(sy_config_error(s->config, "moe.expert_hidden",
                               "upcycle --method copy needs moe.expert_hidden %d as wide as the "
                               "dense model's ffn_hidden %d",
                               s->moe->expert_hidden, s->model->ffn_hidden));
    }
cleanup:
    return st;
}

/* The saved text says nothing of how many ranks did this; the engine's ep is as large as they
 * allow. */
static sy_status configure(job *j, const char *path)
{
    sy_status st = SY_OK;
    sy_comm *world = j->env->world;
    sy_run_settings source = {0};
    char text[16];
    SY_TRY(sy_checkpoint_settings(path, NULL, 0, world, &source));
    SY_REQUIRE(source.moe->experts == 0, SY_ERR_USAGE,
               "upcycle: '%s' is a MoE of %d experts already; give a dense checkpoint", path,
               source.moe->experts);
    SY_TRY(derive_config(j, &source));
    SY_TRY(collect_overrides(j));
    SY_TRY(sy_checkpoint_settings(path, j->overrides, j->n_overrides, world, &j->settings));
    SY_TRY(check_settings(&j->settings));
    SY_TRY(sy_config_echo(j->settings.config, &j->config_yaml));
    if (!user_sets(j, "parallel.ep")) {
        snprintf(text, sizeof text, "%d", sy_largest_ep(world->size, j->settings.moe->experts));
        SY_TRY(sy_config_default(j->settings.config, "parallel.ep", text));
    }
    SY_TRY(sy_parallel_config_check(j->settings.config, world->size, j->settings.moe->experts));
    if (j->seed < 0) {
        j->seed = j->settings.run->seed;
    }
cleanup:
    sy_run_settings_free(&source);
    return st;
}

/* ---- the models ---- */

/* What the user sets that is not about experts or layout, and a small batch. */
static sy_status load_dense(job *j, const char *path)
{
    sy_status st = SY_OK;
    int32_t n = 0, n_mine = 0;
    const char *const *set = sy_cli_list(j->cli, "set", &n);
    const char **mine = NULL;
    SY_TRY(sy_alloc(n + 1, sizeof *mine, (void **)&mine));
    for (int32_t i = 0; i < n; i++) {
        if (strncmp(set[i], "moe.", 4) != 0 && strncmp(set[i], "parallel.", 9) != 0) {
            mine[n_mine++] = set[i];
        }
    }
    mine[n_mine++] = "train.micro_batch=1";
    SY_TRY(sy_model_load(path, mine, n_mine, SY_USE_EVAL, j->env, &j->dense));
cleanup:
    sy_free(&mine);
    return st;
}

static sy_status fill(job *j, const sy_probe_spec *probe)
{
    sy_status st = SY_OK;
    sy_engine_spec spec = {.settings = &j->settings,
                           .world = j->env->world,
                           .use = SY_USE_EVAL,
                           .B = 1,
                           .S = probe->S,
                           .threads = j->env->threads};
    SY_TRY(sy_engine_create(&spec, &j->moe));
    SY_TRY(sy_agree(j->env->world, sy_upcycle_copy(&(sy_upcycle_spec){
                                       .dense = j->dense.engine->params,
                                       .moe = j->moe->params,
                                       .dense_stream = j->dense.engine->compute_stream,
                                       .moe_stream = j->moe->compute_stream,
                                       .router_std = j->router_std,
                                       .seed = (uint64_t)j->seed})));
cleanup:
    return st;
}

/* ---- the receipt ---- */

static double tolerance(const sy_engine *engine)
{
    return engine->compute == SY_F64 ? 1e-12 : engine->compute == SY_BF16 ? 1e-2 : 1e-5;
}

static void print_receipt(const job *j, const sy_probe_spec *probe, const sy_probe_gap *gap)
{
    char bound[32] = "none";
    if (sy_upcycle_preserves(j->settings.moe)) {
        snprintf(bound, sizeof bound, "%.0e", tolerance(j->moe));
    }
    printf("receipt: dense against MoE, %d sequences of %d random tokens on each of %d ranks, %s\n",
           probe->n_sequences, probe->S, j->env->world->size, sy_dtype_name(j->moe->compute));
    printf("          largest difference   relative to the largest   bound\n");
    printf("  logits  %-20.3e %-25.3e %s\n", gap->logits_abs, gap->logits_rel, bound);
    printf("  nll     %-20.3e %-25.3e %s\n", gap->nll_abs, gap->nll_rel, bound);
    if (!sy_upcycle_preserves(j->settings.moe)) {
        printf("  no bound: this configuration does not keep the dense model's function (it does "
               "with normalised weights, routed_scale 1 and no eval capacity)\n");
    }
    fflush(stdout);
}

static sy_status receipt(job *j, const sy_probe_spec *spec)
{
    sy_status st = SY_OK;
    sy_comm *world = j->env->world;
    sy_probe dense = {0}, moe = {0};
    sy_probe_gap gap;
    SY_TRY(sy_probe_run(j->dense.engine, spec, &dense));
    SY_TRY(sy_probe_run(j->moe, spec, &moe));
    SY_TRY(sy_probe_compare(&dense, &moe, world, &gap));
    if (world->rank == 0) {
        print_receipt(j, spec, &gap);
    }
    SY_REQUIRE(!sy_upcycle_preserves(j->settings.moe) ||
                   (gap.logits_rel <= tolerance(j->moe) && gap.nll_rel <= tolerance(j->moe)),
               SY_ERR_NUMERIC,
               "upcycle: the MoE does not compute what the dense model does: logits differ by %g, "
               "nll by %g, allowed is %g; nothing was written",
               gap.logits_rel, gap.nll_rel, tolerance(j->moe));
cleanup:
    sy_probe_free(&moe);
    sy_probe_free(&dense);
    return st;
}

/* ---- the file ---- */

static sy_status walk(void *self, sy_emit *emit, void *to)
{
    const job *j = self;
    return sy_params_walk(j->moe->params, "model", emit, to);
}

/* tokens_seen of the source. */
static sy_status read_tokens_seen(const job *j, int64_t *out)
{
    sy_status st = SY_OK, mine = SY_OK;
    sy_comm *world = j->env->world;
    sy_checkpoint_info info = {0};
    if (world->rank == 0) {
        mine = sy_checkpoint_info_read(j->dense.path, &info);
        *out = info.tokens_seen;
    }
    SY_TRY(sy_agree(world, mine));
    SY_TRY(sy_host_broadcast(world, out, sizeof *out, 0, "tokens seen"));
cleanup:
    sy_checkpoint_info_free(&info);
    return st;
}

static sy_status save(job *j)
{
    sy_status st = SY_OK;
    sy_comm *world = j->env->world;
    sy_tokenizer_files files = {0};
    sy_owner owner = {.name = "model", .self = j, .walk = walk};
    sy_state state = {.owners = &owner,
                      .n_owners = 1,
                      .step = j->dense.step,
                      .kind = "model",
                      .config_yaml = j->config_yaml};
    SY_TRY(read_tokens_seen(j, &state.tokens_seen));
    SY_TRY(sy_tokenizer_files_read(j->dense.path, world, &files));
    state.blobs = files.blob;
    state.n_blobs = files.n;
    SY_TRY(sy_checkpoint_save(j->out, &state, j->moe->mesh->io));
    if (world->rank == 0) {
        printf("wrote %s: %ld parameters, from %ld\n", j->out,
               (long)sy_params_count(j->moe->params, false),
               (long)sy_params_count(j->dense.engine->params, false));
    }
cleanup:
    sy_tokenizer_files_free(&files);
    return st;
}

/* ---- the command ---- */

static void release(job *j)
{
    sy_engine_destroy(&j->moe);
    sy_loaded_model_free(&j->dense);
    sy_free(&j->config_yaml);
    sy_run_settings_free(&j->settings);
    sy_free(&j->overrides);
    for (int32_t i = 0; i < j->n_derived; i++) {
        sy_free(&j->derived[i]);
    }
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    job j = {.cli = cli, .env = env};
    sy_probe_spec probe = {.n_sequences = PROBE_SEQUENCES};
    char *path = NULL;
    (void)exit_code;
    SY_TRY(read_options(&j));
    SY_TRY(sy_find_checkpoint(cli->operand[0], env->world, &path));
    SY_TRY(configure(&j, path));
    SY_TRY(load_dense(&j, path));
    probe.S = j.settings.model->seq_len < PROBE_TOKENS ? j.settings.model->seq_len : PROBE_TOKENS;
    probe.seed = (uint64_t)j.seed;
    SY_TRY(fill(&j, &probe));
    SY_TRY(receipt(&j, &probe));
    SY_TRY(save(&j));
cleanup:
    sy_free(&path);
    release(&j);
    return st;
}

static const sy_option options[] = {
    {"output", SY_OPTION_VALUE, "OUT.h5", "The checkpoint to write; must not exist."},
    {"experts", SY_OPTION_VALUE, "E", "Routed experts per MoE layer."},
    {"top-k", SY_OPTION_VALUE, "K", "Experts per token (default: the source's moe.top_k, 2)."},
    {"method", SY_OPTION_VALUE, "copy", "How the experts begin (default copy, the only one yet)."},
    {"layers", SY_OPTION_VALUE, "LAYERS",
     "Layers that become MoE: all, every:N or a list like 1,3,5 (default: the source's "
     "moe.layers, all)."},
    {"router-init-std", SY_OPTION_VALUE, "S", "Standard deviation of the new routers (0.02)."},
    {"seed", SY_OPTION_VALUE, "N", "Seed of routers and probe (default: the source's run.seed)."},
    {"set", SY_OPTION_LIST, "KEY=VALUE", "Override a key of the new configuration."},
    {0},
};

const sy_command sy_cmd_upcycle = {.name = "upcycle",
                                   .operands = "SRC -o OUT.h5 --experts E",
                                   .help = "Turn a dense checkpoint into a mixture of experts.",
                                   .min_operands = 1,
                                   .max_operands = 1,
                                   .options = options,
                                   .run = run};

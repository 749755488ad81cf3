/* merge: several trained models of one shape become one. Branch-Train-MiX (Sukhbaatar et al. 2024,
   arXiv 2403.07816): the dense MLPs side by side as experts, everything else the mean; or the mean
   of all; or all as they are, in one file. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "launch/ensemble.h"
#include "launch/expert_labels.h"
#include "launch/output.h"
#include "launch/router_data.h"
#include "parallel/agree.h"

enum { MAX_SOURCES = 256 };

typedef struct job {
    sy_grow grow;
    bool mix;      /* btx */
    bool apart;    /* ensemble: the models stay what they are */
    double *prior; /* [n] of an ensemble */
    int32_t n;     /* models that are merged; the seed model comes behind them */
    int64_t each;  /* experts of each */
    int64_t top_k; /* 0: as the first source says, 2 */
    int64_t seed;  /* -1: run.seed */
    const char *path[MAX_SOURCES];
} job;

/* ---- the command line ---- */

static sy_status read_method(job *j)
{
    static const char *const known[] = {"btx", "average", "ensemble"};
    sy_status st = SY_OK;
    const char *method = sy_cli_text(j->grow.cli, "method");
    SY_REQUIRE(method != NULL, SY_ERR_USAGE,
               "merge: --method btx, --method average or --method ensemble is missing");
    j->mix = strcmp(method, "btx") == 0;
    j->apart = strcmp(method, "ensemble") == 0;
    SY_REQUIRE(j->apart || !sy_cli_given(j->grow.cli, "prior"), SY_ERR_USAGE,
               "merge: --prior goes with --method ensemble");
    if (!j->mix && !j->apart && strcmp(method, "average") != 0) {
        const char *near = sy_nearest_name(method, known, 3);
        st = sy_error(SY_ERR_USAGE, "merge: unknown --method '%s' (did you mean '%s'?)", method,
                      near != NULL ? near : "btx");
    }
cleanup:
    return st;
}

static sy_status check_together(const sy_cli *cli)
{
    sy_status st = SY_OK;
    SY_REQUIRE(!sy_cli_given(cli, "always-on") || sy_cli_given(cli, "seed-model"), SY_ERR_USAGE,
               "merge: --always-on is of the seed model; give --seed-model M");
    SY_REQUIRE(!sy_cli_given(cli, "equal") || !sy_cli_given(cli, "top-k"), SY_ERR_USAGE,
               "merge: --equal routes every token to all experts; leave out --top-k");
    SY_REQUIRE(!sy_cli_given(cli, "equal") || !sy_cli_given(cli, "router-init-std"), SY_ERR_USAGE,
               "merge: with --equal the routers are zero; leave out --router-init-std");
    SY_REQUIRE(!sy_cli_given(cli, "equal") || !sy_cli_given(cli, "router-data"), SY_ERR_USAGE,
               "merge: with --equal the routers are zero; leave out --router-data");
cleanup:
    return st;
}

static sy_status read_options(job *j)
{
    static const char *const of_btx[] = {
        "experts-per-source", "top-k",       "layers",       "seed-model",
        "router-init-std",    "seed",        "equal",        "always-on",
        "keep-adapters",      "router-data", "router-scale", "router-tokens"};
    sy_status st = SY_OK;
    const sy_cli *cli = j->grow.cli;
    int32_t n = 0;
    const char *const *source = sy_cli_list(cli, "source", &n);
    j->grow.spec = (sy_recipe_spec){.router_std = 0.02, .base = -1, .granularity = 1};
    j->seed = -1;
    j->each = 1;
    SY_TRY(read_method(j));
    for (size_t i = 0; i < sizeof of_btx / sizeof of_btx[0] && !j->mix; i++) {
        SY_REQUIRE(!sy_cli_given(cli, of_btx[i]), SY_ERR_USAGE,
                   "merge: --%s goes with --method btx", of_btx[i]);
    }
    SY_REQUIRE(n >= 2, SY_ERR_USAGE, "merge: %s; give --source MODEL at least twice",
               n == 0 ? "there is no source" : "one source is nothing to merge");
    SY_REQUIRE(n < MAX_SOURCES, SY_ERR_USAGE, "merge: %d sources are more than %d", n,
               MAX_SOURCES - 1);
    SY_TRY(check_together(cli));
    SY_TRY(sy_cli_i64(cli, "experts-per-source", 1, 1 << 10, &j->each));
    SY_TRY(sy_cli_i64(cli, "top-k", 1, 1 << 10, &j->top_k));
    SY_TRY(sy_cli_f64(cli, "router-init-std", 0, 10, &j->grow.spec.router_std));
    SY_TRY(sy_cli_i64(cli, "seed", 0, INT64_MAX, &j->seed));
    if (sy_cli_given(cli, "equal")) {
        j->grow.spec.router_std = 0;
        j->top_k = n * j->each;
    }
    memcpy(j->path, source, (size_t)n * sizeof *source);
    j->n = n;
    SY_TRY(sy_ensemble_prior(sy_cli_text(cli, "prior"), n, &j->prior));
    if (sy_cli_given(cli, "seed-model")) {
        j->path[n] = sy_cli_text(cli, "seed-model");
        j->grow.spec.base = n++;
    }
    SY_TRY(sy_grow_open(&j->grow, j->path, n));
cleanup:
    return st;
}

/* ---- the configuration ---- */

/* The experts are what the adapters change, on the one MLP that they change. */
static sy_status keep_adapters(job *j)
{
    sy_status st = SY_OK;
    sy_grow *g = &j->grow;
    int64_t rank = 0;
    for (int32_t i = 0; i < j->n; i++) {
        const int64_t r = sy_source_adapter_rank(g->source[i]);
        rank = r > rank ? r : rank;
    }
    for (int32_t i = 0; i < j->n; i++) {
        SY_TRY(sy_source_keep_adapter(g->source[i], rank));
        SY_REQUIRE(strcmp(g->source[i]->base, g->source[0]->base) == 0, SY_ERR_USAGE,
                   "merge: --keep-adapters needs one base: '%s' changes '%s', '%s' changes '%s'",
                   g->source[0]->path, g->source[0]->base, g->source[i]->path, g->source[i]->base);
    }
    SY_TRY(sy_grow_derive(g, "moe.adapter_rank", "%ld", (long)rank));
cleanup:
    return st;
}

static sy_status derive_config(job *j)
{
    sy_status st = SY_OK;
    sy_grow *g = &j->grow;
    const sy_run_settings *source = &g->source_settings[0];
    for (int32_t i = 0; i < g->n_sources && j->mix; i++) {
        SY_REQUIRE(g->source_settings[i].moe->experts == 0, SY_ERR_USAGE,
                   "merge: '%s' is a MoE of %d experts; btx takes dense models", g->source[i]->path,
                   g->source_settings[i].moe->experts);
    }
    if (j->mix) {
        j->top_k = j->top_k > 0 ? j->top_k : source->moe->top_k;
        SY_TRY(sy_grow_derive(g, "moe.experts", "%ld", (long)(j->n * j->each)));
        SY_TRY(sy_grow_derive(g, "moe.top_k", "%ld", (long)j->top_k));
        SY_TRY(sy_grow_derive(g, "train.freeze", "null")); /* its patterns were for other tensors */
        SY_TRY(sy_grow_derive(g, "moe.normalize_weights", j->top_k > 1 ? "true" : "false"));
        SY_TRY(sy_grow_derive(g, "moe.expert_hidden", "%d", source->model->ffn_hidden));
        SY_TRY(sy_grow_derive_shared(g, sy_cli_given(g->cli, "always-on") ? 1 : 0));
        SY_TRY(sy_grow_label_experts(g, j->path, j->n));
        SY_TRY(sy_cli_given(g->cli, "keep-adapters") ? keep_adapters(j) : SY_OK);
        if (sy_cli_given(g->cli, "layers")) {
            SY_TRY(sy_grow_derive(g, "moe.layers", "%s", sy_cli_text(g->cli, "layers")));
        }
    }
cleanup:
    return st;
}

/* What the user has set after all must be what the options say. */
static sy_status check_experts(const job *j)
{
    sy_status st = SY_OK;
    const sy_run_settings *s = &j->grow.settings;
    if (s->moe->experts != j->n * j->each) {
        SY_TRY(sy_config_error(s->config, "moe.experts",
                               "moe.experts %d are not %ld of each of %d sources; give "
                               "--experts-per-source",
                               s->moe->experts, (long)j->each, j->n));
    }
    if (sy_cli_given(j->grow.cli, "equal") && s->moe->top_k != s->moe->experts) {
        SY_TRY(sy_config_error(s->config, "moe.top_k",
                               "moe.top_k %d: --equal routes every token to all %d experts",
                               s->moe->top_k, s->moe->experts));
    }
cleanup:
    return st;
}

/* Expert e is source e mod n, so that each rank of ep gets some of every source. */
static sy_status place_experts(job *j)
{
    sy_status st = SY_OK;
    sy_grow *g = &j->grow;
    if (j->mix) {
        SY_TRY(sy_alloc(j->n * j->each, sizeof *g->expert_source, (void **)&g->expert_source));
        for (int32_t e = 0; e < j->n * j->each; e++) {
            g->expert_source[e] = e % j->n;
        }
    }
cleanup:
    return st;
}

/* Text t is of experts t, t + n, ...: of one source, where there are as many or a multiple. */
static sy_status check_texts(const job *j)
{
    sy_status st = SY_OK;
    int32_t n = 0;
    (void)sy_cli_list(j->grow.cli, "router-data", &n);
    SY_REQUIRE(n % j->n == 0, SY_ERR_USAGE,
               "merge: --router-data is given %d times for %d sources; give it once for each, in "
               "their order",
               n, j->n);
cleanup:
    return st;
}

static sy_status configure(job *j)
{
    sy_status st = SY_OK;
    sy_grow *g = &j->grow;
    SY_TRY(sy_agree(g->env->world, derive_config(j)));
    SY_TRY(sy_grow_configure(g));
    g->spec.seed = (uint64_t)(j->seed >= 0 ? j->seed : g->settings.run->seed);
    SY_TRY(sy_agree(g->env->world, j->mix ? check_experts(j) : SY_OK));
    SY_TRY(sy_agree(g->env->world, place_experts(j)));
    if (j->mix) {
        SY_TRY(check_texts(j));
        SY_TRY(sy_grow_route(g));
    }
cleanup:
    return st;
}

/* An ensemble is its members as they are: there is nothing to prove. */
static sy_status write_ensemble(job *j, sy_transfer_receipt *written)
{
    sy_status st = SY_OK;
    const sy_grow *g = &j->grow;
    SY_TRY(sy_grow_ensemble(&j->grow, j->prior, written));
    SY_TRY(sy_grow_publish(&j->grow));
    for (int32_t s = 0; s < j->n && g->env->world->rank == 0; s++) {
        printf("  member %d, prior %.4g: %s, step %ld\n", s, j->prior[s], g->source[s]->path,
               (long)g->source[s]->step);
    }
cleanup:
    if (st != SY_OK && g->env->world->rank == 0) {
        (void)unlink(g->unproven); /* the first error is the one to tell */
    }
    return st;
}

static void print_end(const job *j, const sy_transfer_receipt *written)
{
    char size[32], rate[32];
    const sy_grow *g = &j->grow;
    printf("wrote %s: %ld parameters in %ld tensors, %s in %s; %.1f s, %s/s, and %.1f s for the "
           "receipt\n",
           g->out, (long)written->n_params, (long)written->n_tensors,
           sy_format_bytes((double)written->n_bytes, size, sizeof size),
           sy_dtype_name(written->dtype), written->seconds,
           sy_format_bytes((double)written->n_bytes / written->seconds, rate, sizeof rate),
           g->proof.seconds);
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    job j = {.grow = {.cli = cli, .env = env}};
    sy_transfer_receipt written;
    (void)exit_code;
    SY_TRY(read_options(&j));
    SY_TRY(configure(&j));
    SY_TRY(j.apart ? write_ensemble(&j, &written) : sy_grow_run(&j.grow, &written));
    if (env->world->rank == 0) {
        print_end(&j, &written);
    }
cleanup:
    sy_grow_close(&j.grow);
    sy_free(&j.prior);
    return st;
}

static const sy_option options[] = {
    {"output", SY_OPTION_VALUE, "OUT.h5", "The checkpoint to write; must not exist."},
    {"method", SY_OPTION_VALUE, "btx|average|ensemble",
     "btx: the MLPs become experts, everything else the mean; average: the mean of all; ensemble: "
     "all as they are, which eval mixes token by token."},
    {"source", SY_OPTION_LIST, "MODEL",
     "A model to merge: checkpoint, Hugging Face folder or LoRA adapter."},
    {"adapter-base", SY_OPTION_VALUE, "MODEL",
     "The model that a LoRA adapter changes (default: its base_model_name_or_path)."},
    {"seed-model", SY_OPTION_VALUE, "MODEL",
     "btx: take what is no expert from this model instead of the mean."},
    {"always-on", SY_OPTION_FLAG, NULL,
     "btx: the seed model's MLP is a shared expert beside the others; it makes half of the "
     "output."},
    {"equal", SY_OPTION_FLAG, NULL,
     "btx: every token goes to all experts with equal weights: top_k is their number, the routers "
     "are zero (train.freeze: 'layers/*/moe/router' keeps them so)."},
    {"keep-adapters", SY_OPTION_FLAG, NULL,
     "btx: the sources are LoRA adapters of one base, and stay so: the experts are their changes "
     "to its MLP, which all share (moe.adapter_rank)."},
    {"experts-per-source", SY_OPTION_VALUE, "N", "btx: experts made of each source (1)."},
    {"top-k", SY_OPTION_VALUE, "K",
     "btx: experts per token (default: the first source's moe.top_k, 2)."},
    {"layers", SY_OPTION_VALUE, "LAYERS",
     "btx: layers that become MoE: all, every:N or a list (default: the first source's moe.layers, "
     "all); the MLPs of the others are averaged."},
    {"router-init-std", SY_OPTION_VALUE, "S",
     "btx: standard deviation of what is drawn of the routers (0.02; with --router-data 0 where "
     "every "
     "expert has a text of its own)."},
    {"router-data", SY_OPTION_LIST, "PREFIX",
     "btx: token file of a text whose mean hidden states the routers begin with; give it once for "
     "each source, in their order: text t is of the experts e with e mod n = t."},
    {"router-scale", SY_OPTION_VALUE, "S",
     "btx: with --router-data, about the largest logit of a token (1)."},
    {"router-tokens", SY_OPTION_VALUE, "N", "btx: with --router-data, tokens of each text (4096)."},
    {"seed", SY_OPTION_VALUE, "N", "btx: seed of the routers (default: the first run.seed)."},
    {"prior", SY_OPTION_VALUE, "P1,P2,...",
     "ensemble: weight of each source at the start of a text; their sum is made 1 (all alike)."},
    {"set", SY_OPTION_LIST, "KEY=VALUE",
     "Override a key of the new configuration; a larger model.vocab_size adds rows to embedding "
     "and "
     "head, the mean of the others."},
    {0},
};

const sy_command sy_cmd_merge = {
    .name = "merge",
    .operands = "--method btx|average|ensemble --source A --source B -o OUT.h5",
    .help = "Merge several trained models into one.",
    .min_operands = 0,
    .max_operands = 0,
    .options = options,
    .run = run};

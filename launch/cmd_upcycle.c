/* upcycle: a dense model becomes a MoE. Open, derive the configuration, write, compare (the
   receipt), publish. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "launch/grow.h"
#include "launch/output.h"
#include "launch/router_data.h"
#include "moe/router.h"
#include "parallel/agree.h"

typedef struct job {
    sy_grow grow;
    int64_t experts, top_k, granularity, shared;
    int64_t seed; /* -1: run.seed */
} job;

/* ---- the command line ---- */

static sy_status read_method(const sy_cli *cli, sy_upcycle_method *out)
{
    static const char *const known[] = {"copy", "noise", "drop", "granular"};
    const char *method = sy_cli_text(cli, "method");
    for (int32_t i = 0; i < 4; i++) {
        if (method == NULL || strcmp(method, known[i]) == 0) {
            *out = (sy_upcycle_method)i;
            return SY_OK;
        }
    }
    const char *near = sy_nearest_name(method, known, 4);
    return sy_error(SY_ERR_USAGE, "upcycle: unknown --method '%s' (did you mean '%s'?)", method,
                    near != NULL ? near : "copy");
}

static sy_status read_optimizer(const sy_cli *cli, bool *carry)
{
    sy_status st = SY_OK;
    const char *text = sy_cli_text(cli, "optimizer");
    *carry = text != NULL && strcmp(text, "carry") == 0;
    SY_REQUIRE(text == NULL || *carry || strcmp(text, "fresh") == 0, SY_ERR_USAGE,
               "upcycle: --optimizer '%s' is neither carry nor fresh", text);
cleanup:
    return st;
}

/* Keys that have an option of their own. */
static sy_status check_overrides(const sy_cli *cli)
{
    static const char *const taken[][2] = {{"moe.experts=", "experts"},
                                           {"moe.top_k=", "top-k"},
                                           {"moe.layers=", "layers"},
                                           {"moe.shared_experts=", "shared-experts"}};
    sy_status st = SY_OK;
    int32_t n = 0;
    const char *const *set = sy_cli_list(cli, "set", &n);
    for (int32_t i = 0; i < n; i++) {
        for (int32_t k = 0; k < 4; k++) {
            SY_REQUIRE(strncmp(set[i], taken[k][0], strlen(taken[k][0])) != 0, SY_ERR_USAGE,
                       "upcycle: give '%s' as --%s", set[i], taken[k][1]);
        }
    }
cleanup:
    return st;
}

/* An option of one method only. */
static sy_status check_belongs(const sy_cli *cli, const char *option, bool belongs,
                               const char *method)
{
    return belongs || !sy_cli_given(cli, option)
               ? SY_OK
               : sy_error(SY_ERR_USAGE, "upcycle: --%s goes with --method %s", option, method);
}

static sy_status read_options(job *j)
{
    sy_status st = SY_OK;
    const sy_cli *cli = j->grow.cli;
    sy_recipe_spec *spec = &j->grow.spec;
    *spec = (sy_recipe_spec){.router_std = 0.02, .noise_std = 0.02};
    j->seed = -1;
    j->granularity = 1;
    SY_TRY(read_method(cli, &spec->method));
    spec->drop_ratio = spec->method == SY_UPCYCLE_DROP ? 0.5 : 0;
    spec->shuffle = sy_cli_given(cli, "shuffle");
    SY_REQUIRE(sy_cli_given(cli, "experts"), SY_ERR_USAGE, "upcycle: --experts E is missing");
    SY_TRY(sy_cli_i64(cli, "experts", 1, 1 << 16, &j->experts));
    SY_TRY(sy_cli_i64(cli, "granularity", 1, 1 << 10, &j->granularity));
    SY_TRY(sy_cli_f64(cli, "drop-ratio", 0, 1, &spec->drop_ratio));
    SY_TRY(sy_cli_f64(cli, "noise-std", 0, 10, &spec->noise_std));
    SY_TRY(sy_cli_f64(cli, "router-init-std", 0, 10, &spec->router_std));
    SY_TRY(sy_cli_i64(cli, "seed", 0, INT64_MAX, &j->seed));
    SY_TRY(check_belongs(cli, "drop-ratio", spec->method == SY_UPCYCLE_DROP || spec->shuffle,
                         "drop, or with granular --shuffle"));
    SY_TRY(check_belongs(cli, "shuffle", spec->method == SY_UPCYCLE_GRANULAR, "granular"));
    SY_TRY(check_belongs(cli, "noise-std", spec->method == SY_UPCYCLE_NOISE, "noise"));
    SY_TRY(check_belongs(cli, "granularity", spec->method == SY_UPCYCLE_GRANULAR, "granular"));
    SY_REQUIRE(spec->method != SY_UPCYCLE_GRANULAR || sy_cli_given(cli, "granularity"),
               SY_ERR_USAGE, "upcycle: --method granular needs --granularity G");
    SY_TRY(read_optimizer(cli, &j->grow.carry));
    SY_TRY(check_overrides(cli));
cleanup:
    return st;
}

/* ---- the configuration ---- */

/* The router that --set names; topk. */
static const sy_router_ops *chosen_router(const sy_grow *g)
{
    static const char key[] = "moe.router=";
    const sy_router_ops *router = NULL;
    int32_t n = 0;
    const char *const *set = sy_cli_list(g->cli, "set", &n);
    for (int32_t i = 0; i < n; i++) {
        if (strncmp(set[i], key, sizeof key - 1) == 0) {
            router = sy_router_find(set[i] + sizeof key - 1);
        }
    }
    return router != NULL ? router : sy_router_find("topk");
}

/* What the source says about experts was not meant for this model where it depends on E, K and F.
 */
static sy_status derive_config(job *j)
{
    sy_status st = SY_OK;
    sy_grow *g = &j->grow;
    const sy_run_settings *source = &g->source_settings[0];
    const int32_t F = source->model->ffn_hidden;
    const bool granular = g->spec.method == SY_UPCYCLE_GRANULAR;
    const sy_router_ops *router = chosen_router(g);
    SY_REQUIRE(source->moe->experts == 0, SY_ERR_USAGE,
               "upcycle: '%s' is a MoE of %d experts already; give a dense model",
               g->source[0]->path, source->moe->experts);
    SY_REQUIRE(F % j->granularity == 0, SY_ERR_USAGE,
               "upcycle: --granularity %ld does not divide the model's ffn_hidden %d",
               (long)j->granularity, F);
    SY_REQUIRE(j->experts % j->granularity == 0 || g->spec.shuffle, SY_ERR_USAGE,
               "upcycle: --experts %ld are not whole copies of %ld shards (--granularity); with "
               "--shuffle the rest of the last copy is left out",
               (long)j->experts, (long)j->granularity);
    j->top_k = granular ? source->moe->top_k * j->granularity : source->moe->top_k;
    if (router->only_top_k != 0) {
        j->top_k = router->only_top_k == SY_ROUTER_ALL ? j->experts : router->only_top_k;
    }
    SY_TRY(sy_cli_i64(g->cli, "top-k", 1, 1 << 10, &j->top_k));
    SY_TRY(sy_grow_derive(g, "moe.experts", "%ld", (long)j->experts));
    SY_TRY(sy_grow_derive(g, "moe.top_k", "%ld", (long)j->top_k));
    if (sy_cli_given(g->cli, "layers")) {
        SY_TRY(sy_grow_derive(g, "moe.layers", "%s", sy_cli_text(g->cli, "layers")));
    }
    SY_TRY(sy_grow_derive(g, "train.freeze", "null")); /* its patterns were for other tensors */
    SY_TRY(sy_grow_derive(g, "moe.normalize_weights",
                          j->top_k > 1 && !(router->traits & SY_ROUTER_FIXED_WEIGHTS) ? "true"
                                                                                      : "false"));
    if (router->traits & SY_ROUTER_NO_AUX) {
        SY_TRY(sy_grow_derive(g, "moe.aux_loss_coeff", "0"));
    }
    SY_TRY(sy_grow_derive(g, "moe.expert_hidden", "%ld", (long)(F / j->granularity)));
    j->shared = source->moe->shared_experts;
    SY_TRY(sy_cli_i64(g->cli, "shared-experts", 0, 1 << 10, &j->shared));
    SY_TRY(sy_grow_derive_shared(g, j->shared));
cleanup:
    return st;
}

static sy_status configure(job *j)
{
    sy_status st = SY_OK;
    sy_grow *g = &j->grow;
    const sy_run_settings *s = &g->settings;
    SY_TRY(sy_agree(g->env->world, derive_config(j)));
    SY_TRY(sy_grow_configure(g));
    if (s->moe->expert_hidden * j->granularity != s->model->ffn_hidden) {
        SY_TRY(sy_config_error(s->config, "moe.expert_hidden",
                               "moe.expert_hidden %d is not the dense model's ffn_hidden %d over "
                               "--granularity %ld",
                               s->moe->expert_hidden, s->model->ffn_hidden, (long)j->granularity));
    }
    if (j->shared > 0 && s->moe->shared_hidden != s->model->ffn_hidden) {
        SY_TRY(sy_config_error(s->config, "moe.shared_hidden",
                               "moe.shared_hidden %d is not the dense model's ffn_hidden %d, of "
                               "which the shared experts are made",
                               s->moe->shared_hidden, s->model->ffn_hidden));
    }
    g->spec.granularity = (int32_t)j->granularity;
    g->spec.seed = (uint64_t)(j->seed >= 0 ? j->seed : s->run->seed);
    SY_TRY(sy_agree(g->env->world, sy_alloc(s->moe->experts, sizeof *g->expert_source,
                                            (void **)&g->expert_source)));
    SY_TRY(sy_grow_route(g));
cleanup:
    return st;
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    job j = {.grow = {.cli = cli, .env = env}};
    sy_grow *g = &j.grow;
    sy_transfer_receipt written;
    char size[32], rate[32];
    (void)exit_code;
    SY_TRY(read_options(&j));
    SY_TRY(sy_grow_open(g, cli->operand, 1));
    SY_TRY(configure(&j));
    SY_TRY(sy_grow_run(g, &written));
    if (env->world->rank == 0) {
        printf("wrote %s: %ld parameters in %ld tensors, %s in %s, from %s; %.1f s, %s/s, and %.1f "
               "s for the receipt\n",
               g->out, (long)written.n_params, (long)written.n_tensors,
               sy_format_bytes((double)written.n_bytes, size, sizeof size),
               sy_dtype_name(written.dtype), g->source[0]->form, written.seconds,
               sy_format_bytes((double)written.n_bytes / written.seconds, rate, sizeof rate),
               g->proof.seconds);
    }
cleanup:
    sy_grow_close(g);
    return st;
}

static const sy_option options[] = {
    {"output", SY_OPTION_VALUE, "OUT.h5", "The checkpoint to write; must not exist."},
    {"adapter-base", SY_OPTION_VALUE, "MODEL",
     "The model that a LoRA adapter changes (default: its base_model_name_or_path)."},
    {"experts", SY_OPTION_VALUE, "E", "Routed experts per MoE layer."},
    {"top-k", SY_OPTION_VALUE, "K",
     "Experts per token (default: the source's moe.top_k, 2; granular: times the granularity)."},
    {"method", SY_OPTION_VALUE, "copy|noise|drop|granular",
     "How the experts begin (default copy): the dense MLP; with noise on half of its weights; with "
     "a share of its hidden units drawn anew; cut into narrow experts."},
    {"noise-std", SY_OPTION_VALUE, "S", "noise: standard deviation (0.02)."},
    {"drop-ratio", SY_OPTION_VALUE, "R",
     "drop: share of the hidden units (0.5); granular with --shuffle: of the weights (0; "
     "Qwen2-MoE: 0.5)."},
    {"granularity", SY_OPTION_VALUE, "G",
     "granular: an expert is 1/G of the MLP; G experts, with one router row, are a copy."},
    {"shuffle", SY_OPTION_FLAG, NULL,
     "granular: permute the hidden units of each copy before it is cut, as Qwen2-MoE; --experts "
     "need not be whole copies then."},
    {"shared-experts", SY_OPTION_VALUE, "N",
     "Shared experts beside the routed ones, together as wide as the dense MLP and made of it; the "
     "routed experts and they then make half of the output each (default: the source's "
     "moe.shared_experts, 0)."},
    {"layers", SY_OPTION_VALUE, "LAYERS",
     "Layers that become MoE: all, every:N or a list like 1,3,5 (default: the source's "
     "moe.layers, all)."},
    {"optimizer", SY_OPTION_VALUE, "carry|fresh",
     "carry: moments, masters and position in data and schedule come along, for train --resume "
     "OUT.h5 (SRC is a training checkpoint); what is new begins with moments of zero. fresh: "
     "weights alone (default), for train --init-from OUT.h5."},
    {"router-init-std", SY_OPTION_VALUE, "S",
     "Standard deviation of what is drawn of the new routers (0.02; with --router-data 0 where "
     "every "
     "copy has a text of its own)."},
    {"router-data", SY_OPTION_LIST, "PREFIX",
     "Token file of a text whose mean hidden states the routers begin with; give it once for "
     "each: text t is of the copies c with c mod n = t."},
    {"router-scale", SY_OPTION_VALUE, "S",
     "With --router-data, about the largest logit of a token (1)."},
    {"router-tokens", SY_OPTION_VALUE, "N", "With --router-data, tokens of each text (4096)."},
    {"seed", SY_OPTION_VALUE, "N",
     "Seed of what is drawn, and of the probe (default: the source's run.seed)."},
    {"set", SY_OPTION_LIST, "KEY=VALUE",
     "Override a key of the new configuration; a larger model.vocab_size adds rows to embedding "
     "and "
     "head, the mean of the others."},
    {0},
};

const sy_command sy_cmd_upcycle = {.name = "upcycle",
                                   .operands = "SRC -o OUT.h5 --experts E",
                                   .help = "Turn a dense model (a checkpoint, a Hugging Face "
                                           "folder or a LoRA adapter) into a mixture of experts.",
                                   .min_operands = 1,
                                   .max_operands = 1,
                                   .options = options,
                                   .run = run};

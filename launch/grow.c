#include "launch/grow.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "launch/model_load.h"
#include "launch/output.h"
#include "launch/settings.h"
#include "parallel/agree.h"
#include "parallel/watch.h"
#include "train/run.h"

/* ---- sources ---- */

/* A run directory is a folder too: only Hugging Face's have a config.json, and only PEFT's an
   adapter_config.json. Rank 0 looks. */
static sy_status find_source(const char *name, sy_comm *world, char **path)
{
    static const char *const files[] = {"config.json", "adapter_config.json"};
    sy_status st = SY_OK, mine = SY_OK;
    char *config = NULL;
    int32_t is_hf = 0;
    for (int32_t i = 0; i < 2 && world->rank == 0 && mine == SY_OK; i++) {
        sy_free(&config);
        mine = sy_asprintf(&config, "%s/%s", name, files[i]);
        is_hf = is_hf || (mine == SY_OK && access(config, F_OK) == 0);
    }
    SY_TRY(sy_agree(world, mine));
    SY_TRY(sy_host_broadcast(world, &is_hf, sizeof is_hf, 0, "kind of source"));
    SY_TRY(is_hf ? sy_agree(world, sy_strdup(name, path)) : sy_find_model(name, world, path));
cleanup:
    sy_free(&config);
    return st;
}

static sy_status open_source(sy_grow *g, const char *name, const char *adapter_base, int32_t i)
{
    sy_status st = SY_OK;
    sy_comm *world = g->env->world;
    sy_run_settings *s = &g->source_settings[i];
    char *path = NULL;
    SY_TRY(find_source(name, world, &path));
    SY_TRY(sy_source_open_on(path, adapter_base, world, &g->source[i]));
    g->n_sources = i + 1;
    SY_TRY(sy_agree(world, sy_run_settings_parse(g->source[i]->yaml, strlen(g->source[i]->yaml),
                                                 path, NULL, 0, s)));
    if (i == 0) { /* until the new model's own is known */
        sy_watch_set_timeout(world, s->parallel->timeout_s);
    }
    SY_TRY(sy_source_bind(g->source[i], s->model, s->moe, world));
cleanup:
    sy_free(&path);
    return st;
}

/* All sources; adapters among them change --adapter-base, where it is given. */
static sy_status open_sources(sy_grow *g, const char *const *sources, int32_t n)
{
    sy_status st = SY_OK;
    const char *name = sy_cli_text(g->cli, "adapter-base");
    bool used = name == NULL;
    char *base = NULL;
    if (name != NULL) {
        SY_TRY(find_source(name, g->env->world, &base));
    }
    for (int32_t i = 0; i < n; i++) {
        SY_TRY(open_source(g, sources[i], base, i));
        used = used || g->source[i]->base != NULL;
    }
    SY_REQUIRE(used, SY_ERR_USAGE, "%s: --adapter-base goes with an adapter, and no source is one",
               g->cli->command->name);
cleanup:
    sy_free(&base);
    return st;
}

/* What has no shape, but makes another function of the same weights. */
static bool counts(const char *key)
{
    return strncmp(key, "model.", 6) == 0 && strcmp(key, "model.seq_len") != 0 &&
           strcmp(key, "model.init_std") != 0;
}

static sy_status check_alike(const sy_grow *g)
{
    sy_status st = SY_OK;
    char *text = NULL;
    for (int32_t i = 1; i < g->n_sources; i++) {
        sy_free(&text);
        SY_TRY(sy_config_diff(g->source_settings[0].config, g->source_settings[i].config, counts,
                              &text));
        text[strcspn(text, "\n")] = '\0';
        SY_REQUIRE(text[0] == '\0', SY_ERR_USAGE,
                   "%s: '%s' and '%s' are not models of one kind: %s", g->cli->command->name,
                   g->source[0]->path, g->source[i]->path, text);
    }
cleanup:
    sy_free(&text);
    return st;
}

sy_status sy_grow_hidden_name(const sy_grow *g, const char *end, char **out)
{
    const char *slash = strrchr(g->out, '/');
    int folder = slash != NULL ? (int)(slash + 1 - g->out) : 0;
    return sy_asprintf(out, "%.*s.%s.%s", folder, g->out, g->out + folder, end);
}

sy_status sy_grow_open(sy_grow *g, const char *const *sources, int32_t n)
{
    sy_status st = SY_OK;
    sy_comm *world = g->env->world;
    SY_TRY(sy_output_path(g->cli, world, false, &g->out));
    SY_TRY(sy_agree(world, sy_grow_hidden_name(g, "unproven", &g->unproven)));
    SY_TRY(sy_grow_lock(g));
    SY_TRY(sy_agree(world, sy_alloc(n, sizeof *g->source, (void **)&g->source)));
    SY_TRY(sy_agree(world, sy_alloc(n, sizeof *g->source_settings, (void **)&g->source_settings)));
    SY_TRY(open_sources(g, sources, n));
    SY_TRY(sy_agree(world, check_alike(g)));
cleanup:
    return st;
}

void sy_grow_close(sy_grow *g)
{
    sy_receipt_destroy(&g->proof.receipt);
    sy_carry_destroy(&g->carried);
    sy_recipe_destroy(&g->recipe);
    sy_free(&g->router_rows);
    sy_free(&g->expert_source);
    sy_free(&g->config_yaml);
    sy_run_settings_free(&g->settings);
    for (int32_t i = 0; i < g->n_derived; i++) {
        sy_free(&g->derived[i]);
    }
    for (int32_t i = 0; i < g->n_sources; i++) {
        sy_run_settings_free(&g->source_settings[i]);
        sy_source_close(&g->source[i]);
    }
    sy_free(&g->source_settings);
    sy_free(&g->source);
    sy_free(&g->unproven);
    sy_grow_unlock(g);
}

/* ---- the configuration ---- */

sy_status sy_grow_derive(sy_grow *g, const char *key, const char *format, ...)
{
    char value[4096];
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(value, sizeof value, format, args);
    va_end(args);
    if (n >= (int)sizeof value) {
        return sy_error(SY_ERR_USAGE, "%s: %s of %d characters is too long (4095 fit)",
                        g->cli->command->name, key, n);
    }
    bool list = strchr(value, ',') != NULL && value[0] != '[';
    return sy_asprintf(&g->derived[g->n_derived++], list ? "%s=[%s]" : "%s=%s", key, value);
}

sy_status sy_grow_derive_shared(sy_grow *g, int64_t n)
{
    sy_status st = SY_OK;
    const int32_t F = g->source_settings[0].model->ffn_hidden;
    SY_TRY(sy_grow_derive(g, "moe.shared_experts", "%ld", (long)n));
    SY_TRY(sy_grow_derive(g, "moe.shared_hidden", "%d", n > 0 ? F : 0));
    SY_TRY(n == 0 ? sy_grow_derive(g, "moe.shared_gate", "false") : SY_OK);
cleanup:
    return st;
}

bool sy_grow_user_sets(const sy_grow *g, const char *key)
{
    int32_t n = 0;
    const char *const *set = sy_cli_list(g->cli, "set", &n);
    for (int32_t i = 0; i < n; i++) {
        if (strncmp(set[i], key, strlen(key)) == 0 && set[i][strlen(key)] == '=') {
            return true;
        }
    }
    return false;
}

/* The saved text says nothing of how many ranks did this; the engine's ep is as large as they
   allow. */
static sy_status parse(sy_grow *g)
{
    sy_status st = SY_OK;
    int32_t n = 0, ranks = g->env->world->size;
    const char *const *set = sy_cli_list(g->cli, "set", &n);
    const char *yaml = g->source[0]->yaml, **all = NULL;
    char text[16];
    SY_TRY(sy_alloc(g->n_derived + n, sizeof *all, (void **)&all));
    for (int32_t i = 0; i < g->n_derived + n; i++) {
        all[i] = i < g->n_derived ? g->derived[i] : set[i - g->n_derived];
    }
    SY_TRY(sy_run_settings_parse(yaml, strlen(yaml), g->source[0]->path, all, g->n_derived + n,
                                 &g->settings));
    SY_TRY(sy_config_echo(g->settings.config, &g->config_yaml));
    if (!sy_grow_user_sets(g, "parallel.ep")) {
        snprintf(text, sizeof text, "%d", sy_largest_ep(ranks, g->settings.moe->experts));
        SY_TRY(sy_config_default(g->settings.config, "parallel.ep", text));
    }
    SY_TRY(sy_parallel_config_check(g->settings.config, ranks, g->settings.moe->experts));
cleanup:
    sy_free(&all);
    return st;
}

static sy_status check_vocabulary(const sy_grow *g)
{
    const int32_t old = g->source_settings[0].model->vocab_size,
                  now = g->settings.model->vocab_size;
    return now >= old ? SY_OK
                      : sy_config_error(g->settings.config, "model.vocab_size",
                                        "model.vocab_size %d is smaller than the %d of '%s': rows "
                                        "may be added, not left out",
                                        now, old, g->source[0]->path);
}

sy_status sy_grow_configure(sy_grow *g)
{
    sy_status st = SY_OK;
    SY_TRY(sy_agree(g->env->world, parse(g)));
    sy_watch_set_timeout(g->env->world, g->settings.parallel->timeout_s);
    SY_TRY(sy_agree(g->env->world, check_vocabulary(g)));
    SY_TRY(sy_agree(g->env->world,
                    sy_check_same_function(g->cli->command->name, g->source[0]->path,
                                           g->source_settings[0].config, g->settings.config)));
cleanup:
    return st;
}

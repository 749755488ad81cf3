#include "launch/ensemble.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "launch/output.h"
#include "parallel/agree.h"
#include "upcycle/ensemble.h"

sy_status sy_ensemble_prior(const char *text, int32_t n, double **prior)
{
    sy_status st = SY_OK;
    double *p = NULL, sum = 0;
    const char *at = text;
    SY_TRY(sy_alloc(n, sizeof *p, (void **)&p));
    for (int32_t i = 0; i < n; i++) {
        char *end = NULL;
        p[i] = text != NULL ? strtod(at, &end) : 1;
        SY_REQUIRE(text == NULL || (end != at && isfinite(p[i]) && p[i] > 0 &&
                                    *end == (i + 1 < n ? ',' : '\0')),
                   SY_ERR_USAGE, "merge: --prior '%s' is not %d positive numbers with commas", text,
                   n);
        at = text != NULL ? end + 1 : NULL;
        sum += p[i];
    }
    SY_REQUIRE(isfinite(sum), SY_ERR_USAGE, "merge: the sum of --prior '%s' is too large", text);
    for (int32_t i = 0; i < n; i++) {
        p[i] /= sum;
    }
    *prior = p;
    p = NULL;
cleanup:
    sy_free(&p);
    return st;
}

/* What of section moe makes another function of the same weights. */
static bool counts(const char *key)
{
    static const char *const of_moe[] = {
        "experts",        "top_k",
        "layers",         "router",
        "score",          "normalize_weights",
        "shared_experts", "shared_gate",
        "routed_scale",   "eval_capacity_factor",
    };
    bool found = false;
    for (size_t i = 0; i < sizeof of_moe / sizeof of_moe[0] && !found; i++) {
        found = strncmp(key, "moe.", 4) == 0 && strcmp(key + 4, of_moe[i]) == 0;
    }
    return found;
}

/* eval runs all members with one configuration. */
static sy_status check_experts(const sy_grow *g)
{
    sy_status st = SY_OK;
    char *text = NULL;
    const sy_run_settings *one = g->source_settings;
    for (int32_t i = 1; i < g->n_sources; i++) {
        sy_free(&text);
        SY_TRY(sy_config_diff(one[0].config, one[i].config, counts, &text));
        text[strcspn(text, "\n")] = '\0';
        SY_REQUIRE(text[0] == '\0' || (one[0].moe->experts == 0 && one[i].moe->experts == 0),
                   SY_ERR_USAGE, "merge: '%s' and '%s' are not models of one kind: %s",
                   g->source[0]->path, g->source[i]->path, text);
    }
cleanup:
    sy_free(&text);
    return st;
}

sy_status sy_grow_ensemble(sy_grow *g, const double *prior, sy_transfer_receipt *receipt)
{
    sy_status st = SY_OK;
    sy_output_progress progress = {.what = g->cli->command->name};
    SY_TRY(sy_agree(g->env->world, check_experts(g)));
    st = sy_ensemble_write(&(sy_ensemble_spec){.source = g->source,
                                               .n = g->n_sources,
                                               .prior = prior,
                                               .model = g->settings.model,
                                               .moe = g->settings.moe},
                           &(sy_build_spec){.out = g->unproven,
                                            .config_yaml = g->config_yaml,
                                            .step = g->source[0]->step,
                                            .tokens_seen = g->source[0]->tokens_seen,
                                            .files = &g->source[0]->files,
                                            .comm = g->env->world,
                                            .progress = sy_output_progress_update,
                                            .progress_self = &progress},
                           receipt);
    sy_progress_destroy(&progress.line);
cleanup:
    return st;
}

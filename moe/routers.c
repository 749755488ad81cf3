/* The table of routers, and what a configuration may ask of them. */
#include "moe/capacity_impl.h"
#include "moe/routers_impl.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"

#define ENTRY(name) &sy__router_##name,
static const sy_router_ops *const routers[] = {SY_ROUTERS(ENTRY, ENTRY)};
enum { N_ROUTERS = sizeof routers / sizeof routers[0] };

#define SECTION(name) &sy_router_section_##name,
static const sy_config_section *const sections[] = {SY_ROUTERS(SY_ROUTER_NO_SECTION, SECTION) NULL};

const sy_router_ops *sy_router_find(const char *name)
{
    for (int32_t i = 0; i < N_ROUTERS; i++) {
        if (strcmp(routers[i]->name, name) == 0) {
            return routers[i];
        }
    }
    return NULL;
}

const char *const *sy_router_names(void)
{
#define NAME(name) #name,
    static const char *const names[] = {SY_ROUTERS(NAME, NAME) NULL};
    return names;
}

void sy_router_layout_of(const sy_moe_config *config, int64_t H, sy_router_layout *out)
{
    const sy_host_router_ops *host = sy_router_find(config->router)->host;
    *out = (sy_router_layout){.H = H, .K = config->top_k, .M = config->experts};
    if (host != NULL && host->layout != NULL) {
        host->layout(config, out);
    }
    if (out->reads_x) {
        out->M = (int32_t)H;
    }
}

int64_t sy_router_sums(const sy_moe_config *config, int64_t H)
{
    sy_router_layout layout;
    sy_router_layout_of(config, H, &layout);
    return layout.n_sums;
}

int32_t sy_router_slots(const sy_moe_config *config)
{
    sy_router_layout layout;
    sy_router_layout_of(config, 0, &layout);
    return layout.K;
}

/* ---- what goes together ---- */

/* Keys of the section that do not have their defaults; the first one's name into key. */
static sy_status find_changed(const sy_config *config, const sy_config_section *section, char *key,
                              size_t key_bytes)
{
    sy_status st = SY_OK;
    sy_config *plain = NULL;
    char *diff = NULL;
    SY_TRY(sy_config_parse(&section, 1, "", 0, "defaults", NULL, 0, &plain));
    SY_TRY(sy_config_diff(config, plain, NULL, &diff));
    snprintf(key, key_bytes, "%.*s", (int)strcspn(diff, ":\n"), diff);
cleanup:
    sy_free(&diff);
    sy_config_destroy(&plain);
    return st;
}

static bool any_set(const sy_config *config, const sy_config_section *section)
{
    char key[128];
    for (const sy_config_key *k = section->keys; k->name != NULL; k++) {
        snprintf(key, sizeof key, "%s.%s", section->name, k->name);
        if (sy_config_was_set(config, key)) {
            return true;
        }
    }
    return false;
}

/* Checkpoints hold all sections: one that says nothing but defaults is nobody's wish. */
static sy_status check_sections(const sy_moe_config *m, const sy_config *config)
{
    sy_status st = SY_OK;
    char key[128];
    for (int32_t i = 0; sections[i] != NULL; i++) {
        const char *name = sections[i]->name + strlen("moe.");
        if (strcmp(name, m->router) == 0 || !any_set(config, sections[i])) {
            continue;
        }
        SY_TRY(find_changed(config, sections[i], key, sizeof key));
        if (key[0] != '\0') {
            SY_TRY(sy_config_error(config, key,
                                   "%s belongs to the router '%s', and moe.router is '%s'; set "
                                   "moe.router to %s, or leave the key out",
                                   key, name, m->router, name));
        }
    }
cleanup:
    return st;
}

/* A coefficient that has no place: 0 where nobody asked for more. */
static sy_status no_coefficient(sy_config *config, const char *key, double value, const char *why)
{
    const sy_moe_config *m = sy_config_get(config, "moe");
    if (value > 0 && sy_config_was_set(config, key)) {
        return sy_config_error(config, key, "%s %g with moe.router %s: %s; set it to 0", key, value,
                               m->router, why);
    }
    return value > 0 ? sy_config_default(config, key, "0.0") : SY_OK;
}

static sy_status check_losses(const sy_moe_config *m, uint32_t traits, sy_config *config)
{
    sy_status st = SY_OK;
    if (traits & SY_ROUTER_NO_AUX) {
        SY_TRY(no_coefficient(config, "moe.aux_loss_coeff", m->aux_loss_coeff,
                              "this router balances its loads itself, or has nothing to balance"));
    }
    if (traits & SY_ROUTER_NO_Z) {
        SY_TRY(no_coefficient(config, "moe.z_loss_coeff", m->z_loss_coeff,
                              "its logits are no exponents of a softmax"));
    }
    if (traits & SY_ROUTER_OWN_COUNT && m->aux_loss_scope == SY_AUX_GLOBAL_BATCH) {
        SY_TRY(sy_config_error(config, "moe.aux_loss_scope",
                               "moe.aux_loss_scope global_batch with moe.router %s, which counts "
                               "loads in its own way; use sequence or micro_batch",
                               m->router));
    }
cleanup:
    return st;
}

static sy_status check_capacity(const sy_moe_config *m, uint32_t traits, const sy_config *config)
{
    const bool eval = !m->capacity_factor.set;
    if (traits & SY_ROUTER_NO_CAPACITY && (m->capacity_factor.set || m->eval_capacity_factor.set)) {
        return sy_config_error(config, eval ? "moe.eval_capacity_factor" : "moe.capacity_factor",
                               "moe.%scapacity_factor with moe.router %s, which drops nothing: "
                               "set it to null, or use moe.router topk",
                               eval ? "eval_" : "", m->router);
    }
    if (traits & SY_ROUTER_LOOKS_AHEAD && !m->look_ahead) {
        return sy_config_error(config, "moe.router",
                               "moe.router %s chooses for a token by what comes after it, which "
                               "this causal model could not do when it writes; moe.look_ahead true "
                               "lets it, and top_p or topk are the nearest routers that need not",
                               m->router);
    }
    return SY_OK;
}

/* What only top-k knows. */
static sy_status check_topk_only(const sy_moe_config *m, const sy_config *config)
{
    if (m->force_balance) {
        return sy_config_error(config, "moe.force_balance",
                               "moe.force_balance is for moe.router topk, not %s", m->router);
    }
    if (m->bias_update_rate > 0 && strcmp(m->router, "grouped") != 0) {
        return sy_config_error(config, "moe.bias_update_rate",
                               "moe.bias_update_rate %g with moe.router %s, which has no bias; use "
                               "topk or grouped, or set it to 0",
                               m->bias_update_rate, m->router);
    }
    return SY_OK;
}

/* Noise on an input that nobody reads. */
static sy_status check_jitter(const sy_moe_config *m, const sy_config *config)
{
    sy_router_layout layout;
    sy_router_layout_of(m, 1, &layout); /* whatever the width */
    if (m->jitter <= 0 || layout.M > 0) {
        return SY_OK;
    }
    return sy_config_error(config, "moe.jitter",
                           "moe.jitter %g with moe.router %s, which does not look at the token's "
                           "vector; set it to 0",
                           m->jitter, m->router);
}

static sy_status check_weights(const sy_moe_config *m, uint32_t traits, sy_config *config)
{
    static const char *const names[2] = {"moe.score", "moe.normalize_weights"};
    static const char *const plain[2] = {"softmax", "false"};
    const bool is_other[2] = {m->score != 0, m->normalize_weights};
    for (int32_t i = 0; i < 2 && traits & SY_ROUTER_FIXED_WEIGHTS; i++) {
        if (is_other[i] && sy_config_was_set(config, names[i])) {
            return sy_config_error(config, names[i],
                                   "%s with moe.router %s, whose weights are what the method says; "
                                   "leave it at %s",
                                   names[i], m->router, plain[i]);
        }
    }
    return traits & SY_ROUTER_FIXED_WEIGHTS
               ? sy_config_default(config, "moe.normalize_weights", "false")
               : SY_OK;
}

/* Of a router that knows one number of choices only. */
static sy_status check_top_k(const sy_moe_config *m, const sy_router_ops *router, sy_config *config)
{
    const int32_t only = router->only_top_k == SY_ROUTER_ALL ? m->experts : router->only_top_k;
    char text[16];
    if (only == 0 || m->top_k == only) {
        return SY_OK;
    }
    if (sy_config_was_set(config, "moe.top_k")) {
        return sy_config_error(config, "moe.top_k",
                               "moe.top_k %d with moe.router %s, which gives a token %d; set it to "
                               "%d, or leave it out",
                               m->top_k, m->router, only, only);
    }
    snprintf(text, sizeof text, "%d", only);
    return sy_config_default(config, "moe.top_k", text);
}

sy_status sy_router_settle(sy_config *config)
{
    sy_status st = SY_OK;
    sy_moe_config *m = sy_config_edit(config, "moe");
    const sy_router_ops *router = sy_router_find(m->router);
    char name[64];
    snprintf(name, sizeof name, "moe.%s", m->router);
    m->own = sy_config_get(config, name);
    if (m->experts == 0) {
        goto cleanup;
    }
    SY_TRY(check_sections(m, config));
    if (strcmp(m->router, "topk") == 0) {
        SY_TRY(sy__capacity_check(m, router->traits, config));
        goto cleanup;
    }
    SY_TRY(check_topk_only(m, config));
    SY_TRY(check_top_k(m, router, config));
    SY_TRY(check_jitter(m, config));
    SY_TRY(check_capacity(m, router->traits, config));
    SY_TRY(check_losses(m, router->traits, config));
    SY_TRY(check_weights(m, router->traits, config));
    if (router->check != NULL) {
        SY_TRY(router->check(m, config));
    }
    SY_TRY(sy__capacity_check(m, router->traits, config));
cleanup:
    return st;
}

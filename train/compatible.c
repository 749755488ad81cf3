/* The rules of docs/INTERFACES.md section 6, "Resume": which keys may differ between a checkpoint
 * and the run that goes on from it. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "train/train_config.h"

static bool is_one_of(const char *key, const char *const *names)
{
    for (; *names != NULL; names++) {
        size_t n = strlen(*names);
        bool section = (*names)[n - 1] == '.';
        if (section ? strncmp(key, *names, n) == 0 : strcmp(key, *names) == 0) {
            return true;
        }
    }
    return false;
}

/* Shapes, seed, tokenizer: what the weights and the data order mean. */
static bool is_fixed(const char *key)
{
    static const char *const names[] = {"model.",
                                        "moe.experts",
                                        "moe.expert_hidden",
                                        "moe.expert_widths",
                                        "moe.adapter_kind",
                                        "moe.adapter_attention",
                                        "moe.adapter_base",
                                        "moe.adapter_rank",
                                        "moe.layers",
                                        "moe.shared_experts",
                                        "moe.shared_hidden",
                                        "moe.shared_gate",
                                        "moe.router",
                                        "moe.score",
                                        "moe.extra_ffn",
                                        "optim.name",
                                        "optim.adafactor.momentum",
                                        "optim.adafactor.min_factored",
                                        "run.seed",
                                        "data.tokenizer",
                                        NULL};
    return is_one_of(key, names) && strcmp(key, "model.output_z_loss_coeff") != 0 &&
           strcmp(key, "model.mtp_loss_coeff") != 0;
}

/* What changes the course of training: only when asked for by name. */
static bool is_by_override(const char *key)
{
    static const char *const names[] = {"optim.",
                                        "data.",
                                        "moe.",
                                        "model.",
                                        "train.global_batch",
                                        "train.micro_batch",
                                        "train.freeze",
                                        "train.batch_ramp_from",
                                        "train.batch_ramp_by",
                                        "train.batch_ramp_tokens",
                                        "train.mtp_phases",
                                        NULL};
    return is_one_of(key, names) && !is_fixed(key) && strcmp(key, "moe.expert_labels") != 0;
}

static bool is_free(const char *key)
{
    return !is_fixed(key) && !is_by_override(key);
}

static bool was_overridden(const char *line, const char *const *overrides, int32_t n)
{
    size_t key_n = strcspn(line, ":");
    for (int32_t i = 0; i < n; i++) {
        if (strncmp(overrides[i], line, key_n) == 0 && overrides[i][key_n] == '=') {
            return true;
        }
    }
    return false;
}

/* A default that followed another key (moe.top_k): the user has not said it. */
static bool is_derived(const sy_config *now, const char *line)
{
    const char *key = "moe.normalize_weights";
    size_t n = strlen(key);
    return strncmp(line, key, n) == 0 && line[n] == ':' && !sy_config_was_set(now, key);
}

/* The first line of `diff` that nobody asked for; NULL if there is none. */
static const char *first_silent(const sy_config *now, const char *diff,
                                const char *const *overrides, int32_t n)
{
    while (diff != NULL && *diff != '\0') {
        if (!was_overridden(diff, overrides, n) && !is_derived(now, diff)) {
            return diff;
        }
        diff = strchr(diff, '\n');
        diff = diff != NULL ? diff + 1 : NULL;
    }
    return NULL;
}

sy_status sy_run_settings_compatible(const sy_run_settings *old, const sy_run_settings *now,
                                     const char *const *overrides, int32_t n_overrides,
                                     char **changes)
{
    sy_status st = SY_OK;
    char *fixed = NULL, *by_override = NULL, *other = NULL;
    const char *silent = NULL;

    SY_TRY(sy_config_diff(old->config, now->config, is_fixed, &fixed));
    SY_REQUIRE(
        fixed[0] == '\0', SY_ERR_USAGE,
        "the checkpoint is of another model or run; these keys may not change on resume: %.*s",
        (int)strcspn(fixed, "\n"), fixed);
    SY_TRY(sy_config_diff(old->config, now->config, is_by_override, &by_override));
    silent = first_silent(now->config, by_override, overrides, n_overrides);
    SY_REQUIRE(silent == NULL, SY_ERR_USAGE,
               "the configuration differs from the checkpoint's (%.*s); to change it on resume, "
               "say it with "
               "--set %.*s=VALUE",
               (int)strcspn(silent, "\n"), silent, (int)strcspn(silent, ":"), silent);
    SY_TRY(sy_config_diff(old->config, now->config, is_free, &other));
    SY_TRY(sy_asprintf(changes, "%s%s", by_override, other));
cleanup:
    sy_free(&other);
    sy_free(&by_override);
    sy_free(&fixed);
    return st;
}

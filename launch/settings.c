#include "launch/settings.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "parallel/agree.h"
#include "parallel/watch.h"

enum { MAX_CONFIG_BYTES = 1 << 20 };

/* A whole text file. A NUL byte inside ends it early, and the parser then complains. */
static sy_status read_text(const char *path, char **out)
{
    sy_status st = SY_OK;
    char *text = NULL;
    FILE *f = fopen(path, "r");
    SY_REQUIRE(f != NULL, SY_ERR_USAGE, "cannot read the configuration '%s': %s", path,
               strerror(errno));
    SY_TRY(sy_alloc(MAX_CONFIG_BYTES + 2, 1, (void **)&text));
    size_t n = fread(text, 1, MAX_CONFIG_BYTES + 1, f);
    SY_REQUIRE(ferror(f) == 0, SY_ERR_USAGE, "cannot read the configuration '%s': %s", path,
               strerror(errno));
    SY_REQUIRE(n <= MAX_CONFIG_BYTES, SY_ERR_USAGE, "the configuration '%s' is larger than 1 MiB",
               path);
    SY_REQUIRE(memchr(text, 0, n) == NULL, SY_ERR_USAGE,
               "the configuration '%s' is not a text file", path);
    *out = text;
    text = NULL;
cleanup:
    sy_free(&text);
    if (f != NULL) {
        fclose(f);
    }
    return st;
}

sy_status sy_settings_load(const char *path, const char *const *overrides, int32_t n_overrides,
                           sy_comm *world, sy_run_settings *out)
{
    sy_status st = SY_OK, mine = SY_OK;
    char *text = NULL;
    if (world->rank == 0) {
        mine = read_text(path, &text);
    }
    SY_TRY(sy_agree(world, mine));
    SY_TRY(sy_host_broadcast_text(world, &text));
    SY_TRY(sy_agree(world,
                    sy_run_settings_parse(text, strlen(text), path, overrides, n_overrides, out)));
    sy_watch_set_timeout(world, out->parallel->timeout_s);
cleanup:
    sy_free(&text);
    return st;
}

/* Positions may be stretched: rope_theta and what belongs to rope_scaling. */
static bool is_of_the_function(const char *key)
{
    static const char *const fixed[] = {"model.activation",          "model.norm_eps",
                                        "model.rope_interleaved",    "model.embedding_multiplier",
                                        "model.residual_multiplier", "model.attention_multiplier",
                                        "model.logits_scaling",      "moe.extra_ffn"};
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++) {
        if (strcmp(key, fixed[i]) == 0) {
            return true;
        }
    }
    return false;
}

sy_status sy_check_same_function(const char *command, const char *path, const sy_config *old_config,
                                 const sy_config *new_config)
{
    sy_status st = SY_OK;
    char *text = NULL;
    SY_TRY(sy_config_diff(old_config, new_config, is_of_the_function, &text));
    text[strcspn(text, "\n")] = '\0';
    SY_REQUIRE(text[0] == '\0', SY_ERR_USAGE,
               "%s: the weights of '%s' were trained with another value (%s); leave the key out",
               command, path, text);
cleanup:
    sy_free(&text);
    return st;
}

/* The end of a document where the user names it: a token, or what tokenizer_config.json says. */
#include <jansson.h>
#include <string.h>

#include "core/alloc.h"
#include "data/tokenizer.h"

/* The text of eos_token, which is a string or an object. */
static sy_status read_config(const char *path, char **text)
{
    sy_status st = SY_OK;
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);
    const json_t *eos = json_object_get(root, "eos_token");
    SY_REQUIRE(root != NULL, SY_ERR_USAGE, "--eod config: %s:%d: %s", path, error.line, error.text);
    if (json_is_object(eos)) {
        eos = json_object_get(eos, "content");
    }
    SY_REQUIRE(json_is_string(eos) && json_string_length(eos) > 0, SY_ERR_USAGE,
               "--eod config: %s names no eos_token: say which token with --eod", path);
    SY_TRY(sy_strdup(json_string_value(eos), text));

cleanup:
    json_decref(root);
    return st;
}

/* tokenizer_config.json in the folder that name is, or is in. */
static sy_status find_config(const char *name, char **text)
{
    sy_status st = SY_OK;
    char *path = NULL;
    const char *slash = strrchr(name, '/');
    SY_TRY(sy_asprintf(&path, "%.*stokenizer_config.json",
                       slash != NULL ? (int)(slash - name + 1) : 0, name));
    SY_TRY(read_config(path, text));

cleanup:
    sy_free(&path);
    return st;
}

static sy_status find_id(sy_tokenizer *tokenizer, const char *text, int32_t *id)
{
    sy_status st = SY_OK;
    const int64_t n = (int64_t)strlen(text), max = sy_tokenizer_max_ids(tokenizer, n);
    const bool match = tokenizer->match_special;
    int32_t *ids = NULL;
    int64_t n_ids = 0;
    SY_TRY(sy_alloc(max + 1, sizeof *ids, (void **)&ids));
    tokenizer->match_special = true;
    st = sy_tokenizer_encode(tokenizer, text, n, ids, &n_ids);
    tokenizer->match_special = match;
    SY_TRY(st);
    SY_REQUIRE(n_ids == 1, SY_ERR_USAGE,
               "--eod: '%.60s' is no token of the tokenizer: it becomes %lld ids", text,
               (long long)n_ids);
    *id = ids[0];

cleanup:
    sy_free(&ids);
    return st;
}

sy_status sy_tokenizer_set_eod(sy_tokenizer *tokenizer, const char *eod)
{
    sy_status st = SY_OK;
    char *text = NULL;
    if (strcmp(eod, "config") == 0) {
        SY_REQUIRE(tokenizer->path != NULL, SY_ERR_USAGE,
                   "--eod config needs a tokenizer that is a file, with tokenizer_config.json "
                   "beside it");
        SY_TRY(find_config(tokenizer->path, &text));
    }
    SY_TRY(find_id(tokenizer, text != NULL ? text : eod, &tokenizer->eod_id));

cleanup:
    sy_free(&text);
    return st;
}

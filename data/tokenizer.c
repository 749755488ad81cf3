/* The table of tokenizers, and the calls that go through it. */
#include "data/tokenizer.h"

#include <string.h>

#include "core/alloc.h"
#include "core/config.h"
#include "data/tokenizer_impl.h"

static const sy_tokenizer_ops *const tokenizers[] = {&sy__tokenizer_bytes};

enum { N_TOKENIZERS = sizeof tokenizers / sizeof tokenizers[0] };

/* The name of no tokenizer: token files that came from elsewhere, models that were imported. */
static const char none[] = "none";

static sy_status find(const char *spec, const sy_tokenizer_ops **out)
{
    const char *names[N_TOKENIZERS];
    for (int32_t i = 0; i < N_TOKENIZERS; i++) {
        if (tokenizers[i]->accepts(spec)) {
            *out = tokenizers[i];
            return SY_OK;
        }
        names[i] = tokenizers[i]->name;
    }
    const char *near = sy_nearest_name(spec, names, N_TOKENIZERS);
    return sy_error(SY_ERR_USAGE, "unknown tokenizer '%s' (did you mean '%s'?)", spec,
                    near != NULL ? near : names[0]);
}

sy_status sy_tokenizer_check(const char *spec)
{
    const sy_tokenizer_ops *ops;
    return strcmp(spec, none) == 0 ? SY_OK : find(spec, &ops);
}

sy_status sy_tokenizer_open(const char *spec, sy_tokenizer **out)
{
    sy_status st = SY_OK;
    sy_tokenizer *tokenizer = NULL;
    const sy_tokenizer_ops *ops = NULL;

    SY_REQUIRE(strcmp(spec, none) != 0, SY_ERR_USAGE,
               "tokenizer none means token ids only: no text can go in or come out");
    SY_TRY(find(spec, &ops));
    SY_TRY(sy_alloc(1, sizeof *tokenizer, (void **)&tokenizer));
    SY_TRY(ops->open(spec, tokenizer));
    tokenizer->ops = ops;
    *out = tokenizer;
    tokenizer = NULL;

cleanup:
    sy_free(&tokenizer);
    return st;
}

void sy_tokenizer_close(sy_tokenizer **tokenizer)
{
    if (*tokenizer != NULL) {
        (*tokenizer)->ops->close(*tokenizer);
        sy_free(tokenizer);
    }
}

int64_t sy_tokenizer_max_ids(const sy_tokenizer *tokenizer, int64_t n_bytes)
{
    return tokenizer->ops->max_ids(tokenizer, n_bytes);
}

int64_t sy_tokenizer_max_bytes(const sy_tokenizer *tokenizer, int64_t n_ids)
{
    return tokenizer->ops->max_bytes(tokenizer, n_ids);
}

int64_t sy_tokenizer_cut(const sy_tokenizer *tokenizer, const char *text, int64_t n_bytes)
{
    return tokenizer->ops->cut(tokenizer, text, n_bytes);
}

sy_status sy_tokenizer_encode(const sy_tokenizer *tokenizer, const char *text, int64_t n_bytes,
                              int32_t *ids, int64_t *n_ids)
{
    return tokenizer->ops->encode(tokenizer, text, n_bytes, ids, n_ids);
}

sy_status sy_tokenizer_decode(const sy_tokenizer *tokenizer, const int32_t *ids, int64_t n_ids,
                              char *text, int64_t *n_bytes)
{
    return tokenizer->ops->decode(tokenizer, ids, n_ids, text, n_bytes);
}

/* The table of tokenizers, and the calls that go through it. */
#include "data/tokenizer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <xxhash.h>

#include "core/alloc.h"
#include "core/pulse.h"
#include "core/config.h"
#include "data/tokenizer_impl.h"

static const sy_tokenizer_ops *const tokenizers[] = {
    &sy__tokenizer_bytes,
    &sy__tokenizer_bpe,
    &sy__tokenizer_sentencepiece,
};

enum { N_TOKENIZERS = sizeof tokenizers / sizeof tokenizers[0] };

/* The name of no tokenizer: token files that came from elsewhere, models that were imported. */
static const char none[] = "none";

static bool is_file(const char *spec)
{
    return strpbrk(spec, "/.") != NULL;
}

static sy_status find_name(const char *spec, const sy_tokenizer_ops **out)
{
    const char *names[N_TOKENIZERS];
    int32_t n = 0;
    for (int32_t i = 0; i < N_TOKENIZERS; i++) {
        if (tokenizers[i]->name == NULL) {
            continue;
        }
        if (strcmp(tokenizers[i]->name, spec) == 0) {
            *out = tokenizers[i];
            return SY_OK;
        }
        names[n++] = tokenizers[i]->name;
    }
    const char *near = sy_nearest_name(spec, names, n);
    return sy_error(SY_ERR_USAGE,
                    "unknown tokenizer '%s' (did you mean '%s'? a file is given with its path, "
                    "such as ./%s)",
                    spec, near != NULL ? near : names[0], spec);
}

sy_status sy_tokenizer_check(const char *spec)
{
    const sy_tokenizer_ops *ops;
    return strcmp(spec, none) == 0 || is_file(spec) ? SY_OK : find_name(spec, &ops);
}

static sy_status find_file(const sy_tokenizer_source *source, const sy_tokenizer_ops **out)
{
    for (int32_t i = 0; i < N_TOKENIZERS; i++) {
        if (tokenizers[i]->accepts(source)) {
            *out = tokenizers[i];
            return SY_OK;
        }
    }
    return sy_error(SY_ERR_USAGE,
                    "'%s' is no tokenizer: expected a tokenizer.json, a rank file of tiktoken or a "
                    "SentencePiece model",
                    source->name);
}

static sy_status open_with(const sy_tokenizer_ops *ops, const sy_tokenizer_source *source,
                           sy_tokenizer **out)
{
    sy_status st = SY_OK;
    sy_tokenizer *tokenizer = NULL;
    SY_TRY(sy_alloc(1, sizeof *tokenizer, (void **)&tokenizer));
    SY_TRY(ops->open(source, tokenizer));
    tokenizer->ops = ops;
    *out = tokenizer;
    tokenizer = NULL;

cleanup:
    sy_free(&tokenizer);
    return st;
}

static sy_status open_source(const sy_tokenizer_source *source, sy_tokenizer **out)
{
    sy_status st = SY_OK;
    const sy_tokenizer_ops *ops = NULL;
    SY_REQUIRE(source->n_bytes > 0, SY_ERR_USAGE, "tokenizer '%s' is an empty file", source->name);
    SY_TRY(find_file(source, &ops));
    SY_TRY(open_with(ops, source, out));
    (*out)->digest = XXH3_64bits(source->bytes, (size_t)source->n_bytes);

cleanup:
    return st;
}

sy_status sy_tokenizer_open_bytes(const char *name, const char *bytes, int64_t n_bytes,
                                  sy_tokenizer **out)
{
    return open_source(&(sy_tokenizer_source){.name = name, .bytes = bytes, .n_bytes = n_bytes},
                       out);
}

/* The file of a folder that is a tokenizer; any other path is its own. */
static sy_status resolve(const char *path, char **out)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model"};
    sy_status st = SY_OK;
    char *inside = NULL;
    struct stat info;
    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode)) {
        return sy_strdup(path, out);
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        SY_TRY(sy_asprintf(&inside, "%s/%s", path, names[i]));
        if (stat(inside, &info) == 0) {
            *out = inside;
            inside = NULL;
            goto cleanup;
        }
        sy_free(&inside);
    }
    SY_REQUIRE(false, SY_ERR_USAGE, "folder '%s' has no tokenizer.json and no tokenizer.model",
               path);

cleanup:
    sy_free(&inside);
    return st;
}

static sy_status read_file(const char *path, char **bytes, int64_t *n)
{
    sy_status st = SY_OK;
    char *all = NULL;
    struct stat info;
    FILE *stream = fopen(path, "rb");
    SY_REQUIRE(stream != NULL && fstat(fileno(stream), &info) == 0, SY_ERR_USAGE,
               "cannot read tokenizer '%s': %s", path, strerror(errno));
    SY_REQUIRE(S_ISREG(info.st_mode), SY_ERR_USAGE, "tokenizer '%s' is not a file", path);
    SY_TRY(sy_alloc(info.st_size + 1, 1, (void **)&all));
    *n = (int64_t)fread(all, 1, (size_t)info.st_size, stream);
    SY_REQUIRE(!ferror(stream), SY_ERR_IO, "cannot read tokenizer '%s': %s", path, strerror(errno));
    *bytes = all;
    all = NULL;

cleanup:
    sy_free(&all);
    if (stream != NULL) {
        (void)fclose(stream); /* only read from */
    }
    return st;
}

static sy_status open_file(const char *spec, sy_tokenizer **out)
{
    sy_status st = SY_OK;
    sy_tokenizer_source source = {0};
    char *encoding = NULL, *path = NULL, *bytes = NULL;
    const char *colon = strchr(spec, ':'), *name = strpbrk(spec, "/.");
    if (colon != NULL && colon < name) {
        SY_TRY(sy_asprintf(&encoding, "%.*s", (int)(colon - spec), spec));
    } else {
        colon = NULL;
    }
    SY_TRY(resolve(colon != NULL ? colon + 1 : spec, &path));
    SY_TRY(read_file(path, &bytes, &source.n_bytes));
    source.name = path;
    source.encoding = encoding;
    source.bytes = bytes;
    SY_TRY(open_source(&source, out));
    (*out)->path = path;
    path = NULL;

cleanup:
    sy_free(&bytes);
    sy_free(&path);
    sy_free(&encoding);
    return st;
}

sy_status sy_tokenizer_open(const char *spec, sy_tokenizer **out)
{
    sy_status st = SY_OK;
    const sy_tokenizer_ops *ops = NULL;
    SY_REQUIRE(strcmp(spec, none) != 0, SY_ERR_USAGE,
               "tokenizer none means token ids only: no text can go in or come out");
    if (is_file(spec)) {
        SY_TRY(open_file(spec, out));
    } else {
        SY_TRY(find_name(spec, &ops));
        SY_TRY(open_with(ops, &(sy_tokenizer_source){.name = spec}, out));
    }

cleanup:
    return st;
}

void sy_tokenizer_close(sy_tokenizer **tokenizer)
{
    if (*tokenizer != NULL) {
        (*tokenizer)->ops->close(*tokenizer);
        sy_free(&(*tokenizer)->path);
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
    sy_pulse_beat();
    return tokenizer->ops->encode(tokenizer, text, n_bytes, ids, n_ids);
}

sy_status sy_tokenizer_decode(const sy_tokenizer *tokenizer, const int32_t *ids, int64_t n_ids,
                              char *text, int64_t *n_bytes)
{
    return tokenizer->ops->decode(tokenizer, ids, n_ids, text, n_bytes);
}

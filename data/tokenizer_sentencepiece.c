/* SentencePiece models (Llama 2, T5, umT5), by the library of that name. A build without it knows
   such a file and says what is missing. */
#include <string.h>

#include "core/alloc.h"
#include "data/bpe_impl.h"
#include "data/sentencepiece_impl.h"

/* A serialised ModelProto begins with its first piece: field 1, a message. */
static bool spm_accepts(const sy_tokenizer_source *source)
{
    return source->n_bytes > 0 && source->bytes[0] == '\n';
}

#ifdef SY_SENTENCEPIECE

/* Ids become text one by one, so that text may be shown as it comes; it begins with the space that
   the model puts before a text. */
typedef struct model {
    sy__spm *spm;
    int64_t longest;
} model;

static void spm_close(sy_tokenizer *tokenizer)
{
    model *m = tokenizer->self;
    sy__spm_close(m->spm);
    sy_free(&m);
}

static sy_status spm_open(const sy_tokenizer_source *source, sy_tokenizer *tokenizer)
{
    sy_status st = SY_OK;
    char why[256] = "";
    model *m = NULL;
    SY_REQUIRE(source->encoding == NULL, SY_ERR_USAGE,
               "%s: '%s:' stands before a rank file, and this is a SentencePiece model",
               source->name, source->encoding);
    SY_TRY(sy_alloc(1, sizeof *m, (void **)&m));
    m->spm = sy__spm_open(source->bytes, (size_t)source->n_bytes, why, sizeof why);
    SY_REQUIRE(m->spm != NULL, SY_ERR_USAGE, "%s: not a SentencePiece model: %s", source->name,
               why);
    m->longest = sy__spm_longest(m->spm);
    tokenizer->vocab_size = sy__spm_n_ids(m->spm);
    tokenizer->eod_id = sy__spm_eos(m->spm) >= 0 ? sy__spm_eos(m->spm) : tokenizer->vocab_size;
    tokenizer->self = m;
    m = NULL;

cleanup:
    sy_free(&m);
    return st;
}

/* Its normal form KC makes at most 18 characters of one, and a character falls back to its bytes.
 */
static int64_t spm_max_ids(const sy_tokenizer *tokenizer, int64_t n_bytes)
{
    (void)tokenizer;
    return 18 * n_bytes + 16;
}

static int64_t spm_max_bytes(const sy_tokenizer *tokenizer, int64_t n_ids)
{
    const model *m = tokenizer->self;
    return n_ids * m->longest;
}

/* What is put before a text and what is done with its spaces depend on all of it. */
static int64_t spm_cut(const sy_tokenizer *tokenizer, const char *text, int64_t n_bytes)
{
    (void)tokenizer;
    (void)text;
    (void)n_bytes;
    return 0;
}

static sy_status spm_encode(const sy_tokenizer *tokenizer, const char *text, int64_t n_bytes,
                            int32_t *ids, int64_t *n_ids)
{
    sy_status st = SY_OK;
    const model *m = tokenizer->self;
    const int64_t max = spm_max_ids(tokenizer, n_bytes);
    const int64_t valid = tokenizer->refuse_invalid ? sy__utf8_valid(text, n_bytes) : n_bytes;
    int64_t n = 0;
    SY_REQUIRE(valid == n_bytes, SY_ERR_USAGE, "byte %lld of the text is not UTF-8",
               (long long)valid);
    n = sy__spm_encode(m->spm, text, (size_t)n_bytes, ids, max);
    SY_REQUIRE(n >= 0 && n <= max, SY_ERR_INTERNAL, "SentencePiece cannot encode %lld bytes",
               (long long)n_bytes);
    *n_ids = n;

cleanup:
    return st;
}

static sy_status spm_decode(const sy_tokenizer *tokenizer, const int32_t *ids, int64_t n_ids,
                            char *text, int64_t *n_bytes)
{
    sy_status st = SY_OK;
    const model *m = tokenizer->self;
    int64_t n = 0;
    for (int64_t i = 0; i < n_ids; i++) {
        SY_REQUIRE(ids[i] >= 0, SY_ERR_USAGE, "token id %d is negative", ids[i]);
        if (ids[i] < tokenizer->vocab_size) {
            n += sy__spm_decode(m->spm, ids[i], text + n, m->longest);
        }
    }
    *n_bytes = n;

cleanup:
    return st;
}

const sy_tokenizer_ops sy__tokenizer_sentencepiece = {
    .name = NULL,
    .accepts = spm_accepts,
    .open = spm_open,
    .close = spm_close,
    .max_ids = spm_max_ids,
    .max_bytes = spm_max_bytes,
    .cut = spm_cut,
    .encode = spm_encode,
    .decode = spm_decode,
};

#else

static sy_status spm_open(const sy_tokenizer_source *source, sy_tokenizer *tokenizer)
{
    (void)tokenizer;
    return sy_error(SY_ERR_UNSUPPORTED,
                    "%s is a SentencePiece model, and this build is without that library: install "
                    "libsentencepiece-dev and build again",
                    source->name);
}

/* Never opened, so nothing else is ever called. */
const sy_tokenizer_ops sy__tokenizer_sentencepiece = {.accepts = spm_accepts, .open = spm_open};

#endif

/* The bytes tokenizer: id = byte value; 256 ends a document. Any text, any language, no file. */
#include "data/tokenizer_impl.h"

enum { N_BYTE_VALUES = 256 };

static bool bytes_accepts(const sy_tokenizer_source *source)
{
    (void)source;
    return false; /* it has a name */
}

static sy_status bytes_open(const sy_tokenizer_source *source, sy_tokenizer *tokenizer)
{
    (void)source;
    tokenizer->vocab_size = N_BYTE_VALUES;
    tokenizer->eod_id = N_BYTE_VALUES;
    return SY_OK;
}

static void bytes_close(sy_tokenizer *tokenizer)
{
    (void)tokenizer;
}

static int64_t bytes_same(const sy_tokenizer *tokenizer, int64_t n)
{
    (void)tokenizer;
    return n;
}

static int64_t bytes_cut(const sy_tokenizer *tokenizer, const char *text, int64_t n_bytes)
{
    (void)tokenizer;
    (void)text;
    return n_bytes;
}

static sy_status bytes_encode(const sy_tokenizer *tokenizer, const char *text, int64_t n_bytes,
                              int32_t *ids, int64_t *n_ids)
{
    (void)tokenizer;
    for (int64_t i = 0; i < n_bytes; i++) {
        ids[i] = (uint8_t)text[i];
    }
    *n_ids = n_bytes;
    return SY_OK;
}

static sy_status bytes_decode(const sy_tokenizer *tokenizer, const int32_t *ids, int64_t n_ids,
                              char *text, int64_t *n_bytes)
{
    sy_status st = SY_OK;
    int64_t n = 0;
    (void)tokenizer;
    for (int64_t i = 0; i < n_ids; i++) {
        SY_REQUIRE(ids[i] >= 0, SY_ERR_USAGE, "token id %d is negative", ids[i]);
        if (ids[i] < N_BYTE_VALUES) {
            text[n++] = (char)(uint8_t)ids[i];
        }
    }
    *n_bytes = n;

cleanup:
    return st;
}

const sy_tokenizer_ops sy__tokenizer_bytes = {
    .name = "bytes",
    .accepts = bytes_accepts,
    .open = bytes_open,
    .close = bytes_close,
    .max_ids = bytes_same,
    .max_bytes = bytes_same,
    .cut = bytes_cut,
    .encode = bytes_encode,
    .decode = bytes_decode,
};

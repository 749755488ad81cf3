/* Byte-level BPE as a tokenizer: of a tokenizer.json or a rank file. */
#include <string.h>

#include "core/alloc.h"
#include "data/bpe_impl.h"

static void free_bpe(sy__bpe *b)
{
    for (int32_t i = 0; i < b->n_splits; i++) {
        sy__pattern_close(&b->split[i]);
    }
    sy__bpe_pool_destroy(&b->pool);
    sy__added_free(&b->added);
    sy__merges_free(&b->merges);
    sy__vocab_free(&b->vocab);
    sy_free(&b);
}

/* Every byte must be a token, or there is text that cannot be said. */
static sy_status find_bytes(const char *name, sy__bpe *b)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < 256; i++) {
        const char byte = (char)(uint8_t)i;
        b->byte_id[i] = sy__vocab_find(&b->vocab, &byte, 1);
        SY_REQUIRE(b->byte_id[i] >= 0, SY_ERR_USAGE, "%s: byte 0x%02x is not among the tokens",
                   name, i);
    }

cleanup:
    return st;
}

static sy_status bpe_open(const sy_tokenizer_source *source, sy_tokenizer *tokenizer)
{
    sy_status st = SY_OK;
    sy__bpe *b = NULL;
    SY_TRY(sy_alloc(1, sizeof *b, (void **)&b));
    SY_TRY(sy__bpe_pool_create(&b->pool));
    b->eod_id = -1;
    SY_TRY(source->bytes[0] == '{' ? sy__bpe_read_json(source, b) : sy__bpe_read_ranks(source, b));
    SY_TRY(find_bytes(source->name, b));
    sy__added_sort(&b->added);
    tokenizer->vocab_size = b->vocab.n_ids;
    tokenizer->eod_id = b->eod_id >= 0 ? b->eod_id : b->vocab.n_ids;
    tokenizer->self = b;
    b = NULL;

cleanup:
    if (b != NULL) {
        free_bpe(b);
    }
    return st;
}

static void bpe_close(sy_tokenizer *tokenizer)
{
    free_bpe(tokenizer->self);
}

static bool bpe_accepts(const sy_tokenizer_source *source)
{
    if (source->n_bytes == 0) {
        return false;
    }
    return source->bytes[0] == '{' || sy__bpe_is_rank_file(source);
}

/* A byte gives an id at most; what is not UTF-8 becomes three, and normal form C trebles at most.
 */
static int64_t bpe_max_ids(const sy_tokenizer *tokenizer, int64_t n_bytes)
{
    (void)tokenizer;
    return 4 * n_bytes + 16;
}

static int64_t bpe_max_bytes(const sy_tokenizer *tokenizer, int64_t n_ids)
{
    const sy__bpe *b = tokenizer->self;
    return n_ids * b->vocab.longest;
}

/* May a token that is matched before the pattern lie across a seam, or feel what is behind one? */
static bool added_blurs_seams(const sy__bpe *b, bool special)
{
    for (int32_t i = 0; i < b->added.n; i++) {
        const sy__added_token *t = &b->added.token[i];
        bool blurs = t->lstrip || t->rstrip || t->single_word;
        for (int64_t at = 1; at < t->n; at++) {
            blurs |= t->text[at] == ' ' || t->text[at - 1] == '\n';
        }
        if (blurs && (special || !t->special)) {
            return true;
        }
    }
    return false;
}

static int64_t bpe_cut(const sy_tokenizer *tokenizer, const char *text, int64_t n_bytes)
{
    const sy__bpe *b = tokenizer->self;
    if (b->n_splits != 1 || !b->split[0].is_known ||
        added_blurs_seams(b, tokenizer->match_special)) {
        return 0;
    }
    for (int64_t at = n_bytes - 1; at > 0; at--) {
        if (sy__pattern_is_seam(text, n_bytes, at, !b->prefix_space)) {
            return at;
        }
    }
    return 0;
}

static sy_status bpe_encode(const sy_tokenizer *tokenizer, const char *text, int64_t n_bytes,
                            int32_t *ids, int64_t *n_ids)
{
    return sy__bpe_encode(tokenizer->self, tokenizer->match_special, tokenizer->refuse_invalid,
                          text, n_bytes, ids, n_ids);
}

static sy_status bpe_decode(const sy_tokenizer *tokenizer, const int32_t *ids, int64_t n_ids,
                            char *text, int64_t *n_bytes)
{
    sy_status st = SY_OK;
    const sy__vocab *v = &((const sy__bpe *)tokenizer->self)->vocab;
    int64_t n = 0;
    for (int64_t i = 0; i < n_ids; i++) {
        SY_REQUIRE(ids[i] >= 0, SY_ERR_USAGE, "token id %d is negative", ids[i]);
        if (ids[i] < v->n_ids && v->length[ids[i]] >= 0 && ids[i] != tokenizer->eod_id) {
            memcpy(text + n, v->bytes + v->at[ids[i]], (size_t)v->length[ids[i]]);
            n += v->length[ids[i]];
        }
    }
    *n_bytes = n;

cleanup:
    return st;
}

const sy_tokenizer_ops sy__tokenizer_bpe = {
    .name = NULL,
    .accepts = bpe_accepts,
    .open = bpe_open,
    .close = bpe_close,
    .max_ids = bpe_max_ids,
    .max_bytes = bpe_max_bytes,
    .cut = bpe_cut,
    .encode = bpe_encode,
    .decode = bpe_decode,
};

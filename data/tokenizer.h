/* Text to token ids and back. A tokenizer is a file of its own and one line in the table of
 * tokenizer.c. */
#ifndef SY_DATA_TOKENIZER_H
#define SY_DATA_TOKENIZER_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_tokenizer sy_tokenizer;

/* What a tokenizer gives; all slots are filled. text [n_bytes] is any bytes, with NULs, not
 * terminated. */
typedef struct sy_tokenizer_ops {
    const char
        *name; /* as `data.tokenizer` and `--tokenizer` say it, where accepts asks for no file */
    /* Does this tokenizer read `spec`, a name or a file? Looks at the spec alone, opens nothing. */
    bool (*accepts)(const char *spec);
    /* Fills what the ops need into tokenizer->self, and vocab_size and eod_id. */
    sy_status (*open)(const char *spec, sy_tokenizer *tokenizer);
    void (*close)(sy_tokenizer *tokenizer);
    /* Upper bounds: ids of n_bytes of text, bytes of n ids. */
    int64_t (*max_ids)(const sy_tokenizer *tokenizer, int64_t n_bytes);
    int64_t (*max_bytes)(const sy_tokenizer *tokenizer, int64_t n_ids);
    /* The longest beginning of text that may be encoded apart from what follows it; 0: none, show
     * more. */
    int64_t (*cut)(const sy_tokenizer *tokenizer, const char *text, int64_t n_bytes);
    sy_status (*encode)(const sy_tokenizer *tokenizer, const char *text, int64_t n_bytes,
                        int32_t *ids, int64_t *n_ids);
    sy_status (*decode)(const sy_tokenizer *tokenizer, const int32_t *ids, int64_t n_ids,
                        char *text, int64_t *n_bytes);
} sy_tokenizer_ops;

struct sy_tokenizer {
    const sy_tokenizer_ops *ops;
    int32_t vocab_size; /* ids that text can give are below it */
    int32_t eod_id; /* end of document; may equal vocab_size: then a model that sees it needs one id
                       more */
    void *self;
};

/* The tokenizer that reads spec ("bytes" or a file). Not collective.
   Errors: SY_ERR_USAGE names the spec and the nearest known name, or says that "none" reads none.
 */
sy_status sy_tokenizer_open(const char *spec, sy_tokenizer **out);
/* NULL is fine. Not collective. */
void sy_tokenizer_close(sy_tokenizer **tokenizer);
/* May a configuration name spec? "none" too: token ids only. Opens nothing. Not collective. Errors:
 * as sy_tokenizer_open. */
sy_status sy_tokenizer_check(const char *spec);

/* Upper bounds for the arrays of encode and decode. Not collective. */
int64_t sy_tokenizer_max_ids(const sy_tokenizer *tokenizer, int64_t n_bytes);
int64_t sy_tokenizer_max_bytes(const sy_tokenizer *tokenizer, int64_t n_ids);
/* Where a long text may be cut without changing its ids. Not collective. */
int64_t sy_tokenizer_cut(const sy_tokenizer *tokenizer, const char *text, int64_t n_bytes);
/* text [n_bytes] -> ids [*n_ids]. Not collective. Requires room for max_ids(n_bytes) ids. */
sy_status sy_tokenizer_encode(const sy_tokenizer *tokenizer, const char *text, int64_t n_bytes,
                              int32_t *ids, int64_t *n_ids);
/* ids [n_ids] -> text [*n_bytes], not terminated. Not collective. Requires room for
   max_bytes(n_ids) bytes. Ids without text (end of document, a vocabulary's padding) give nothing;
   a negative id: SY_ERR_USAGE. */
sy_status sy_tokenizer_decode(const sy_tokenizer *tokenizer, const int32_t *ids, int64_t n_ids,
                              char *text, int64_t *n_bytes);

#ifdef __cplusplus
}
#endif
#endif

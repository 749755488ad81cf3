/* Text to token ids and back. A tokenizer is a file of its own and one line in the table of
   tokenizer.c. One that is open does not change, but for the two switches below: threads share
   it. */
#ifndef SY_DATA_TOKENIZER_H
#define SY_DATA_TOKENIZER_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_tokenizer sy_tokenizer;

/* What a tokenizer is opened from. */
typedef struct sy_tokenizer_source {
    const char *name;     /* as the user gave it, without the encoding */
    const char *encoding; /* what stood before it and a colon; NULL: nothing */
    const char *bytes;    /* [n_bytes] of the file; NULL: the name is all there is */
    int64_t n_bytes;
} sy_tokenizer_source;

/* What a tokenizer gives; all slots are filled. text [n_bytes] is any bytes, with NULs, not
 * terminated. */
typedef struct sy_tokenizer_ops {
    const char *name; /* what users choose it by; NULL: it reads a file */
    /* Does this tokenizer read that file? Looks at the first bytes. */
    bool (*accepts)(const sy_tokenizer_source *source);
    /* Fills what the ops need into tokenizer->self, and vocab_size and eod_id. */
    sy_status (*open)(const sy_tokenizer_source *source, sy_tokenizer *tokenizer);
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
    int32_t eod_id;  /* end of document; may be vocab_size or above: then a model that sees it needs
                        more ids */
    char *path;      /* of that file; NULL: it has none */
    uint64_t digest; /* of the file that it was opened from; 0: it has none */
    /* For the caller to set before the first text: special tokens in a text are themselves, not
       text; what is not UTF-8 is an error, not U+FFFD (bytes has neither). */
    bool match_special, refuse_invalid;
    void *self;
};

/* The tokenizer that spec names. Not collective. spec: "bytes"; a file, which is a tokenizer.json,
   a rank file of tiktoken or a SentencePiece model; a folder with one of the first and the last;
   ENCODING:FILE for a rank file whose name does not say its encoding. Anything with a slash or a
   dot is a file. Errors: SY_ERR_USAGE names the spec and the nearest known name, or the file and
   what is wrong in it, or says that "none" reads none; SY_ERR_UNSUPPORTED for a SentencePiece model
   in a build without it. */
sy_status sy_tokenizer_open(const char *spec, sy_tokenizer **out);
/* The tokenizer of a file in memory, bytes [n_bytes]. Not collective. */
sy_status sy_tokenizer_open_bytes(const char *name, const char *bytes, int64_t n_bytes,
                                  sy_tokenizer **out);
/* NULL is fine. Not collective. */
void sy_tokenizer_close(sy_tokenizer **tokenizer);
/* End documents with the token whose text is eod; "config": with the eos_token of
   tokenizer_config.json in the tokenizer's folder. Not collective; before any thread encodes.
   Errors: SY_ERR_USAGE for a text that is not one token, a file that is not there or says none. */
sy_status sy_tokenizer_set_eod(sy_tokenizer *tokenizer, const char *eod);
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

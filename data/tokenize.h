/* The engine of `switchyard tokenize`: text and JSONL files to one token file, streaming, in the
 * order given. */
#ifndef SY_DATA_TOKENIZE_H
#define SY_DATA_TOKENIZE_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_tokenize_spec {
    const char *const *inputs; /* [n_inputs] a name ending in .jsonl: one document per line; else
                                  the file is one document; either also with .gz or .zst behind */
    int32_t n_inputs;
    const char *prefix;    /* PREFIX.bin and PREFIX.idx are written */
    const char *tokenizer; /* as sy_tokenizer_open takes it */
    const char *jsonl_key; /* NULL: "text" */
    bool append_eod;       /* end each document that has tokens with the tokenizer's eod id */
    const char *eod;       /* (optional) another id for it: as sy_tokenizer_set_eod takes it */
    bool match_special;    /* special tokens in a text are themselves; else text like any other */
    bool refuse_invalid; /* text that is not UTF-8 is an error, a line of JSONL that is not, or has
                            half of a surrogate pair, is wrong; else U+FFFD stands in for it */
    bool skip_bad_lines; /* lines of JSONL that are wrong are counted and left out */
    int32_t n_workers;   /* threads; 0: one. The output is the same for any number */
    bool restart;        /* begin anew, even where a job that died left its part */
    double journal_s;    /* seconds between two records of how far the job is; 0: two, or twenty
                            times what one takes */
    /* (optional) Called at the begin, which is not 0 where a job goes on, and now and then, with
       bytes read and bytes of all inputs, and bytes of text. */
    void (*progress)(void *arg, int64_t n_done, int64_t n_all, int64_t n_text);
    void *progress_arg;
} sy_tokenize_spec;

typedef struct sy_tokenize_result {
    int64_t n_documents, n_tokens;
    int64_t n_bytes;     /* of text, without JSON around it */
    int64_t n_bad_lines; /* that were skipped */
    char first_bad[512]; /* FILE:LINE of the first */
} sy_tokenize_result;

/* Tokenize all inputs. Not collective.
   Memory is bounded by the longest line of JSONL, and by the longest stretch of text that the
   tokenizer does not let be cut: of SentencePiece and unknown patterns, a whole text. Blank lines
   of JSONL are skipped; of bad ones that are, the first few are named in warnings. Where a job with
   the same inputs (names, sizes, times), tokenizer and options died, this one goes on from its last
   record, PREFIX.journal.tmp, and says so; the output is the same. Ensures: the output appears only
   when complete; on error what stood under PREFIX is untouched. Errors: SY_ERR_USAGE for a missing
   input, one that would be replaced by the output, an unknown tokenizer, no tokens at all, or
   FILE:LINE: and what is wrong with a line; SY_ERR_IO, after which the part that is done stays. */
sy_status sy_tokenize(const sy_tokenize_spec *spec, sy_tokenize_result *out);

#ifdef __cplusplus
}
#endif
#endif

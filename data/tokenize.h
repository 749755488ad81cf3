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
                                  the file is one document */
    int32_t n_inputs;
    const char *prefix;    /* PREFIX.bin and PREFIX.idx are written */
    const char *tokenizer; /* "bytes" */
    const char *jsonl_key; /* NULL: "text" */
    bool append_eod;       /* end each document that has tokens with the tokenizer's eod id */
    /* (optional) Called now and then with bytes read and bytes of all inputs. */
    void (*progress)(void *arg, int64_t n_done, int64_t n_all);
    void *progress_arg;
} sy_tokenize_spec;

typedef struct sy_tokenize_result {
    int64_t n_documents, n_tokens;
    int64_t n_bytes; /* of text, without JSON around it */
} sy_tokenize_result;

/* Tokenize all inputs. Not collective.
   Memory is bounded by the longest line of JSONL; text files are read in pieces. Blank lines of
   JSONL are skipped. Ensures: the output appears only when complete; on error what stood under
   PREFIX is untouched. Errors: SY_ERR_USAGE for a missing input, an unknown tokenizer, no tokens at
   all, or FILE:LINE: and what is wrong with a line. */
sy_status sy_tokenize(const sy_tokenize_spec *spec, sy_tokenize_result *out);

#ifdef __cplusplus
}
#endif
#endif

/* Token files in the Megatron indexed format: PREFIX.bin holds the token ids back to back,
   PREFIX.idx where each sequence and each document begins. The reader maps both and trusts nothing
   in them. Byte layout: data/token_file_impl.h. */
#ifndef SY_DATA_TOKEN_FILE_H
#define SY_DATA_TOKEN_FILE_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_token_file sy_token_file;

/* Open PREFIX.bin and PREFIX.idx for reading and check the whole index.
   Not collective. vocab_size > 0: every id read must be below it; a .bin of at most
   SY_TOKEN_SCAN_BYTES is read through at once, a larger one is checked as it is read. 0: ids are
   only required to fit an int32. Errors: SY_ERR_USAGE names the file and the reason (missing,
   empty, truncated, foreign, no tokens, id out of range). */
sy_status sy_token_file_open(const char *prefix, int64_t vocab_size, sy_token_file **out);
/* Unmap and free; NULL is fine. Not collective. */
void sy_token_file_close(sy_token_file **file);

enum { SY_TOKEN_SCAN_BYTES = 64 << 20 };

/* The token stream is all sequences one after the other. All are at least 1 but documents, which
 * may be empty. Not collective. */
int64_t sy_token_file_n_tokens(const sy_token_file *file);
int64_t sy_token_file_n_sequences(const sy_token_file *file);
int64_t sy_token_file_n_documents(const sy_token_file *file);
/* Position in the stream at which a document begins; for n_documents the end of the stream.
   Not collective. Requires 0 <= document <= n_documents. */
int64_t sy_token_file_document_start(const sy_token_file *file, int64_t document);
/* Tokens of a document; may be 0. Not collective. Requires 0 <= document < n_documents. */
int64_t sy_token_file_document_length(const sy_token_file *file, int64_t document);
/* The document that holds a position. Not collective. Requires 0 <= position < n_tokens. */
int64_t sy_token_file_document_of(const sy_token_file *file, int64_t position);

/* Tokens first .. first+n-1 of the stream, across documents, into out [n].
   Not collective; safe from several threads. Errors: SY_ERR_USAGE with file and offset where an id
   is negative or too large (what out holds then is unspecified); SY_ERR_INTERNAL where the range
   leaves the stream. */
sy_status sy_token_file_read(const sy_token_file *file, int64_t first, int64_t n, int32_t *out);

#ifdef __cplusplus
}
#endif
#endif

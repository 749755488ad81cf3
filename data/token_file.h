/* Token files. Megatron's indexed format: PREFIX.bin holds the token ids back to back, PREFIX.idx
   where each sequence and each document begins (byte layout: data/token_file_impl.h). Or one file
   with a stream of ids: llm.c's .bin (a header of 1024 bytes), numpy's .npy, or no header at all,
   as nanoGPT and OLMo write them. The reader maps them and trusts nothing in them. */
#ifndef SY_DATA_TOKEN_FILE_H
#define SY_DATA_TOKEN_FILE_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_token_file sy_token_file;

typedef struct sy_token_file_spec {
    int64_t
        vocab_size;   /* every id read must be below it; 0: ids are only required to fit an int32 */
    const char *type; /* of the ids in a file without header: u8, u16, u32, u64, i32, i64; NULL:
                         u16, and in a file named .npy the smallest that holds vocab_size (OLMo) */
    bool has_eod;     /* an id that ends a document, for files without an index */
    int32_t eod;
} sy_token_file_spec;

/* Open PREFIX.bin and PREFIX.idx, or the one file `path`, and check what says where tokens lie.
   A .bin of at most SY_TOKEN_SCAN_BYTES is read through at once, a larger one is checked as it is
   read. Errors: SY_ERR_USAGE names the file and the reason (missing, empty, truncated, foreign, no
   tokens, id out of range). Not collective. */
sy_status sy_token_file_open_as(const char *path, const sy_token_file_spec *spec,
                                sy_token_file **out);
/* The same with nothing but a vocabulary. Not collective. */
sy_status sy_token_file_open(const char *path, int64_t vocab_size, sy_token_file **out);
/* The path of the tokens' file. Not collective. */
const char *sy_token_file_path(const sy_token_file *file);
/* Unmap and free; NULL is fine. Not collective. */
void sy_token_file_close(sy_token_file **file);

enum { SY_TOKEN_SCAN_BYTES = 64 << 20 };

/* The token stream is all sequences one after the other. All are at least 1 but documents, which
 * may be empty. Not collective. */
int64_t sy_token_file_n_tokens(const sy_token_file *file);
/* Does an index say where documents begin? All that is said of documents and sequences below
   requires it. Without one, they end after each id `eod` (-1: not known). Not collective. */
bool sy_token_file_has_documents(const sy_token_file *file);
int64_t sy_token_file_eod(const sy_token_file *file);
int64_t sy_token_file_n_sequences(const sy_token_file *file);
int64_t sy_token_file_n_documents(const sy_token_file *file);
/* Position in the stream at which a sequence begins; for n_sequences the end of the stream.
   Not collective. Requires 0 <= i <= n_sequences. */
int64_t sy_token_file_sequence_start(const sy_token_file *file, int64_t i);
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

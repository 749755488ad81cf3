/* Streaming writer of token files (data/token_file.h): memory does not grow with the data. The
   files appear under their final names only when all is written. */
#ifndef SY_DATA_TOKEN_WRITER_H
#define SY_DATA_TOKEN_WRITER_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_token_writer sy_token_writer;

/* Begin PREFIX.bin and PREFIX.idx under temporary names beside them (PREFIX.{bin,idx,doc}.tmp).
   Not collective. Ids are stored as u16 where vocab_size < 65500, else as i32 (Megatron's rule).
   Requires vocab_size > 0. Errors: SY_ERR_USAGE where the folder cannot be written. */
sy_status sy_token_writer_create(const char *prefix, int64_t vocab_size, sy_token_writer **out);
/* How far a writer is. */
typedef struct sy_token_writer_mark {
    int64_t n_tokens, n_documents, n_sequences;
    int64_t open_tokens; /* of the document not yet ended */
} sy_token_writer_mark;

/* What was written so far is on disk when this returns; *mark says how far that is.
   Not collective. Errors: SY_ERR_IO. */
sy_status sy_token_writer_sync(sy_token_writer *writer, sy_token_writer_mark *mark);
/* As sy_token_writer_create, but go on at a mark of a writer that died, with the same prefix and
   vocab_size; what it wrote behind the mark is dropped. *out stays NULL where the temporary files
   do not reach the mark. Not collective. */
sy_status sy_token_writer_reopen(const char *prefix, int64_t vocab_size,
                                 const sy_token_writer_mark *mark, sy_token_writer **out);
/* Free, but leave the temporary files for sy_token_writer_reopen. NULL is fine. Not collective. */
void sy_token_writer_leave(sy_token_writer **writer);
/* Add ids [n] to the open document. Not collective.
   Errors: SY_ERR_IO; SY_ERR_USAGE for a document of more than 2^31-1 tokens; SY_ERR_INTERNAL for an
   id outside 0 .. vocab_size-1. */
sy_status sy_token_writer_append(sy_token_writer *writer, const int32_t *ids, int64_t n);
/* End the open document; one without tokens is kept as an empty document. Not collective. */
sy_status sy_token_writer_end_document(sy_token_writer *writer);
/* Write the index, sync both files and give them their final names, replacing older ones.
   Not collective. Requires that the last document was ended. Errors: SY_ERR_IO; SY_ERR_USAGE where
   no token was written. */
sy_status sy_token_writer_finish(sy_token_writer *writer);
/* Free; what was not finished is removed from disk. NULL is fine. Not collective. */
void sy_token_writer_destroy(sy_token_writer **writer);

#ifdef __cplusplus
}
#endif
#endif

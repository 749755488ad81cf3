/* A checkpoint opened for reading parts of any dataset, each integrity piece verified before a byte
   of it is believed. For whoever streams a model through (export, upcycle, merge, diff) and never
   holds it. */
#ifndef SY_CHECKPOINT_READER_H
#define SY_CHECKPOINT_READER_H

#include "checkpoint/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_reader sy_reader;

/* Rank 0 opens and checks the file as sy_checkpoint_load does, and shares what it found. Collective
   over comm. */
sy_status sy_reader_open(const char *path, sy_comm *comm, sy_reader **out);
void sy_reader_close(sy_reader **reader);
/* What the file says about itself; the entries are numbered as here. Not collective. */
const sy_checkpoint_info *sy_reader_info(const sy_reader *reader);
/* The entry of that path (without a leading '/'), or -1. Not collective. */
int32_t sy_reader_find(const sy_reader *reader, const char *path);
/* Elements [first, first + n) of an entry, in the file's type: *h_out is valid until the next call.
   Requires that they lie in one piece; see sy_reader_piece. A checksum that fails: SY_ERR_DAMAGED
   naming dataset and piece. A piece is read and verified once as long as calls stay in it.
   Not collective. */
sy_status sy_reader_get(sy_reader *reader, int32_t entry, int64_t first, int64_t n,
                        const void **h_out);
/* The piece that holds element `at`: elements [*first, *first + *n). Not collective. */
void sy_reader_piece(const sy_reader *reader, int32_t entry, int64_t at, int64_t *first,
                     int64_t *n);
/* Elements [first, first + n) in another float type, across any pieces, into h_to.
   Not collective. */
sy_status sy_reader_read(sy_reader *reader, int32_t entry, int64_t first, int64_t n, sy_dtype dtype,
                         void *h_to);

#ifdef __cplusplus
}
#endif
#endif

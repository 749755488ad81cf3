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
/* How many datasets there are, and one of them (its path belongs to the reader); /integrity is not
   among them. Not collective. */
int32_t sy_reader_n(const sy_reader *reader);
sy_checkpoint_entry sy_reader_entry(const sy_reader *reader, int32_t entry);
/* The dataset of that path (without a leading '/'), or -1. Not collective. */
int32_t sy_reader_find(const sy_reader *reader, const char *path);
/* The integrity piece that holds element `at`: elements [*first, *first + *n). Requires an element
   of that number. Not collective. */
void sy_reader_piece(const sy_reader *reader, int32_t entry, int64_t at, int64_t *first,
                     int64_t *n);
/* Elements from `first` on, in the file's type: as many as lie in its piece, at most n. *h_out is
   valid until the next call. A piece is read and verified once as long as calls stay in it. A
   checksum that fails: SY_ERR_DAMAGED naming dataset and bytes. Not collective. */
sy_status sy_reader_get(sy_reader *reader, int32_t entry, int64_t first, int64_t n,
                        const void **h_out, int64_t *n_out);
/* Elements [first, first + n) as `dtype` (the file's own, or another float type) into h_to.
   Not collective. */
sy_status sy_reader_read(sy_reader *reader, int32_t entry, int64_t first, int64_t n, sy_dtype dtype,
                         void *h_to);

#ifdef __cplusplus
}
#endif
#endif

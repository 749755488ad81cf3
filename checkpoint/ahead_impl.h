/* Pieces of a file, read and verified ahead of whoever takes them, so that disk, checksums and the
   taker work at the same time. */
#ifndef SY_CHECKPOINT_AHEAD_IMPL_H
#define SY_CHECKPOINT_AHEAD_IMPL_H

#include "checkpoint/catalog_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy__ahead sy__ahead;

typedef struct sy__want {
    int64_t piece; /* its number */
    void *h_to;    /* where it is to be read to; NULL: into memory of the reader's */
} sy__want;

/* Start threads that read pieces, want [n], in this order. path, cat and want stay valid until the
   close. A file of another size than the catalog's: SY_ERR_IO. Not collective. */
sy_status sy__ahead_open(const char *path, const sy__catalog *cat, const sy__want *want, int64_t n,
                         sy__ahead **out);
/* The bytes of the next piece, in memory of the reader's valid until the next call; see
   sy__piece_read. Requires that there is one. Not collective. */
sy_status sy__ahead_next(sy__ahead *ahead, const void **h_bytes);
/* Also before all pieces were taken. Not collective. */
void sy__ahead_close(sy__ahead **ahead);

#ifdef __cplusplus
}
#endif
#endif

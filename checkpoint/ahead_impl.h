/* Pieces of a file, read and verified ahead of whoever takes them, so that disk, checksums and the
   taker work at the same time. */
#ifndef SY_CHECKPOINT_AHEAD_IMPL_H
#define SY_CHECKPOINT_AHEAD_IMPL_H

#include "checkpoint/catalog_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy__ahead sy__ahead;

/* Start threads that read the pieces of that number, piece [n], in this order. path, cat and piece
   stay valid until the close. A file of another size than the catalog's: SY_ERR_IO.
   Not collective. */
sy_status sy__ahead_open(const char *path, const sy__catalog *cat, const int64_t *piece, int64_t n,
                         sy__ahead **out);
/* The bytes of the next piece, valid until the next call; see sy__piece_read. Requires that there
   is one. Not collective. */
sy_status sy__ahead_next(sy__ahead *ahead, const void **h_bytes);
/* Also before all pieces were taken. Not collective. */
void sy__ahead_close(sy__ahead **ahead);

#ifdef __cplusplus
}
#endif
#endif

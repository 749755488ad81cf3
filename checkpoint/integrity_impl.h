/* The datasets below /integrity: the table of pieces, the digest over it and all that names the
   data, and the checksum of every byte that belongs to no dataset. */
#ifndef SY_CHECKPOINT_INTEGRITY_IMPL_H
#define SY_CHECKPOINT_INTEGRITY_IMPL_H

#include "checkpoint/catalog_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One row of /integrity/xxh3_64, as it lies in the file (little-endian). */
typedef struct sy__row {
    char dataset[SY__PATH_BYTES];
    uint64_t offset, length, xxh3;
} sy__row;

/* Write table and digest. Not collective. */
sy_status sy__integrity_write(int fd, const char *path, const sy__catalog *cat,
                              const sy__attributes *attributes);
/* Fill in the pieces from the table, and check the digest. Not collective. */
sy_status sy__integrity_read(int fd, const char *path, sy__catalog *cat,
                             const sy__attributes *attributes);
/* Bounds of every dataset against the file and against each other: SY_ERR_DAMAGED.
   Not collective. */
sy_status sy__extents_check(const char *path, const sy__catalog *cat);
/* Copy what lies between the datasets from one file to the other. Not collective. */
sy_status sy__structure_copy(int from, int to, const char *path, const sy__catalog *cat);
/* Where the value of attribute `created` lies, and the checksum that HDF5 keeps over it; no bytes
   where they are not found. Not collective. */
sy_status sy__created_extents(int fd, const char *path, sy__extent *value, sy__extent *checksum);
/* Write, or check, the checksum of what lies between the datasets, but `created`. Not collective.
 */
sy_status sy__structure_write(int fd, const char *path, const sy__catalog *cat);
sy_status sy__structure_check(int fd, const char *path, const sy__catalog *cat);

/* Open a file as rank 0 does it: attributes, datasets, pieces and digest, all checked.
   Not collective. */
sy_status sy__catalog_open(const char *path, sy__catalog *cat, sy__attributes *attributes);
/* The same, with the bytes between the datasets checked too, where no group /x was added (who adds
   one moves them). Not collective. */
sy_status sy__catalog_open_whole(const char *path, sy__catalog *cat);
/* Read a piece into `to` and check it. SY_ERR_DAMAGED names dataset and piece. Not collective. */
sy_status sy__piece_read(int fd, const char *path, const sy__catalog *cat, int64_t item,
                         int64_t piece, void *to);

#ifdef __cplusplus
}
#endif
#endif

/* The HDF5 side: the skeleton of a new file, the mark that it is complete, and a reader that trusts
   nothing. Called by rank 0 alone, by one thread at a time. No byte of a tensor passes through
   here. */
#ifndef SY_CHECKPOINT_H5_IMPL_H
#define SY_CHECKPOINT_H5_IMPL_H

#include "checkpoint/catalog_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Create a file with every dataset and attribute of it, complete = 0, and fill in the offsets. An
   old file of that name is replaced. Not collective. */
sy_status sy__h5_create(const char *path, sy__catalog *cat, const sy__attributes *attributes);
/* Set complete = 1. Not collective. */
sy_status sy__h5_complete(const char *path);
/* Attributes and datasets of a file, without the contents of its tables: pieces are not filled in.
   Whatever is not as we write it is SY_ERR_DAMAGED with the reason; see sy_checkpoint_info_read.
   Not collective. */
sy_status sy__h5_scan(const char *path, sy__catalog *cat, sy__attributes *attributes);

#ifdef __cplusplus
}
#endif
#endif

/* The HDF5 side: the skeleton of a new file, the mark that it is complete, and a reader that trusts
   nothing. Called by rank 0 alone; what writes, by one thread at a time, as the library wants it.
   No byte of a tensor passes through here. */
#ifndef SY_CHECKPOINT_H5_IMPL_H
#define SY_CHECKPOINT_H5_IMPL_H

#include "checkpoint/catalog_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A new file in memory (sparse: its datasets take no room) with every dataset and attribute,
   complete = 0; the offsets are filled in. HDF5 1.10 dies of a write that fails, so it never writes
   to a disk: what lies between the datasets is copied from here. path is for messages; the caller
   closes *image. Not collective. */
sy_status sy__h5_create(const char *path, sy__catalog *cat, const sy__attributes *attributes,
                        int *image);
/* Set complete = 1 in the image, and leave out the times that HDF5 has noted. Not collective. */
sy_status sy__h5_complete(const char *path, int image);
/* The second half of that. Not collective. */
sy_status sy__h5_clear_times(const char *path, int image);
/* Attributes and datasets of a file, without the contents of its tables: pieces are not filled in.
   Whatever is not as we write it is SY_ERR_DAMAGED with the reason; see sy_checkpoint_info_read.
   Not collective. */
sy_status sy__h5_scan(const char *path, sy__catalog *cat, sy__attributes *attributes);

#ifdef __cplusplus
}
#endif
#endif

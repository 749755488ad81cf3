/* HDF5 calls that return a status, and the types of a file. Only the h5 files include this. */
#ifndef SY_CHECKPOINT_H5_CALLS_IMPL_H
#define SY_CHECKPOINT_H5_CALLS_IMPL_H

#ifndef H5_USE_110_API
#define H5_USE_110_API
#endif
#include <hdf5.h>

#include "checkpoint/catalog_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Start the library where it is not up, and keep it from printing. Not collective. */
sy_status sy__h5_begin(void);
/* SY_OK where rc >= 0; else `kind`, "cannot <verb> 'path' ('name'): <innermost HDF5 error>"; name
   may be NULL. Not collective. */
sy_status sy__h5_check(int64_t rc, sy_status kind, const char *verb, const char *path,
                       const char *name);
/* Give back whatever id it is, where it is one, and set it to H5I_INVALID_HID. Not collective. */
void sy__h5_close(hid_t *id);

/* The type of a dtype in a file, and of a row of the integrity table; the caller closes it.
   Not collective. */
hid_t sy__h5_type(sy_dtype dtype);
hid_t sy__h5_row_type(void);
/* File access: no locks (they fail on many network file systems), and for files that we write the
   formats whose metadata carries checksums. `image`: of a file in memory, through stdio, because
   HDF5 asks its usual driver for a real path, which such a file has not. Not collective. */
hid_t sy__h5_access(bool image);

#ifdef __cplusplus
}
#endif
#endif

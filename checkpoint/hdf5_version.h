/* Which HDF5 runs here. */
#ifndef SY_CHECKPOINT_HDF5_VERSION_H
#define SY_CHECKPOINT_HDF5_VERSION_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* "HDF5 1.10.8", into buf; false where the program was built with another version, which HDF5 does
   not take (and says so). Not collective. */
bool sy_hdf5_version_format(char *buf, size_t buf_bytes);

#ifdef __cplusplus
}
#endif
#endif

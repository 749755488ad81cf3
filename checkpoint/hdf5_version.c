#include "checkpoint/hdf5_version.h"

#include <hdf5.h>
#include <stdio.h>

bool sy_hdf5_version_format(char *buf, size_t buf_bytes)
{
    unsigned major = 0, minor = 0, release = 0;
    const bool known = H5get_libversion(&major, &minor, &release) >= 0;
    const bool same = known && major == H5_VERS_MAJOR && minor == H5_VERS_MINOR;
    if (same) {
        snprintf(buf, buf_bytes, "HDF5 %u.%u.%u", major, minor, release);
    } else {
        snprintf(buf, buf_bytes, "HDF5 %u.%u.%u is loaded, and %d.%d.%d was built with", major,
                 minor, release, H5_VERS_MAJOR, H5_VERS_MINOR, H5_VERS_RELEASE);
    }
    return same;
}

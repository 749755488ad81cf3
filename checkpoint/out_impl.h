/* How a rank's bytes reach the file that all ranks write: by plain calls, or by MPI-IO, whose
   drivers know some file systems better. SY_CHECKPOINT_IO chooses: posix (where it is not set) or
   mpi. */
#ifndef SY_CHECKPOINT_OUT_IMPL_H
#define SY_CHECKPOINT_OUT_IMPL_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy__out sy__out;

/* A way to write. claim and flush may be NULL. */
typedef struct sy__way {
    const char *name;
    sy_status (*open)(sy__out *out);
    sy_status (*claim)(sy__out *out, int64_t bytes);
    sy_status (*write)(sy__out *out, const void *from, int64_t n, int64_t offset);
    void (*flush)(sy__out *out, int64_t n, int64_t offset);
    sy_status (*sync)(sy__out *out);
    sy_status (*close)(sy__out *out, bool written);
} sy__way;

struct sy__out {
    const sy__way *way; /* NULL: not open */
    const char *path;
    int fd;     /* posix */
    void *file; /* mpi */
};

/* Open an existing file. The calls are those of checkpoint/file_impl.h, and need no other rank. An
   unknown way: SY_ERR_USAGE. Not collective. */
sy_status sy__out_open(const char *path, sy__out *out);
sy_status sy__out_claim(sy__out *out, int64_t bytes);
sy_status sy__out_write(sy__out *out, const void *from, int64_t n, int64_t offset);
void sy__out_flush(sy__out *out, int64_t n, int64_t offset);
sy_status sy__out_sync(sy__out *out);
/* Also where it is not open. Not collective. */
sy_status sy__out_close(sy__out *out, bool written);

/* NULL where MPI is not up, or not for threads. Not collective. */
const sy__way *sy__way_mpi(void);

#ifdef __cplusplus
}
#endif
#endif

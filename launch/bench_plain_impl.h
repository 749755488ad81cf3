/* The bytes of a checkpoint by plain calls: what bench checkpoint stands beside. */
#ifndef SY_LAUNCH_BENCH_PLAIN_IMPL_H
#define SY_LAUNCH_BENCH_PLAIN_IMPL_H

#include "parallel/comm.h"

/* Every rank has n_fields parts of part_bytes, and a field is the parts of all ranks in a row. */
typedef struct sy__plain {
    sy_comm *world;
    const char *path;
    int64_t n_fields, part_bytes;
    char *h_data; /* [n_fields * part_bytes] */
} sy__plain;

/* A new file: pwrite of every part at its offset, then fsync. Collective over world. */
sy_status sy__plain_write(const sy__plain *p);
/* pread of this rank's equal share of a file, in calls of at most chunk bytes; keep: each to a
   place of its own in h_data. Collective over world. */
sy_status sy__plain_read(const sy__plain *p, const char *path, int64_t chunk, bool keep);
/* Nothing of the file stays in memory, where the file system can do that. Not collective. */
sy_status sy__plain_drop(const char *path);

#endif

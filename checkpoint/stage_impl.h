/* The way between device memory and the file: a bounded host buffer and a stream of our own. Host
   fields pass without a copy. */
#ifndef SY_CHECKPOINT_STAGE_IMPL_H
#define SY_CHECKPOINT_STAGE_IMPL_H

#include "parallel/state.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SY__STAGE_BYTES = SY_PULL_BYTES };

typedef struct sy__stage {
    void *h_buf; /* [SY__STAGE_BYTES] */
    sy_stream *stream;
    sy_device *dev; /* of the stream */
} sy__stage;

sy_status sy__stage_init(sy__stage *stage);
void sy__stage_free(sy__stage *stage);
/* Make the stream of a device now, on the thread that allocates; later calls find it. A stage keeps
   one. Not collective. */
sy_status sy__stage_use(sy__stage *stage, sy_device *dev);
/* Device memory that is host memory, where it lies; NULL where it is not, or may not be touched.
   For fields whose device has nothing left to do. Not collective. */
void *sy__stage_view(sy_device *dev, void *ptr);
/* Host bytes of n <= SY__STAGE_BYTES bytes at src: *h_out is valid until the next call.
   Not collective. */
sy_status sy__stage_fetch(sy__stage *stage, sy_device *dev, const void *src, int64_t n,
                          const void **h_out);
/* The same into memory of the caller's. Not collective. */
sy_status sy__stage_copy(sy__stage *stage, sy_device *dev, const void *src, int64_t n, void *h_to);
/* n elements of a file's type into memory of another. Not collective. */
sy_status sy__stage_store(sy__stage *stage, sy_device *dev, sy_dtype dst_type, void *dst,
                          sy_dtype src_type, const void *h_src, int64_t n);

#ifdef __cplusplus
}
#endif
#endif

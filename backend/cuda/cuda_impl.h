/* What the files of the cuda backend share: its device and stream, errors of the CUDA runtime as
   statuses, and the prototypes of its ops. The same sources are also compiled against an emulation
   of that runtime (tests/emulator), where the backend has another name. */
#ifndef SY_BACKEND_CUDA_CUDA_IMPL_H
#define SY_BACKEND_CUDA_CUDA_IMPL_H

#include <cuda_runtime_api.h>
#include <pthread.h>

#include "backend/backend_impl.h"
#include "backend/cuda/native.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifndef SY__CUDA_NAME
#define SY__CUDA_NAME "cuda"
#endif

/* Expert rows are aligned to this: the products look up where an expert ends, row by row. */
enum { SY_CUDA_ROW_MULTIPLE = 1 };

/* What a kernel found wrong with its operands, in memory that host and device share. The next sync
   of the stream says it. */
typedef enum sy__cuda_fault {
    SY__CUDA_NO_FAULT,
    SY__CUDA_EXPERT_OUT_OF_RANGE,
    SY__CUDA_OVER_CAPACITY,
    SY__CUDA_ROWS_DO_NOT_FIT,
    SY__N_CUDA_FAULTS
} sy__cuda_fault;

typedef struct sy__cuda_block {
    char *ptr;
    int64_t bytes;
    int64_t pages; /* bytes of backend/cuda/pages.h; 0: of cudaMalloc */
} sy__cuda_block;

typedef struct sy__cuda_device {
    int32_t ordinal, n_sms, capability; /* 90: 9.0 */
    size_t shared_bytes;                /* a block may have so much shared memory */
    void *encode_tensor_map; /* the driver's function; NULL: no products by product_hopper.cu */
    struct sy__cudnn *cudnn;
    pthread_mutex_t lock;
    sy__cuda_block *blocks; /* what was given out: only these addresses are device memory */
    int32_t n_blocks, max_blocks;
} sy__cuda_device;

/* A call or a staged copy on its way. A collective takes two: with 256 slots the host runs ahead of
   128, some layers' buckets, before it waits for one. */
enum { SY__CUDA_SLOTS = 256, SY__CUDA_STAGED_BYTES = 16 << 10 };
typedef enum sy__cuda_busy {
    SY__CUDA_FREE,
    SY__CUDA_UNTIL_CALL,
    SY__CUDA_UNTIL_EVENT
} sy__cuda_busy;
typedef struct sy__cuda_slot {
    struct sy__cuda_stream *owner;
    sy_call *fn; /* NULL: a copy */
    void *h_dst; /* of a copy to the host */
    int64_t bytes;
    char *pinned;     /* SY__CUDA_STAGED_BYTES */
    cudaEvent_t sent; /* of a copy to the GPU */
    int32_t busy;     /* sy__cuda_busy, atomic */
    char args[SY_CALL_BYTES] __attribute__((aligned(64)));
} sy__cuda_slot;

typedef struct sy__cuda_stream {
    cudaStream_t stream;
    sy_stream *about;
    int32_t *fault; /* sy__cuda_fault; pinned, written by kernels */
    char *pinned;
    pthread_mutex_t lock;
    sy_trace error; /* the first error of a call since the last sync */
    int64_t n_slots_taken;
    sy__cuda_slot slot[SY__CUDA_SLOTS];
} sy__cuda_stream;

static inline sy__cuda_device *sy__cuda_device_of(const sy_device *dev)
{
    return (sy__cuda_device *)dev->self;
}

static inline sy__cuda_stream *sy__cuda_stream_of(const sy_stream *stream)
{
    return (sy__cuda_stream *)stream->self;
}

/* SY_OK, or an error that says what was tried and what the runtime answers. */
sy_status sy__cuda_try(cudaError_t error, const char *what);
/* The slots of the device table that concern streams and events (stream.c). */
sy_status sy__cuda_stream_create(sy_stream *stream);
void sy__cuda_stream_destroy(sy_stream *stream);
sy_status sy__cuda_sync(sy_stream *stream);
sy_status sy__cuda_copy(sy_stream *stream, sy_copy_kind kind, void *dst, const void *src,
                        int64_t bytes);
sy_status sy__cuda_zero(sy_stream *stream, void *dst, int64_t bytes);
sy_status sy__cuda_call(sy_stream *stream, sy_call *fn, const void *args, int64_t args_bytes);
sy_status sy__cuda_run_op(sy_stream *stream, sy_op op, sy_call *run, const void *args,
                          int64_t args_bytes);
sy_status sy__cuda_event_create(sy_event *event);
void sy__cuda_event_destroy(sy_event *event);
sy_status sy__cuda_event_record(sy_event *event, sy_stream *stream);
sy_status sy__cuda_stream_wait(sy_stream *stream, sy_event *event);
sy_status sy__cuda_event_sync(sy_event *event);
bool sy__cuda_event_done(sy_event *event);

/* Can this GPU run what the kernels were compiled to (elementwise.cu)? */
bool sy__cuda_has_kernels(void);

/* What attention by cuDNN keeps on a device (attention_cudnn.c). */
sy_status sy__cudnn_open(sy_device *dev);
void sy__cudnn_close(sy_device *dev);
/* Attention by cuDNN. *done false: it is not there, or does not take these args, and nothing of
   what is written is of use. */
sy_status sy__cudnn_attention(sy_stream *stream, const sy_attention_args *args, bool *done);
sy_status sy__cudnn_attention_backward(sy_stream *stream, const sy_attention_backward_args *args,
                                       bool *done);

/* out[n] += the sum of part[p][n] over the parts in order (reduce.cu). All in device memory. */
sy_status sy__cuda_total_columns(sy_stream *stream, const float *part, int64_t n_parts, int64_t N,
                                 float *out);

#define SY_CUDA_OP(op) sy_status sy__cuda_##op(sy_stream *stream, const sy_##op##_args *args);
SY_OPS(SY_CUDA_OP)
#undef SY_CUDA_OP

extern const sy_ops sy__cuda_ops;
extern const sy_backend sy__backend_cuda;

#ifdef __cplusplus
}
#endif
#endif

/* Tiles of the plain attention kernels: 32 rows of one head in shared memory, in fp32. A block has
   128 threads; four of them share a row of scores. */
#ifndef SY_BACKEND_CUDA_ATTENTION_IMPL_CUH
#define SY_BACKEND_CUDA_ATTENTION_IMPL_CUH

#include "backend/cuda/kernel_impl.cuh"

namespace
{

enum { ROWS = 32, THREADS = 128, PER_ROW = THREADS / ROWS };

/* A [rows, heads, D] operand; those of values have a D of their own. */
template <class T> struct heads {
    T *data;
    int64_t s_row, s_head, D;
};

template <class T> heads<T> heads_of(const sy_tensor &t)
{
    return {static_cast<T *>(t.data), t.stride[0], t.stride[1], t.shape[2]};
}

struct attention_shape {
    int64_t Sq, Skv, D, D_v;
    int32_t group; /* query heads per key head */
    float scale;
    const int32_t *doc, *q_start; /* NULL: one document; from position 0 */
};

inline attention_shape shape_of_attention(const sy_tensor &q, const sy_tensor &k,
                                          const sy_tensor &v, const sy_tensor &doc, int32_t B,
                                          double scale, const int32_t *q_start)
{
    return {q.shape[0] / B,
            k.shape[0] / B,
            q.shape[2],
            v.shape[2],
            (int32_t)(q.shape[1] / k.shape[1]),
            (float)scale,
            static_cast<const int32_t *>(doc.data),
            q_start};
}

/* The wider of keys and values. */
__host__ __device__ inline int64_t widest(const attention_shape &s)
{
    return s.D > s.D_v ? s.D : s.D_v;
}

/* Elements between two rows of a tile. */
__device__ inline int64_t pitch(const attention_shape &s)
{
    return widest(s) + 1;
}

inline size_t tile_bytes(int64_t D)
{
    return (size_t)(ROWS * (D + 1)) * sizeof(float);
}

/* Rows first .. of one sequence and head; zeros from row `end` of the sequence on. */
template <class T>
__device__ void load_rows(float *to, const heads<T> &x, int64_t sequence_row, int64_t head,
                          int64_t first, int64_t end, const attention_shape &s)
{
    for (int64_t i = threadIdx.x; i < ROWS * x.D; i += THREADS) {
        const int64_t row = first + i / x.D, d = i % x.D;
        to[i / x.D * pitch(s) + d] =
            row < end ? wide(x.data[(sequence_row + row) * x.s_row + head * x.s_head + d]) : 0;
    }
}

template <class T>
__device__ void store_rows(const float *from, const heads<T> &y, int64_t sequence_row, int64_t head,
                           int64_t first, int64_t end, const attention_shape &s)
{
    for (int64_t i = threadIdx.x; i < ROWS * y.D; i += THREADS) {
        const int64_t row = first + i / y.D, d = i % y.D;
        if (row < end) {
            y.data[(sequence_row + row) * y.s_row + head * y.s_head + d] =
                narrow<T>(from[i / y.D * pitch(s) + d]);
        }
    }
}

__device__ inline void clear_rows(float *to, const attention_shape &s)
{
    for (int64_t i = threadIdx.x; i < ROWS * pitch(s); i += THREADS) {
        to[i] = 0;
    }
}

__device__ inline float dot_rows(const float *a, const float *b, int64_t D)
{
    float sum = 0;
    for (int64_t d = 0; d < D; d++) {
        sum += a[d] * b[d];
    }
    return sum;
}

/* Does query i of sequence b see key j? */
__device__ inline bool sees(const attention_shape &s, int64_t b, int64_t i, int64_t j)
{
    const int64_t pos = i + (s.q_start ? s.q_start[b] : 0);
    return i < s.Sq && j < s.Skv && j <= pos &&
           (!s.doc || s.doc[b * s.Sq + i] == s.doc[b * s.Sq + j]);
}

/* The keys that some query before row `end` of its sequence sees: those before this one. */
__device__ inline int64_t end_of_keys(const attention_shape &s, int64_t b, int64_t end)
{
    const int64_t keys = (end < s.Sq ? end : s.Sq) + (s.q_start ? s.q_start[b] : 0);
    return keys < s.Skv ? keys : s.Skv;
}

inline sy_status require_shared(const char *op, const sy_stream *stream, size_t bytes, int64_t D)
{
    return bytes + SHARED_OWN <= sy__cuda_device_of(stream->dev)->shared_bytes
               ? SY_OK
               : sy_error(SY_ERR_UNSUPPORTED,
                          "op %s on cuda: heads of %lld do not fit into this GPU's shared memory",
                          op, (long long)D);
}

} // namespace

/* The same in bf16 on tensor cores (attention_tensor.cu), for what fits: heads of at most 128 in
   rows that can be read 16 bytes at a time. delta [rows, heads]: <dout, o>. */
bool sy__cuda_attention_fits(const sy_attention_args *args);
sy_status sy__cuda_attention_tensor(sy_stream *stream, const sy_attention_args *args);
bool sy__cuda_attention_backward_fits(const sy_attention_backward_args *args);
sy_status sy__cuda_attention_tensor_backward(sy_stream *stream,
                                             const sy_attention_backward_args *args,
                                             const float *delta);

#endif

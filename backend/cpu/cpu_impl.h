/* What the files of the cpu backend share: the prototypes of its ops, and how work is cut among
   threads. Rule of the folder: borders of the work depend on shapes alone, never on the number of
   threads. */
#ifndef SY_BACKEND_CPU_CPU_IMPL_H
#define SY_BACKEND_CPU_CPU_IMPL_H

#include "backend/ops.h"

/* Expert rows are aligned to this: 1, because every row count is computed without waste. */
enum { SY_CPU_ROW_MULTIPLE = 1 };

#define SY_CPU_OP(op) sy_status sy__cpu_##op(sy_stream *stream, const sy_##op##_args *args);
SY_OPS(SY_CPU_OP)
#undef SY_CPU_OP

extern const sy_ops sy__cpu_ops;

/* Threads of an OpenMP region of this stream's ops. */
static inline int sy__cpu_threads(const sy_stream *stream)
{
    return (int)sy_stream_device(stream)->n_threads;
}

/* Number of blocks of `block` that cover n. */
static inline int64_t sy__cpu_blocks(int64_t n, int64_t block)
{
    return (n + block - 1) / block;
}

static inline int64_t sy__cpu_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Loops under this attribute exist once per instruction set and are chosen when the program starts:
   a build made on one machine of a cluster runs on all of them. Not under sanitizers, whose setup
   comes after ifuncs. */
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) &&      \
    !defined(__AVX512F__) && !defined(__clang__)
#define SY_CPU_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define SY_CPU_CLONES
#endif

#endif

/* The ceiling that figures stand beside: one large matrix product done by oneDNN itself, with its
   own blocking, its own threads and its own layout of the weights. None of our code is in it, so
   our products cannot flatter themselves. Benchmarks only. */
#ifndef SY_BACKEND_CPU_PEAK_H
#define SY_BACKEND_CPU_PEAK_H

#include "core/dtype.h"
#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_cpu_peak sy_cpu_peak;

/* Everything a product [n, n] x [n, n] in dtype (F32 or BF16) needs, random operands included.
   Not collective. SY_ERR_UNSUPPORTED where oneDNN cannot multiply this dtype here. */
sy_status sy_cpu_peak_create(sy_dtype dtype, int64_t n, int32_t threads, sy_cpu_peak **out);
void sy_cpu_peak_destroy(sy_cpu_peak **peak);
/* Multiply once; FLOP/s of it. Allocates nothing. Not collective. */
sy_status sy_cpu_peak_run(sy_cpu_peak *peak, double *flops_per_s);
/* Bytes that it holds. Not collective. */
int64_t sy_cpu_peak_bytes(const sy_cpu_peak *peak);
/* "oneDNN 2.7.3, for AVX-512 with bf16", into buf: the library, and the instructions that it uses
   here. Not collective. */
void sy_cpu_library_format(char *buf, size_t buf_bytes);

#ifdef __cplusplus
}
#endif
#endif

/* The one thing oneDNN does for us: small dense products of fixed shapes, c[m, 64] += a[m, k] b[k,
   64]. Every matrix product is cut into them, so the set of compiled products is finite, is made
   once per device, and a warm step makes nothing. */
#ifndef SY_BACKEND_CPU_DNNL_IMPL_H
#define SY_BACKEND_CPU_DNNL_IMPL_H

#include "backend/cpu/cpu_impl.h"

enum {
    SY_TILE_M = 128, /* m: 8, 16, 32, 64 or 128 rows; a row has the same bits in all of them */
    SY_TILE_M_STEP = 8,
    SY_TILE_N = 64,
    SY_TILE_K = 512, /* k: a multiple of the step, at most this */
    SY_TILE_K_STEP = 32
};

/* Tools of the threads that work on one op. */
typedef struct sy__crew sy__crew;

/* Borrow a crew of dev->n_threads workers. Not collective. Made at first use, later reused. */
sy_status sy__crew_borrow(sy_device *dev, sy_dtype dtype, sy__crew **out);
/* Give it back; *crew becomes NULL. NULL is fine. */
void sy__crew_return(sy__crew **crew);
/* Type of the packed operands: the one asked for, or F32 where the processor has no bf16
 * arithmetic. */
sy_dtype sy__crew_dtype(const sy__crew *crew);
/* The smallest m: SY_TILE_M_STEP, or SY_TILE_M where only general products are there, whose bits
 * depend on m. */
int64_t sy__crew_min_rows(const sy__crew *crew);
/* c[m, 64] += a[m, k] b[k, 64], all dense and fp32, or a and b in bf16 with rows 2i and 2i+1 of b
   interleaved, element by element. Called by worker `worker` inside a parallel region. False:
   oneDNN failed. */
bool sy__tile_product(sy__crew *crew, int worker, int64_t m, int64_t k, const void *a,
                      const void *b, float *c);

#endif

/* Counter-based random numbers (Philox4x32-10, Random123): every draw is a function of (seed,
   stream, index) alone, so it depends on no rank, thread or order. Salmon et al., "Parallel random
   numbers: as easy as 1, 2, 3", SC 2011. */
#ifndef SY_CORE_RNG_H
#define SY_CORE_RNG_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Streams: one number per purpose; named tensors use XXH3-64 of their name. */
typedef enum sy_rng_stream {
    SY_RNG_DATA = 1, /* order of the sequences */
    SY_RNG_JITTER,
    SY_RNG_SAMPLE, /* text generation */
    SY_RNG_ROUTE,  /* routers that draw */
    SY_RNG_TEST,
    SY_RNG_OBJECTIVE, /* what is predicted in a sequence */
    SY_RNG_DROP       /* who is dropped beyond capacity */
} sy_rng_stream;

/* Four 32-bit words for counter (index, stream), key seed. */
void sy_rng_block(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]);
uint64_t sy_rng_u64(uint64_t seed, uint64_t stream, uint64_t index);
/* Uniform in [0, 1) with 53 bits; standard normal by Box-Muller in double (the same bits on every
 * machine of one libm). */
double sy_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index);
double sy_rng_normal(uint64_t seed, uint64_t stream, uint64_t index);
/* The same cut at 3: draws beyond are repeated, far from the indices of any tensor (< 2^48). */
double sy_rng_normal_cut(uint64_t seed, uint64_t stream, uint64_t index);
/* A bijection of 0 .. n-1 evaluated at i, in constant time and memory (cycle-walking Feistel
   network keyed by (seed, stream)). Requires 0 <= i < n. */
int64_t sy_rng_permute(uint64_t seed, uint64_t stream, int64_t n, int64_t i);
/* The stream number of a name: XXH3-64. */
uint64_t sy_rng_stream_of(const char *name);

#ifdef __cplusplus
}
#endif
#endif

/* The random numbers of numpy's RandomState: Mersenne Twister 19937 (Matsumoto & Nishimura 1998),
   for orders that other programs made with it. */
#ifndef SY_DATA_NP_RANDOM_H
#define SY_DATA_NP_RANDOM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SY_NP_WORDS = 624 };

typedef struct sy_np_random {
    uint32_t word[SY_NP_WORDS];
    int32_t next; /* of them */
} sy_np_random;

/* Not collective, all three. As RandomState(seed). */
void sy_np_seed(sy_np_random *r, uint32_t seed);
uint32_t sy_np_u32(sy_np_random *r);
/* 0 .. max, by masking and drawing again. */
uint64_t sy_np_interval(sy_np_random *r, uint64_t max);
/* RandomState.shuffle of a one-dimensional array [n]. */
void sy_np_shuffle_i32(sy_np_random *r, int32_t *a, int64_t n);
void sy_np_shuffle_i64(sy_np_random *r, int64_t *a, int64_t n);

#ifdef __cplusplus
}
#endif
#endif

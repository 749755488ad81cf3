/* Philox4x32-10 from Random123 with counter (index, stream) and key seed, and what is built from
 * its blocks. */
#include "core/rng.h"

#include <Random123/philox.h>
#include <math.h>
#include <string.h>
#include <xxhash.h>

void sy_rng_block(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4])
{
    philox4x32_ctr_t counter = {
        {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)}};
    philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
    philox4x32_ctr_t block = philox4x32(counter, key);
    memcpy(out, block.v, sizeof block.v);
}

uint64_t sy_rng_u64(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t w[4];
    sy_rng_block(seed, stream, index, w);
    return (uint64_t)w[1] << 32 | w[0];
}

double sy_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    return (double)(sy_rng_u64(seed, stream, index) >> 11) * 0x1p-53;
}

double sy_rng_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    const double two_pi = 6.283185307179586476925;
    uint32_t w[4];
    sy_rng_block(seed, stream, index, w);
    uint64_t a = ((uint64_t)w[1] << 32 | w[0]) >> 11, b = ((uint64_t)w[3] << 32 | w[2]) >> 11;
    double u = (double)(a + 1) * 0x1p-53; /* in (0, 1]: its logarithm is finite */
    double v = (double)b * 0x1p-53;
    return sqrt(-2.0 * log(u)) * cos(two_pi * v);
}

double sy_rng_normal_cut(uint64_t seed, uint64_t stream, uint64_t index)
{
    double x = sy_rng_normal(seed, stream, index);
    while (fabs(x) > 3.0) {
        index += (uint64_t)1 << 48;
        x = sy_rng_normal(seed, stream, index);
    }
    return x;
}

/* One pass of a balanced Feistel network over 2 * half_bits bits: a bijection whatever the round
 * function is. */
static uint64_t feistel(uint64_t seed, uint64_t stream, int half_bits, uint64_t x)
{
    enum { ROUNDS = 8 };
    const uint64_t mask = ((uint64_t)1 << half_bits) - 1;
    uint64_t left = x >> half_bits, right = x & mask;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        uint64_t mixed = left ^ (sy_rng_u64(seed, stream, round << 32 | right) & mask);
        left = right;
        right = mixed;
    }
    return left << half_bits | right;
}

int64_t sy_rng_permute(uint64_t seed, uint64_t stream, int64_t n, int64_t i)
{
    int half_bits = 1;
    while (half_bits < 32 && ((uint64_t)1 << (2 * half_bits)) < (uint64_t)n) {
        half_bits++;
    }
    /* The domain is below 4 n (4 at least). Walking on from outside 0 .. n-1 stays on the cycle of
       i, which comes back inside; so it is a bijection of 0 .. n-1. Plain draws of the stream use
       another key. */
    const uint64_t key = ~seed;
    uint64_t x = (uint64_t)i;
    do {
        x = feistel(key, stream, half_bits, x);
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}

uint64_t sy_rng_stream_of(const char *name)
{
    return XXH3_64bits(name, strlen(name));
}

#include "data/np_random.h"
#include "core/pulse.h"

enum { SHIFT_BY = 397 };

void sy_np_seed(sy_np_random *r, uint32_t seed)
{
    r->word[0] = seed;
    for (uint32_t i = 1; i < SY_NP_WORDS; i++) {
        r->word[i] = 1812433253u * (r->word[i - 1] ^ (r->word[i - 1] >> 30)) + i;
    }
    r->next = SY_NP_WORDS;
}

static void twist(sy_np_random *r)
{
    uint32_t *w = r->word;
    for (int32_t i = 0; i < SY_NP_WORDS; i++) {
        const uint32_t y = (w[i] & 0x80000000u) | (w[(i + 1) % SY_NP_WORDS] & 0x7fffffffu);
        w[i] = w[(i + SHIFT_BY) % SY_NP_WORDS] ^ (y >> 1) ^ ((y & 1) != 0 ? 0x9908b0dfu : 0);
    }
    r->next = 0;
}

uint32_t sy_np_u32(sy_np_random *r)
{
    if (r->next == SY_NP_WORDS) {
        twist(r);
    }
    uint32_t y = r->word[r->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

uint64_t sy_np_interval(sy_np_random *r, uint64_t max)
{
    uint64_t mask = max, value;
    if (max == 0) {
        return 0;
    }
    for (int32_t shift = 1; shift < 64; shift *= 2) {
        mask |= mask >> shift;
    }
    do {
        value = sy_np_u32(r);
        if (max > UINT32_MAX) { /* the high word came first */
            value = value << 32 | sy_np_u32(r);
        }
        value &= mask;
    } while (value > max);
    return value;
}

/* The order of a large data set takes a while, for which other ranks wait. */
static void beat_now_and_then(int64_t i)
{
    if (i % 65536 == 0) {
        sy_pulse_beat();
    }
}

void sy_np_shuffle_i32(sy_np_random *r, int32_t *a, int64_t n)
{
    for (int64_t i = n - 1; i > 0; i--) {
        const uint64_t j = sy_np_interval(r, (uint64_t)i);
        beat_now_and_then(i);
        const int32_t x = a[i];
        a[i] = a[j];
        a[j] = x;
    }
}

void sy_np_shuffle_i64(sy_np_random *r, int64_t *a, int64_t n)
{
    for (int64_t i = n - 1; i > 0; i--) {
        const uint64_t j = sy_np_interval(r, (uint64_t)i);
        beat_now_and_then(i);
        const int64_t x = a[i];
        a[i] = a[j];
        a[j] = x;
    }
}

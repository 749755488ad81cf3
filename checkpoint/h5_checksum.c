/* The checksum that HDF5 keeps behind each block of metadata: Bob Jenkins' lookup3, "hashlittle"
   (http://burtleburtle.net/bob/c/lookup3.c, public domain), of the bytes as little-endian words. */
#include <string.h>

#include "checkpoint/h5_read_impl.h"

static uint32_t rotate(uint32_t x, int32_t n)
{
    return x << n | x >> (32 - n);
}

static void mix(uint32_t s[3])
{
    static const int32_t turn[6] = {4, 6, 8, 16, 19, 4};
    for (int32_t i = 0; i < 6; i++) {
        uint32_t *a = &s[i % 3], *b = &s[(i + 1) % 3], *c = &s[(i + 2) % 3];
        *a = (*a - *c) ^ rotate(*c, turn[i]);
        *c += *b;
    }
}

static void finish(uint32_t s[3])
{
    static const int32_t turn[7] = {14, 11, 25, 16, 4, 14, 24};
    for (int32_t i = 0; i < 7; i++) {
        uint32_t *c = &s[(i + 2) % 3], *b = &s[(i + 1) % 3];
        *c = (*c ^ *b) - rotate(*b, turn[i]);
    }
}

static void add(uint32_t s[3], const unsigned char *bytes, int64_t n)
{
    uint32_t word[3] = {0};
    memcpy(word, bytes, (size_t)n);
    for (int32_t i = 0; i < 3; i++) {
        s[i] += word[i];
    }
}

uint32_t sy__h5_checksum(const unsigned char *bytes, int64_t n)
{
    uint32_t s[3];
    s[0] = s[1] = s[2] = 0xdeadbeefU + (uint32_t)n;
    for (; n > 12; n -= 12, bytes += 12) {
        add(s, bytes, 12);
        mix(s);
    }
    if (n > 0) {
        add(s, bytes, n);
        finish(s);
    }
    return s[2];
}

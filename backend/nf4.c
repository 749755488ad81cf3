#include "backend/nf4.h"

#include <math.h>
#include <string.h>

static const double levels[16] = SY_NF4_LEVELS;

int64_t sy_nf4_row_bytes(int64_t K)
{
    return K / 2 + 4 * ((K + SY_NF4_BLOCK - 1) / SY_NF4_BLOCK);
}

/* The nearest level; the lower one of two. */
static int code_of(double x)
{
    int code = 0;
    while (code < 15 && x > 0.5 * (levels[code] + levels[code + 1])) {
        code++;
    }
    return code;
}

void sy_nf4_pack_block(const double *values, int64_t n, uint8_t *codes, float *scale)
{
    double largest = 0;
    for (int64_t i = 0; i < n; i++) {
        const double size = fabs(values[i]);
        largest = size <= largest ? largest : size; /* NaN stays */
    }
    *scale = (float)largest;
    const double by = *scale > 0 ? 1 / (double)*scale : 0;
    for (int64_t i = 0; i < n; i += 2) {
        codes[i / 2] = (uint8_t)(code_of(values[i] * by) | code_of(values[i + 1] * by) << 4);
    }
}

/* Of bytes at `at`, those that lie in [first, first + n). */
static void take(int64_t at, const void *bytes, int64_t n_bytes, int64_t first, int64_t n,
                 uint8_t *out)
{
    const int64_t from = at > first ? at : first;
    const int64_t to = at + n_bytes < first + n ? at + n_bytes : first + n;
    if (from < to) {
        memcpy(out + from - first, (const uint8_t *)bytes + (from - at), (size_t)(to - from));
    }
}

void sy_nf4_pack(int64_t K, int64_t first, int64_t n, sy_nf4_values *get, void *self, uint8_t *out)
{
    const int64_t row_bytes = sy_nf4_row_bytes(K);
    for (int64_t row = first / row_bytes; row * row_bytes < first + n; row++) {
        for (int64_t k = 0; k < K; k += SY_NF4_BLOCK) {
            const int64_t m = K - k < SY_NF4_BLOCK ? K - k : SY_NF4_BLOCK;
            double values[SY_NF4_BLOCK];
            uint8_t codes[SY_NF4_BLOCK / 2];
            float scale = 0;
            get(self, row, k, m, values);
            sy_nf4_pack_block(values, m, codes, &scale);
            take(row * row_bytes + k / 2, codes, m / 2, first, n, out);
            take(row * row_bytes + K / 2 + 4 * (k / SY_NF4_BLOCK), &scale, sizeof scale, first, n,
                 out);
        }
    }
}

/* Four-bit weights (backend/nf4.h), a block of 64 at a time. */
#include "backend/nf4.h"

#include <string.h>

#include "backend/cpu/tile_impl.h"

static void unpack_block(float *y, const uint8_t *codes, float scale, int64_t n)
{
    static const float levels[16] = SY_NF4_LEVELS;
    for (int64_t i = 0; i < n; i += 2) {
        y[i] = levels[codes[i / 2] & 15] * scale;
        y[i + 1] = levels[codes[i / 2] >> 4] * scale;
    }
}

sy_status sy__cpu_dequantize_nf4(sy_stream *stream, const sy_dequantize_nf4_args *args)
{
    const int64_t N = args->y.shape[0], K = args->y.shape[1], row_bytes = args->x.shape[1];
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (N * K > SY_CPU_PARALLEL_MIN / 4)
    for (int64_t r = 0; r < N; r++) {
        const uint8_t *row = (const uint8_t *)args->x.data + r * row_bytes;
        for (int64_t k = 0; k < K; k += SY_NF4_BLOCK) {
            float buf[SY_NF4_BLOCK], scale;
            const int64_t n = sy__cpu_min(SY_NF4_BLOCK, K - k);
            memcpy(&scale, row + K / 2 + 4 * (k / SY_NF4_BLOCK), sizeof scale);
            unpack_block(sy__tile_target(&args->y, r * K + k, buf), row + k / 2, scale, n);
            sy__tile_write(&args->y, r * K + k, n, buf);
        }
    }
    return SY_OK;
}

/* Four-bit weights (backend/nf4.h). */
#include "backend/nf4.h"

#include <string.h>

#include "backend/ref/ref_impl.h"

sy_status sy__ref_dequantize_nf4(sy_stream *stream, const sy_dequantize_nf4_args *args)
{
    static const double levels[16] = SY_NF4_LEVELS;
    const int64_t K = args->y.shape[1], row_bytes = args->x.shape[1];
    (void)stream;
    for (int64_t r = 0; r < args->y.shape[0]; r++) {
        const uint8_t *row = (const uint8_t *)args->x.data + r * row_bytes;
        double *y = sy__ref_row(&args->y, r);
        for (int64_t k = 0; k < K; k++) {
            float scale;
            memcpy(&scale, row + K / 2 + 4 * (k / SY_NF4_BLOCK), sizeof scale);
            y[k] = levels[row[k / 2] >> (k % 2 * 4) & 15] * (double)scale;
        }
    }
    return SY_OK;
}

#include <math.h>

#include "core/alloc.h"
#include "model/model.h"

/* Angles in double: position * theta^(-2 d / D) for d < D/2; cosines first, then sines. */
static void fill_table(double *table, int64_t positions, int64_t D, double theta)
{
    int64_t half = D / 2;
    for (int64_t pos = 0; pos < positions; pos++) {
        for (int64_t d = 0; d < half; d++) {
            double angle = (double)pos * pow(theta, -2.0 * (double)d / (double)D);
            table[pos * D + d] = cos(angle);
            table[pos * D + half + d] = sin(angle);
        }
    }
}

sy_status sy_rope_table(const sy_model_config *config, int64_t positions, sy_arena *arena,
                        sy_stream *stream, sy_dtype wide, sy_tensor *out)
{
    sy_status st = SY_OK;
    int64_t D = config->head_dim, n = positions * D;
    double *table = NULL;
    void *rounded = NULL;

    SY_TRY(sy_arena_2d(arena, wide, positions, D, out));
    if (arena->base == NULL) {
        goto cleanup;
    }
    SY_TRY(sy_alloc(n, sizeof *table, (void **)&table));
    SY_TRY(sy_alloc(n, sy_dtype_bytes(wide), &rounded));
    fill_table(table, positions, D, config->rope_theta);
    sy_convert(wide, rounded, SY_F64, table, n);
    SY_TRY(sy_copy_h2d(stream, out->data, rounded, sy_tensor_bytes(out)));
    SY_TRY(sy_stream_sync(stream));
cleanup:
    sy_free(&rounded);
    sy_free(&table);
    return st;
}

#include <math.h>

#include "core/alloc.h"
#include "model/model.h"

/* Llama 3.1: what turns often in the original length stays, what turns rarely is stretched, and
   between the two the frequency goes over in a straight line. */
static double llama3(const sy_model_config *c, double freq)
{
    const double low = c->rope_low_freq_factor, high = c->rope_high_freq_factor;
    const double turns = c->rope_original_seq_len * freq / (2 * M_PI);
    const double kept = fmin(fmax((turns - low) / (high - low), 0), 1);
    return (1 - kept) * freq / c->rope_factor + kept * freq;
}

void sy_rope_frequencies(const sy_model_config *config, double *freq)
{
    const int64_t D = config->head_dim;
    for (int64_t d = 0; d < D / 2; d++) {
        freq[d] = pow(config->rope_theta, -2.0 * (double)d / (double)D);
        if (config->rope_scaling == SY_ROPE_SCALING_LINEAR) {
            freq[d] /= config->rope_factor;
        } else if (config->rope_scaling == SY_ROPE_SCALING_LLAMA3) {
            freq[d] = llama3(config, freq[d]);
        }
    }
}

/* Angles in double: position * frequency; cosines first, then sines. */
static void fill_table(double *table, int64_t positions, int64_t half, const double *freq)
{
    for (int64_t pos = 0; pos < positions; pos++) {
        double *row = table + pos * 2 * half;
        for (int64_t d = 0; d < half; d++) {
            row[d] = cos((double)pos * freq[d]);
            row[half + d] = sin((double)pos * freq[d]);
        }
    }
}

sy_status sy_rope_table(const sy_model_config *config, int64_t positions, sy_arena *arena,
                        sy_stream *stream, sy_dtype wide, sy_tensor *out)
{
    sy_status st = SY_OK;
    int64_t D = config->head_dim, n = positions * D;
    double *table = NULL, *freq = NULL;
    void *rounded = NULL;

    SY_TRY(sy_arena_2d(arena, wide, positions, D, out));
    if (arena->base == NULL) {
        goto cleanup;
    }
    SY_TRY(sy_alloc(D / 2, sizeof *freq, (void **)&freq));
    SY_TRY(sy_alloc(n, sizeof *table, (void **)&table));
    SY_TRY(sy_alloc(n, sy_dtype_bytes(wide), &rounded));
    sy_rope_frequencies(config, freq);
    fill_table(table, positions, D / 2, freq);
    sy_convert(wide, rounded, SY_F64, table, n);
    SY_TRY(sy_copy_h2d(stream, out->data, rounded, sy_tensor_bytes(out)));
    SY_TRY(sy_stream_sync(stream));
cleanup:
    sy_free(&rounded);
    sy_free(&table);
    sy_free(&freq);
    return st;
}

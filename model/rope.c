#include "model/rope.h"

#include <math.h>

#include "backend/ops.h"
#include "core/alloc.h"

int32_t sy_rope_dim(const sy_model_config *c)
{
    return c->kv_lora_rank > 0 ? c->qk_rope_head_dim : c->head_dim;
}

/* Llama 3.1: what turns often in the original length stays, what turns rarely is stretched, and
   between the two the frequency goes over in a straight line. */
static double llama3(const sy_model_config *c, double freq)
{
    const double low = c->rope_low_freq_factor, high = c->rope_high_freq_factor;
    const double turns = c->rope_original_seq_len * freq / (2 * M_PI);
    const double kept = fmin(fmax((turns - low) / (high - low), 0), 1);
    return (1 - kept) * freq / c->rope_factor + kept * freq;
}

/* The pair that turns so many times in the original length. */
static double yarn_pair(const sy_model_config *c, double turns)
{
    return sy_rope_dim(c) * log(c->rope_original_seq_len / (turns * 2 * M_PI)) /
           (2 * log(c->rope_theta));
}

/* YaRN: pairs that turn beta_fast times or more stay, those of beta_slow or fewer are stretched,
   and between the two the frequency goes over in a straight line of the pair's number. */
static double yarn(const sy_model_config *c, int64_t pair, double freq)
{
    const double low = fmax(floor(yarn_pair(c, c->rope_beta_fast)), 0);
    const double high = fmin(ceil(yarn_pair(c, c->rope_beta_slow)), sy_rope_dim(c) - 1);
    const double span = high > low ? high - low : 0.001;
    const double stretched = fmin(fmax(((double)pair - low) / span, 0), 1);
    return stretched * freq / c->rope_factor + (1 - stretched) * freq;
}

static double yarn_growth(const sy_model_config *c, double m)
{
    return c->rope_factor > 1 ? 0.1 * m * log(c->rope_factor) + 1 : 1;
}

/* Of cosines and sines. DeepSeek-V2 and V3 give both numbers, and grow the scores instead. */
static double yarn_table_factor(const sy_model_config *c)
{
    if (c->rope_scaling != SY_ROPE_SCALING_YARN) {
        return 1;
    }
    return c->rope_mscale > 0 && c->rope_mscale_all_dim > 0
               ? yarn_growth(c, c->rope_mscale) / yarn_growth(c, c->rope_mscale_all_dim)
               : yarn_growth(c, 1);
}

double sy_score_scale(const sy_model_config *c)
{
    const bool grows = c->rope_scaling == SY_ROPE_SCALING_YARN && c->rope_mscale_all_dim > 0;
    const double growth = grows ? yarn_growth(c, c->rope_mscale_all_dim) : 1;
    return c->attention_multiplier.set ? c->attention_multiplier.value
                                       : growth * growth / sqrt((double)c->head_dim);
}

void sy_rope_frequencies(const sy_model_config *config, double *freq)
{
    const int64_t D = sy_rope_dim(config);
    for (int64_t d = 0; d < D / 2; d++) {
        freq[d] = pow(config->rope_theta, -2.0 * (double)d / (double)D);
        if (config->rope_scaling == SY_ROPE_SCALING_LINEAR) {
            freq[d] /= config->rope_factor;
        } else if (config->rope_scaling == SY_ROPE_SCALING_LLAMA3) {
            freq[d] = llama3(config, freq[d]);
        } else if (config->rope_scaling == SY_ROPE_SCALING_YARN) {
            freq[d] = yarn(config, d, freq[d]);
        }
    }
}

/* Angles in double: position * frequency; cosines first, then sines. */
static void fill_table(double *table, int64_t positions, int64_t half, const double *freq,
                       double factor)
{
    for (int64_t pos = 0; pos < positions; pos++) {
        double *row = table + pos * 2 * half;
        for (int64_t d = 0; d < half; d++) {
            row[d] = factor * cos((double)pos * freq[d]);
            row[half + d] = factor * sin((double)pos * freq[d]);
        }
    }
}

sy_status sy_rope_table(const sy_model_config *config, int64_t positions, sy_arena *arena,
                        sy_stream *stream, sy_dtype wide, sy_tensor *out)
{
    sy_status st = SY_OK;
    int64_t D = sy_rope_dim(config), n = positions * D;
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
    fill_table(table, positions, D / 2, freq, yarn_table_factor(config));
    sy_convert(wide, rounded, SY_F64, table, n);
    SY_TRY(sy_copy_h2d(stream, out->data, rounded, sy_tensor_bytes(out)));
    SY_TRY(sy_stream_sync(stream));
cleanup:
    sy_free(&rounded);
    sy_free(&table);
    sy_free(&freq);
    return st;
}

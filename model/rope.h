/* Rotary positions, and the scale of attention scores, which stretching them changes. */
#ifndef SY_MODEL_ROPE_H
#define SY_MODEL_ROPE_H

#include "backend/arena.h"
#include "core/tensor.h"
#include "model/model_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Elements of a head that turn: head_dim, of latent attention qk_rope_head_dim. Not collective. */
int32_t sy_rope_dim(const sy_model_config *config);
/* Angle per position of each rotated pair, [D / 2], D as sy_rope_dim: theta^(-2d/D), stretched as
   rope_scaling says. Not collective. Su et al. 2021; Llama 3.1; YaRN (Peng et al. 2023,
   arXiv 2309.00071). */
void sy_rope_frequencies(const sy_model_config *config, double *freq);
/* The table of sy_rope_args: [positions, D] wide, built on the host and copied; from `arena`. Not
 * collective. */
sy_status sy_rope_table(const sy_model_config *config, int64_t positions, sy_arena *arena,
                        sy_stream *stream, sy_dtype wide, sy_tensor *out);
/* Of attention scores: attention_multiplier, or 1/sqrt(head_dim), which YaRN makes larger. Not
 * collective. */
double sy_score_scale(const sy_model_config *config);

#ifdef __cplusplus
}
#endif
#endif

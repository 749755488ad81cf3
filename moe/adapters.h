/* Experts that are small changes of one MLP that all share: what moe.adapter_kind and
   moe.adapter_rank say. Nothing here is collective. */
#ifndef SY_MOE_ADAPTERS_H
#define SY_MOE_ADAPTERS_H

#include "moe/moe_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Are the experts adapters at all? */
bool sy_moe_has_adapters(const sy_moe_config *config);
/* Are they mixed before the product, by every token, on every rank (moe/mixed.h)? */
bool sy_moe_mixes(const sy_moe_config *config);
/* Do they rescale keys and values too (moe/vectors.h)? */
bool sy_moe_has_kv_vectors(const sy_moe_config *config);
/* Do they change what the shared MLP gives (moe/experts/bottleneck.c)? */
bool sy_moe_has_bottlenecks(const sy_moe_config *config);
/* Parameters of base and adapters that a token uses, in a model of that width, where it visits so
   many experts. */
double sy_moe_adapter_params(const sy_moe_config *config, int64_t hidden, double experts);
/* Refuse settings that do not go together. After parsing. */
sy_status sy_moe_adapters_settle(const sy_config *config);

#ifdef __cplusplus
}
#endif
#endif

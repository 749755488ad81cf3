/* MoV's vectors on an attention's keys or values (Zadouri et al. 2023, arXiv 2309.05444, and the
   authors' code; IA3: Liu et al. 2022, arXiv 2205.05638): y = x times l for each head and token, l
   = sum over e of p_e l_e of the head, p = softmax(R x) of the head's own x; heads share R. So the
   routers are not that of the layer: they read what they rescale. A sublayer that attention holds
   (model/attention.h). Nothing travels: all is whole on every rank. */
#ifndef SY_MOE_VECTORS_H
#define SY_MOE_VECTORS_H

#include "model/model_config.h"
#include "model/sublayer.h"
#include "moe/moe_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* On [T, kv_heads * head_dim]. Parameters "<prefix>/moe/adapters/<name>_router" [E, D] wide and
   "<name>_scale" [kv_heads, E, D], which begins with ones; name lives as long as the sublayer. Not
   collective. */
sy_status sy_vectors_create(const sy_model_config *model, const sy_moe_config *config,
                            const char *name, sy_sublayer *out);
/* Multiplications with parameters that they do for a token, in a layer. Not collective. */
double sy_vectors_active_params(const sy_model_config *model, const sy_moe_config *config);

#ifdef __cplusplus
}
#endif
#endif

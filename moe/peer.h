/* PEER (He 2024, arXiv 2407.04153): N = n^2 experts of one neuron each instead of an MLP. A head's
   query is cut in two; the k best sub-keys for each half give k^2 candidates, the k best of which
   are the best of all N. y = sum over heads and chosen i of g_i gelu(x u_i) v_i, g the softmax over
   a head's k scores. Heads share sub-keys and experts, as in the paper; the query has an RMSNorm
   for each head where the paper has a batch norm, which would make steps depend on the layout.
   Nothing travels: the tables are whole on every rank. */
#ifndef SY_MOE_PEER_H
#define SY_MOE_PEER_H

#include "model/model_config.h"
#include "model/sublayer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Parameters "<prefix>/peer/{query,query_norm,keys_0,keys_1,u,v}". Not collective; its forward
 * waits for the device once, its backward never. */
sy_status sy_peer_create(const sy_model_config *config, sy_sublayer *out);

/* Multiplications with parameters that a token does: query, all sub-keys for each head, the chosen
 * neurons. For FLOPs. Not collective. */
int64_t sy_peer_active_params(const sy_model_config *config);

#ifdef __cplusplus
}
#endif
#endif

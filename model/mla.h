/* Multi-head latent attention: keys and values of all heads come from one narrow latent. A
 * sublayer.
 */
#ifndef SY_MODEL_MLA_H
#define SY_MODEL_MLA_H

#include "model/model_config.h"
#include "model/sublayer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Not collective. config lives as long as the sublayer; requires kv_lora_rank > 0. With R_q, R_kv
   the ranks, D_n, D_r, D_v the head sizes without position, with position, and of values:
     c_q = norm(x W_qa^T) [R_q]           q [N_h, D_n + D_r] = c_q W_qb^T (or x W_q^T, R_q 0)
     c | k_r = x W_kva^T [R_kv | D_r]     k_n | v [N_h, D_n | D_v] = norm(c) W_kvb^T
   The last D_r of every q, and k_r, which all heads share, are rotated; k = k_n | k_r; o = (heads
   of attention, D_v each) W_o^T. Decoding keeps norm(c) and k_r alone, and computes k_n | v of all
   positions again. DeepSeek-AI 2024 (V2, arXiv 2405.04434) 2.1. */
sy_status sy_mla_create(const sy_model_config *config, sy_sublayer *out);

#ifdef __cplusplus
}
#endif
#endif

/* One micro-batch of this rank: data/ fills it on the host, model/ reads a device copy. T = B*S may
 * be 0. */
#ifndef SY_CORE_BATCH_H
#define SY_CORE_BATCH_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_batch {
    int32_t B, S;
    const int32_t *ids, *targets; /* [T] token id; target, -1: no loss */
    const float *loss_weight;     /* [T] NULL: 1 */
    const uint8_t *routed;        /* [T] NULL: 1; 0 = padding: not routed, not counted anywhere */
    const int32_t *pos, *doc;     /* [T] RoPE position; document number (attention stays inside one;
                                     NULL: one document) */
    const int64_t
        *token_glb; /* [T] index in the step's global batch: counter of every random draw */
} sy_batch;

#ifdef __cplusplus
}
#endif
#endif

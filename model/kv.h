/* Key/value cache of one sequence. */
#ifndef SY_MODEL_KV_H
#define SY_MODEL_KV_H

#include "model/model_config.h"
#include "model/pass.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_kv {
    int32_t n_layers;
    int64_t capacity, n; /* positions: room, and filled */
    sy_tensor *k, *v;    /* per layer [capacity, N_kv * D] compute dtype; of latent attention the
                            latent [capacity, kv_lora_rank] and the key that heads share */
    int32_t *filled;     /* [n_layers] rows of a layer: n, or fewer where it takes not all tokens */
    int32_t *appended;   /* [n_layers] since the last advance */
    sy_tensor start;     /* [n_layers] I32: filled, before what is appended now */
    sy_device *dev;
} sy_kv;

/* Room for config->seq_len positions. Not collective. */
sy_status sy_kv_create(sy_device *dev, const sy_model_config *config, sy_dtype compute,
                       sy_kv **out);
void sy_kv_destroy(sy_kv **kv);
/* Copy the keys and values of T new tokens of a layer behind those that it has, and view all of
 * them; start [1] is how many it had. Enqueued. Not collective. */
sy_status sy_kv_append(sy_kv *kv, sy_pass *p, const sy_tensor *k, const sy_tensor *v,
                       sy_tensor *k_all, sy_tensor *v_all, sy_tensor *start);
/* After all layers: the T tokens are in. Waits for the stream. Not collective. */
sy_status sy_kv_advance(sy_kv *kv, sy_stream *stream, int64_t T);

#ifdef __cplusplus
}
#endif
#endif

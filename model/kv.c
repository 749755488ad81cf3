#include "model/kv.h"

#include "core/alloc.h"

sy_status sy_kv_create(sy_device *dev, const sy_model_config *config, sy_dtype compute, sy_kv **out)
{
    sy_status st = SY_OK;
    sy_kv *kv = NULL;
    const bool latent = config->kv_lora_rank > 0;
    const int64_t plain = (int64_t)config->kv_heads * config->head_dim;
    const int64_t k_width = latent ? config->kv_lora_rank : plain;
    const int64_t v_width = latent ? config->qk_rope_head_dim : plain;
    const int64_t column = config->seq_len * (int64_t)sy_dtype_bytes(compute);
    void *data = NULL;

    SY_TRY(sy_alloc(1, sizeof *kv, (void **)&kv));
    kv->dev = dev;
    kv->capacity = config->seq_len;
    SY_TRY(sy_alloc(config->layers, sizeof *kv->k, (void **)&kv->k));
    SY_TRY(sy_alloc(config->layers, sizeof *kv->v, (void **)&kv->v));
    SY_TRY(sy_alloc(config->layers, sizeof *kv->filled, (void **)&kv->filled));
    SY_TRY(sy_alloc(config->layers, sizeof *kv->appended, (void **)&kv->appended));
    kv->n_layers = config->layers;
    for (int32_t i = 0; i < config->layers; i++) {
        SY_TRY(sy_device_alloc(dev, column * k_width, SY_MEM_OTHER, &data));
        kv->k[i] = sy_tensor_2d(data, compute, kv->capacity, k_width);
        SY_TRY(sy_device_alloc(dev, column * v_width, SY_MEM_OTHER, &data));
        kv->v[i] = sy_tensor_2d(data, compute, kv->capacity, v_width);
    }
    SY_TRY(sy_device_alloc(dev, config->layers * (int64_t)sizeof(int32_t), SY_MEM_OTHER, &data));
    kv->start = sy_tensor_1d(data, SY_I32, config->layers);
    *out = kv;
    kv = NULL;
cleanup:
    sy_kv_destroy(&kv);
    return st;
}

void sy_kv_destroy(sy_kv **kv)
{
    if (*kv == NULL) {
        return;
    }
    for (int32_t i = 0; i < (*kv)->n_layers; i++) {
        sy_device_free((*kv)->dev, &(*kv)->k[i].data);
        sy_device_free((*kv)->dev, &(*kv)->v[i].data);
    }
    sy_device_free((*kv)->dev, &(*kv)->start.data);
    sy_free(&(*kv)->appended);
    sy_free(&(*kv)->filled);
    sy_free(&(*kv)->k);
    sy_free(&(*kv)->v);
    sy_free(kv);
}

sy_status sy_kv_append(sy_kv *kv, sy_pass *p, const sy_tensor *k, const sy_tensor *v,
                       sy_tensor *k_all, sy_tensor *v_all, sy_tensor *start)
{
    sy_status st = SY_OK;
    int64_t T = k->shape[0], n = kv->filled[p->layer];
    sy_tensor *cache_k = &kv->k[p->layer], *cache_v = &kv->v[p->layer];
    SY_REQUIRE(kv->n + T <= kv->capacity, SY_ERR_USAGE,
               "the text of %ld tokens is longer than the model's sequence of %ld (model.seq_len)",
               (long)(kv->n + T), (long)kv->capacity);
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = *k, .y = sy_tensor_rows(cache_k, n, T)}));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = *v, .y = sy_tensor_rows(cache_v, n, T)}));
    *k_all = sy_tensor_rows(cache_k, 0, n + T);
    *v_all = sy_tensor_rows(cache_v, 0, n + T);
    *start = sy_tensor_rows(&kv->start, p->layer, 1);
    kv->appended[p->layer] = (int32_t)T;
cleanup:
    return st;
}

sy_status sy_kv_advance(sy_kv *kv, sy_stream *stream, int64_t T)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < kv->n_layers; i++) {
        kv->filled[i] += kv->appended[i];
        kv->appended[i] = 0;
    }
    SY_TRY(sy_copy_h2d(stream, kv->start.data, kv->filled, sy_tensor_bytes(&kv->start)));
    SY_TRY(sy_stream_sync(stream));
    kv->n += T;
cleanup:
    return st;
}

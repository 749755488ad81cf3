#include "moe/decoder.h"

#include <math.h>

#include "core/alloc.h"
#include "model/attention.h"
#include "model/mlp.h"
#include "moe/adapters.h"
#include "moe/moe.h"
#include "moe/peer.h"
#include "moe/vectors.h"

/* Routed, PEER or dense, and where moe.extra_ffn asks for it a dense one beside what is routed. */
static sy_status create_ffn(const sy_model_config *config, const sy_moe_config *moe,
                            sy_sublayer *ffn, sy_sublayer *extra)
{
    sy_status st = SY_OK;
    const sy_mlp dense = {.hidden = config->hidden,
                          .ffn = config->ffn_hidden,
                          .init_std = config->init_std,
                          .down_std = config->init_std / sqrt(2.0 * config->layers),
                          .act = (sy_act)config->activation};
    for (int32_t i = 0; i < sy_model_blocks(config); i++) {
        const bool routed = sy_moe_config_layer(moe, i);
        if (sy_model_layer_peer(config, i)) {
            SY_TRY(sy_peer_create(config, &ffn[i]));
            continue;
        }
        SY_TRY(routed ? sy_moe_create(config, moe, i, &ffn[i]) : sy_mlp_create(&dense, &ffn[i]));
        if (routed && moe->extra_ffn) {
            SY_TRY(sy_mlp_create(&dense, &extra[i]));
        }
    }
cleanup:
    return st;
}

static void destroy(sy_sublayer **list, int32_t n)
{
    for (int32_t i = 0; *list != NULL && i < n; i++) {
        if ((*list)[i].ops != NULL) {
            (*list)[i].ops->destroy((*list)[i].self);
        }
    }
    sy_free(list);
}

/* What adapters change in the attention of layers with experts. */
static sy_status adapt_attention(const sy_moe_config *moe, sy_model *model)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < model->config->layers && sy_moe_has_kv_vectors(moe); i++) {
        sy_sublayer sub;
        if (sy_moe_config_layer(moe, i)) {
            SY_TRY(sy_vectors_create(model->config, moe, "k", &sub));
            sy_attention_on_keys(&model->block[i].attn, sub);
            SY_TRY(sy_vectors_create(model->config, moe, "v", &sub));
            sy_attention_on_values(&model->block[i].attn, sub);
        }
    }
cleanup:
    return st;
}

sy_status sy_decoder_create(const sy_model_config *config, const sy_moe_config *moe,
                            sy_model **model, sy_params **params)
{
    sy_status st = SY_OK;
    sy_sublayer *ffn = NULL, *extra = NULL;
    const int32_t n = sy_model_blocks(config);
    SY_TRY(sy_alloc(n, sizeof *ffn, (void **)&ffn));
    SY_TRY(sy_alloc(n, sizeof *extra, (void **)&extra));
    SY_TRY(create_ffn(config, moe, ffn, extra));
    st = sy_model_create(config, ffn, extra, model);
    sy_free(&ffn); /* they are the model's, whatever became of it */
    sy_free(&extra);
    SY_TRY(st);
    SY_TRY(adapt_attention(moe, *model));
    SY_TRY(sy_params_create(params));
    SY_TRY(sy_model_declare(*model, *params));
cleanup:
    destroy(&extra, n);
    destroy(&ffn, n);
    return st;
}

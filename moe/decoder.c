#include "moe/decoder.h"

#include <math.h>

#include "core/alloc.h"
#include "model/mlp.h"
#include "moe/moe.h"

static sy_status create_ffn(const sy_model_config *config, const sy_moe_config *moe,
                            sy_sublayer *ffn)
{
    sy_status st = SY_OK;
    double down_std = config->init_std / sqrt(2.0 * config->layers);
    for (int32_t i = 0; i < config->layers; i++) {
        if (sy_moe_config_layer(moe, i)) {
            SY_TRY(sy_moe_create(config, moe, i, &ffn[i]));
        } else {
            SY_TRY(sy_mlp_create(config->hidden, config->ffn_hidden, config->init_std, down_std,
                                 &ffn[i]));
        }
    }
cleanup:
    return st;
}

sy_status sy_decoder_create(const sy_model_config *config, const sy_moe_config *moe,
                            sy_model **model, sy_params **params)
{
    sy_status st = SY_OK;
    sy_sublayer *ffn = NULL;
    SY_TRY(sy_alloc(config->layers, sizeof *ffn, (void **)&ffn));
    SY_TRY(create_ffn(config, moe, ffn));
    st = sy_model_create(config, ffn, model);
    sy_free(&ffn); /* they are the model's, whatever became of it */
    SY_TRY(st);
    SY_TRY(sy_params_create(params));
    SY_TRY(sy_model_declare(*model, *params));
cleanup:
    for (int32_t i = 0; ffn != NULL && i < config->layers; i++) {
        if (ffn[i].ops != NULL) {
            ffn[i].ops->destroy(ffn[i].self);
        }
    }
    sy_free(&ffn);
    return st;
}

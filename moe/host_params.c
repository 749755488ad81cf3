/* What a router on the host owns: its matrix, small parameters, state that a step's end changes. */
#include "moe/moe_impl.h"

#include <stdio.h>

#include "core/alloc.h"

void sy__host_route_settle(const sy_model_config *model, sy_router_layout *layout)
{
    for (int32_t i = 0; i < layout->n_params; i++) {
        if (layout->param[i].by_id) {
            layout->param[i].shape[0] = model->vocab_size;
        }
    }
    layout->n_state += layout->state_per_id ? model->vocab_size : 0;
}

/* Does a layer below this one route? */
static bool is_above(const sy__moe *moe)
{
    for (int32_t i = 0; i < moe->layer; i++) {
        if (sy_moe_config_layer(moe->config, i)) {
            return true;
        }
    }
    return false;
}

static sy_status declare_own(sy__moe *moe, const char *prefix, int32_t i, sy_params *params)
{
    const sy_router_layout *l = &moe->layout;
    sy_param_spec own = {.wide = true,
                         .n_dim = 2,
                         .shape_glb = {l->param[i].shape[0], l->param[i].shape[1]},
                         .shard_dim = -1,
                         .replicas = SY_DENSE,
                         .init = l->param[i].init,
                         .init_std = l->param[i].std,
                         .trainable = true};
    snprintf(own.name, sizeof own.name, "%s/moe/%s", prefix, l->param[i].name);
    return l->param[i].above && !is_above(moe) ? SY_OK
                                               : sy_params_declare(params, &own, &moe->own[i]);
}

static sy_status declare_matrix(sy__moe *moe, const char *prefix, sy_param_spec *spec,
                                sy_params *params)
{
    const sy_router_layout *l = &moe->layout;
    spec->shape_glb[0] = l->M;
    spec->init = l->zero_matrix ? SY_INIT_ZEROS : SY_INIT_NORMAL;
    spec->n_pieces = l->n_pieces;
    for (int32_t i = 0; i < l->n_pieces; i++) {
        snprintf(spec->piece[i].name, sizeof spec->piece[i].name, "%s/moe/%s", prefix, l->piece[i]);
        spec->piece[i].extent = l->piece_rows[i] > 0 ? l->piece_rows[i] : l->M / l->n_pieces;
    }
    return l->M > 0 && !l->reads_x ? sy_params_declare(params, spec, &moe->router_w) : SY_OK;
}

sy_status sy__host_route_declare(sy__moe *moe, const char *prefix, sy_param_spec *router,
                                 sy_params *params)
{
    sy_status st = SY_OK;
    const sy_router_layout *l = &moe->layout;
    SY_TRY(declare_matrix(moe, prefix, router, params));
    for (int32_t i = 0; i < l->n_params; i++) {
        SY_TRY(declare_own(moe, prefix, i, params));
    }
    SY_TRY(sy__local_declare(moe, prefix, params));
    if (l->n_state > 0) {
        sy_param_spec state = {.wide = true,
                               .n_dim = 1,
                               .shape_glb = {l->n_state},
                               .shard_dim = -1,
                               .replicas = SY_DENSE,
                               .init = SY_INIT_ZEROS,
                               .optional = l->from_data};
        snprintf(state.name, sizeof state.name, "%s/moe/state", prefix);
        SY_TRY(sy_params_declare(params, &state, &moe->state));
    }
cleanup:
    return st;
}

/* Values of a wide parameter to the host, and back. */
static sy_status take(const sy__moe *moe, sy_stream *stream, const sy_tensor *value, double *out)
{
    sy_status st = SY_OK;
    SY_TRY(sy_copy_d2h(stream, moe->h_raw, value->data, sy_tensor_bytes(value)));
    SY_TRY(sy_stream_sync(stream));
    sy_convert(SY_F64, out, value->dtype, moe->h_raw, sy_tensor_numel(value));
cleanup:
    return st;
}

static sy_status give(const sy__moe *moe, sy_stream *stream, const double *from,
                      const sy_tensor *value)
{
    sy_status st = SY_OK;
    sy_convert(value->dtype, moe->h_raw, SY_F64, from, sy_tensor_numel(value));
    SY_TRY(sy_copy_h2d(stream, value->data, moe->h_raw, sy_tensor_bytes(value)));
    SY_TRY(sy_stream_sync(stream));
cleanup:
    return st;
}

/* Parameters that are the router's are wide: their values are their own masters, whole on every
   rank, so what all ranks write there alike is what the optimizer goes on from. */
static sy_status adapt(sy__moe *moe, const sy_step_end *end)
{
    sy_status st = SY_OK;
    bool changed = false;
    for (int32_t i = 0; i < moe->layout.n_params; i++) {
        if (moe->own[i] != NULL) {
            SY_TRY(sy_value_sync_need(end->values, moe->own[i]));
            SY_TRY(take(moe, end->stream, &moe->own[i]->value, moe->h_own[i]));
        }
    }
    changed = moe->router->host->adapt(moe->config, end, moe->layer, moe->h_state, moe->h_own);
    for (int32_t i = 0; changed && i < moe->layout.n_params; i++) {
        if (moe->own[i] != NULL) {
            SY_TRY(give(moe, end->stream, moe->h_own[i], &moe->own[i]->value));
        }
    }
cleanup:
    return st;
}

sy_status sy__host_route_begin(sy__moe *moe, const sy_run_begin *begin)
{
    sy_status st = SY_OK;
    SY_TRY(take(moe, begin->stream, &moe->state->value, moe->h_state));
    SY_TRY(moe->router->host->begin(moe->config, begin->share, moe->model->vocab_size, moe->layer,
                                    moe->h_state));
    SY_TRY(give(moe, begin->stream, moe->h_state, &moe->state->value));
cleanup:
    return st;
}

sy_status sy__host_route_end_step(sy__moe *moe, const sy_step_end *end)
{
    sy_status st = SY_OK;
    const sy_host_router_ops *ops = moe->router->host;
    sy_step_end known = *end;
    if (ops->end_step == NULL && ops->adapt == NULL) {
        return SY_OK;
    }
    known.vocab = moe->model->vocab_size;
    end = &known;
    SY_TRY(take(moe, end->stream, &moe->state->value, moe->h_state));
    if (ops->end_step != NULL) {
        ops->end_step(moe->config, end, moe->layer, moe->h_state);
    }
    if (ops->adapt != NULL && (ops->is_time == NULL || ops->is_time(moe->config, moe->h_state))) {
        SY_TRY(adapt(moe, end));
    }
    SY_TRY(give(moe, end->stream, moe->h_state, &moe->state->value));
cleanup:
    return st;
}

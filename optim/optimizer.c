#include "optim/optimizer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "optim/adafactor_impl.h"

static char *at(void *base, int64_t offset, sy_dtype dtype)
{
    return (char *)base + offset * (int64_t)sy_dtype_bytes(dtype);
}

sy_status sy_optimizer_create(const sy_optim_config *config, sy_params *params, sy_optimizer **out)
{
    sy_status st = SY_OK;
    sy_optimizer *opt = NULL;
    int64_t bytes = params->shard_n * (int64_t)sy_dtype_bytes(params->wide);
    void *ctl = NULL;

    SY_TRY(sy_alloc(1, sizeof *opt, (void **)&opt));
    opt->config = config;
    opt->params = params;
    if (params->compute != params->wide) {
        SY_TRY(sy_device_alloc(params->dev, bytes, SY_MEM_OPTIM, &opt->master));
    }
    if (config->adafactor == NULL || config->adafactor->momentum > 0) {
        SY_TRY(sy_device_alloc(params->dev, bytes, SY_MEM_OPTIM, &opt->m));
    }
    if (config->adafactor != NULL) {
        SY_TRY(sy__adafactor_create(config->adafactor, params, &opt->factored));
    } else {
        SY_TRY(sy_device_alloc(params->dev, bytes, SY_MEM_OPTIM, &opt->v));
    }
    SY_TRY(sy_device_alloc(params->dev, sizeof opt->h_ctl, SY_MEM_OPTIM, &ctl));
    opt->ctl = sy_tensor_1d(ctl, SY_F64, SY_CTL_N);
    *out = opt;
    opt = NULL;
cleanup:
    sy_optimizer_destroy(&opt);
    return st;
}

void sy_optimizer_destroy(sy_optimizer **opt)
{
    if (*opt == NULL) {
        return;
    }
    sy_device_free((*opt)->params->dev, &(*opt)->ctl.data);
    sy__adafactor_destroy(&(*opt)->factored);
    sy_device_free((*opt)->params->dev, &(*opt)->v);
    sy_device_free((*opt)->params->dev, &(*opt)->m);
    sy_device_free((*opt)->params->dev, &(*opt)->master);
    sy_free(opt);
}

double sy_clip_scale(double norm, double clip_norm)
{
    return clip_norm > 0 && norm > clip_norm ? clip_norm / norm : 1;
}

/* A wide segment is its own master. */
static sy_tensor master_of(const sy_optimizer *opt, const sy_range *range)
{
    const sy_params *params = opt->params;
    const sy_segment *seg = &params->segment[range->segment];
    bool own = seg->dtype == params->wide;
    char *data = own ? at(seg->value, range->offset, seg->dtype)
                     : at(opt->master, range->shard_offset, params->wide);
    return sy_tensor_1d(data, params->wide, range->n);
}

static sy_tensor value_of(const sy_params *params, const sy_range *range)
{
    const sy_segment *seg = &params->segment[range->segment];
    return sy_tensor_1d(at(seg->value, range->offset, seg->dtype), seg->dtype, range->n);
}

sy_status sy_optimizer_sync_masters(sy_optimizer *opt, sy_stream *stream)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < opt->params->n_ranges; i++) {
        const sy_range *range = &opt->params->range[i];
        if (opt->params->segment[range->segment].dtype != opt->params->wide) {
            SY_TRY(sy_cast(stream, &(sy_cast_args){.x = value_of(opt->params, range),
                                                   .y = master_of(opt, range)}));
        }
    }
cleanup:
    return st;
}

sy_status sy_optimizer_reset(sy_optimizer *opt, sy_stream *stream)
{
    sy_status st = SY_OK;
    int64_t bytes = opt->params->shard_n * (int64_t)sy_dtype_bytes(opt->params->wide);
    SY_TRY(opt->m != NULL ? sy_zero(stream, opt->m, bytes) : SY_OK);
    SY_TRY(opt->factored != NULL ? sy__adafactor_reset(opt->factored, stream)
                                 : sy_zero(stream, opt->v, bytes));
    opt->t = 0;
cleanup:
    return st;
}

static sy_status update_range(sy_optimizer *opt, const sy_range *range, sy_stream *stream)
{
    sy_params *params = opt->params;
    const sy_segment *seg = &params->segment[range->segment];
    sy_tensor param = seg->dtype == params->wide ? sy_tensor_none() : value_of(params, range);
    return sy_adamw(
        stream, &(sy_adamw_args){.master = master_of(opt, range),
                                 .m = sy_tensor_1d(at(opt->m, range->shard_offset, params->wide),
                                                   params->wide, range->n),
                                 .v = sy_tensor_1d(at(opt->v, range->shard_offset, params->wide),
                                                   params->wide, range->n),
                                 .grad = sy_tensor_1d(range->grad, params->wide, range->n),
                                 .param = param,
                                 .ctl = opt->ctl,
                                 .beta1 = opt->config->betas[0],
                                 .beta2 = opt->config->betas[1],
                                 .eps = opt->config->eps,
                                 .decay = seg->decay ? opt->config->weight_decay : 0});
}

sy_status sy_optimizer_step(sy_optimizer *opt, const sy_update *update, sy_stream *stream)
{
    sy_status st = SY_OK;
    double t = (double)(opt->t + 1);
    opt->h_ctl[SY_CTL_LR] = update->lr;
    opt->h_ctl[SY_CTL_GRAD_SCALE] = update->grad_scale;
    opt->h_ctl[SY_CTL_SKIP] = update->skip ? 1 : 0;
    opt->h_ctl[SY_CTL_BIAS1] = 1 - pow(opt->config->betas[0], t);
    opt->h_ctl[SY_CTL_BIAS2] = 1 - pow(opt->config->betas[1], t);
    if (opt->factored != NULL) {
        opt->h_ctl[SY_CTL_DECAY] = 1 - pow(t, -opt->config->adafactor->decay_rate);
    }
    SY_TRY(sy_copy_h2d(stream, opt->ctl.data, opt->h_ctl, sizeof opt->h_ctl));
    if (opt->factored != NULL) {
        SY_TRY(sy__adafactor_step_all(
            opt->factored, &(sy__adafactor_step){.config = opt->config->adafactor,
                                                 .master = opt->master,
                                                 .m = opt->m,
                                                 .ctl = opt->ctl,
                                                 .weight_decay = opt->config->weight_decay,
                                                 .stream = stream}));
    }
    for (int32_t i = 0; i < opt->params->n_ranges && opt->factored == NULL; i++) {
        SY_TRY(update_range(opt, &opt->params->range[i], stream));
    }
    opt->t += update->skip ? 0 : 1;
cleanup:
    return st;
}

/* A run in fp32 has no masters: there, the values are the masters. */
typedef struct master_emit {
    sy_emit *emit;
    void *to;
} master_emit;

static sy_status emit_master(void *self, const sy_field *field)
{
    const master_emit *m = self;
    sy_field f = *field;
    char values[2 * SY_PARAM_NAME];
    snprintf(values, sizeof values, "model/%s", field->name + strlen("optim/master/"));
    f.instead = values;
    return m->emit(m->to, &f);
}

sy_status sy_optimizer_walk(void *self, sy_emit *emit, void *to)
{
    sy_status st = SY_OK;
    sy_optimizer *opt = self;
    const sy_params *params = opt->params;
    sy_part part = {.box = {.n_dim = 1, .start = {0}, .shape = {1}},
                    .data = &opt->t,
                    .write = params->mesh->group[SY_WORLD]->rank == 0};
    sy_field t = {.name = "state/optim_t",
                  .dtype = SY_I64,
                  .n_dim = 1,
                  .n_parts = 1,
                  .shape_glb = {1},
                  .parts = &part};
    if (opt->master != NULL) {
        SY_TRY(sy_params_walk_shard(params, "optim/master", params->wide, opt->master, true,
                                    emit_master, &(master_emit){emit, to}));
    }
    if (opt->m != NULL) {
        SY_TRY(
            sy_params_walk_shard(params, "optim/exp_avg", params->wide, opt->m, false, emit, to));
    }
    SY_TRY(opt->factored != NULL ? sy__adafactor_walk(opt->factored, emit, to)
                                 : sy_params_walk_shard(params, "optim/exp_avg_sq", params->wide,
                                                        opt->v, false, emit, to));
    SY_TRY(emit(to, &t));
cleanup:
    return st;
}

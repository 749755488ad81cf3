#include "model/model.h"

#include <math.h>
#include <stdio.h>

#include "backend/corrupt.h"
#include "core/alloc.h"
#include "model/attention.h"
#include "model/head.h"
#include "model/mla.h"
#include "model/model_impl.h"

struct sy_model_saved {
    sy_tensor *x;      /* [L] input of each block, [T, H] */
    void **block;      /* [L] */
    sy_tensor y, g;    /* [T, H] the last block's output, and its gradient */
    sy_mtp_saved *mtp; /* NULL: nothing predicts further tokens */
};

static void destroy_sublayer(const sy_sublayer *sub)
{
    if (sub->ops != NULL) {
        sub->ops->destroy(sub->self);
    }
}

sy_status sy_model_create(const sy_model_config *config, const sy_sublayer *ffn,
                          const sy_sublayer *extra, sy_model **out)
{
    sy_status st = SY_OK;
    sy_model *model = NULL;
    const int32_t n = sy_model_blocks(config);
    int32_t n_taken = 0;

    SY_TRY(sy_alloc(1, sizeof *model, (void **)&model));
    SY_TRY(sy_alloc(n, sizeof *model->block, (void **)&model->block));
    SY_TRY(sy_alloc(n, sizeof *model->share, (void **)&model->share));
    SY_TRY(sy_alloc(config->mtp_layers, sizeof *model->mtp, (void **)&model->mtp));
    model->config = config;
    model->n_layers = config->layers;
    model->n_blocks = n;
    for (; n_taken < n; n_taken++) {
        sy_block *block = &model->block[n_taken];
        *block = (sy_block){.config = config, .layer = n_taken, .ffn = ffn[n_taken]};
        block->extra = extra != NULL ? extra[n_taken] : (sy_sublayer){0};
    }
    for (int32_t k = 0; k < config->mtp_layers; k++) {
        model->mtp[k].block = &model->block[config->layers + k];
    }
    for (int32_t i = 0; i < n; i++) {
        model->share[i] = sy_model_layer_share(config, i);
        SY_TRY(config->kv_lora_rank > 0 ? sy_mla_create(config, &model->block[i].attn)
                                        : sy_attention_create(config, &model->block[i].attn));
    }
    *out = model;
    model = NULL;
cleanup:
    for (int32_t i = n_taken; i < n && n_taken == 0; i++) {
        destroy_sublayer(&ffn[i]);
        if (extra != NULL) {
            destroy_sublayer(&extra[i]);
        }
    }
    sy_model_destroy(&model);
    return st;
}

void sy_model_destroy(sy_model **model)
{
    if (*model == NULL) {
        return;
    }
    for (int32_t i = 0; i < (*model)->n_blocks; i++) {
        destroy_sublayer(&(*model)->block[i].attn);
        destroy_sublayer(&(*model)->block[i].ffn);
        destroy_sublayer(&(*model)->block[i].extra);
    }
    sy_free(&(*model)->mtp);
    sy_free(&(*model)->share);
    sy_free(&(*model)->block);
    sy_free(model);
}

sy_status sy_model_declare(sy_model *model, sy_params *params)
{
    sy_status st = SY_OK;
    const sy_model_config *c = model->config;
    const sy_param_spec embed = sy_param_matrix(c->vocab_size, c->hidden, c->init_std, "embed");
    const sy_param_spec head = sy_param_matrix(c->vocab_size, c->hidden, c->init_std, "head");
    const sy_param_spec norm = sy_param_vector(c->hidden, SY_INIT_ONES, "norm");

    SY_TRY(sy_params_declare(params, &embed, &model->embed));
    for (int32_t i = 0; i < model->n_layers; i++) {
        SY_TRY(sy_block_declare(&model->block[i], params));
        model->block[i].last = params->param[params->n - 1];
    }
    SY_TRY(sy_params_declare(params, &norm, &model->norm));
    for (int32_t k = 1; k <= c->mtp_layers; k++) {
        SY_TRY(sy_mtp_declare(model, k, params));
    }
    model->head = model->embed;
    if (!c->tie_embeddings) {
        SY_TRY(sy_params_declare(params, &head, &model->head));
    }
cleanup:
    return st;
}

sy_status sy__model_embed(sy_model *model, sy_pass *p, sy_tensor *x)
{
    sy_status st = SY_OK;
    SY_TRY(sy_value_sync_need(p->values, model->embed));
    SY_TRY(sy_embed(p->stream,
                    &(sy_embed_args){.w = model->embed->value, .ids = p->batch->ids, .y = *x}));
    SY_TRY(sy_scale_in_place(p, model->config->embedding_multiplier, x));
cleanup:
    return st;
}

sy_status sy__model_embed_backward(sy_model *model, sy_pass *p, const sy_tensor *g)
{
    sy_status st = SY_OK;
    if (model->embed->grad.data == NULL) {
        return SY_OK;
    }
    SY_TRY(sy_scale_in_place(p, model->config->embedding_multiplier, g));
    SY_TRY(sy_embed_backward(
        p->stream,
        &(sy_embed_backward_args){.ids = p->batch->ids, .dy = *g, .dw = model->embed->grad}));
cleanup:
    return st;
}

static sy_status run_block(sy_block *block, sy_pass *p, const sy_tensor *x, sy_tensor *y,
                           void **saved)
{
    sy_status st = SY_OK;
    SY_TRY(sy_value_sync_need(p->values, block->last));
    SY_TRY(sy_block_forward(block, p, x, y, saved));
cleanup:
    return st;
}

/* All blocks without saving: two buffers in turn. *y is one of them. */
static sy_status run_blocks(sy_model *model, sy_pass *p, sy_tensor *y)
{
    sy_status st = SY_OK;
    sy_tensor buf[2];
    int32_t i = 0;
    for (int32_t k = 0; k < 2; k++) {
        SY_TRY(sy_arena_2d(p->scratch, p->compute, p->batch->T, model->config->hidden, &buf[k]));
    }
    SY_TRY(sy__model_embed(model, p, &buf[0]));
    for (i = 0; i < model->n_layers; i++) {
        SY_TRY(run_block(&model->block[i], p, &buf[i % 2], &buf[(i + 1) % 2], NULL));
    }
    *y = buf[i % 2];
cleanup:
    return st;
}

static sy_status run_blocks_saving(sy_model *model, sy_pass *p, sy_model_saved *s, sy_tensor *y)
{
    sy_status st = SY_OK;
    int64_t T = p->batch->T, H = model->config->hidden;
    SY_TRY(sy_arena_2d(p->keep, p->compute, T, H, &s->x[0]));
    SY_TRY(sy__model_embed(model, p, &s->x[0]));
    for (int32_t i = 0; i < model->n_layers; i++) {
        sy_tensor *out = i + 1 < model->n_layers ? &s->x[i + 1] : y;
        SY_TRY(sy_arena_2d(p->keep, p->compute, T, H, out));
        SY_TRY(run_block(&model->block[i], p, &s->x[i], out, &s->block[i]));
        SY_TRY(sy_corrupt(p->stream, "model.activation", out, 0));
    }
cleanup:
    return st;
}

static sy_status create_saved(sy_model *model, sy_pass *p, sy_model_saved **out)
{
    sy_status st = SY_OK;
    sy_model_saved *s = NULL;
    int64_t L = model->n_layers;
    SY_TRY(sy_host_arena_alloc(p->host, sizeof *s, (void **)&s));
    SY_TRY(sy_host_arena_alloc(p->host, L * (int64_t)sizeof *s->x, (void **)&s->x));
    SY_TRY(sy_host_arena_alloc(p->host, L * (int64_t)sizeof *s->block, (void **)&s->block));
    SY_TRY(sy_arena_2d(p->keep, p->compute, p->batch->T, model->config->hidden, &s->g));
    *out = s;
cleanup:
    return st;
}

static sy_head head_of(const sy_model *model)
{
    return (sy_head){.config = model->config,
                     .norm = model->norm,
                     .weight = model->head,
                     .coeff = 1,
                     .z_coeff = model->config->output_z_loss_coeff};
}

sy_status sy_model_forward(sy_model *model, sy_pass *p, sy_model_saved **saved)
{
    sy_status st = SY_OK;
    const sy_head head = head_of(model);
    int64_t mark = sy_arena_mark(p->scratch);
    sy_model_saved *s = NULL;
    sy_tensor y, no_grad = sy_tensor_none();

    if (saved != NULL) {
        SY_TRY(create_saved(model, p, &s));
        SY_TRY(run_blocks_saving(model, p, s, &s->y));
        y = s->y;
    } else {
        SY_TRY(run_blocks(model, p, &y));
    }
    SY_TRY(sy_value_sync_finish(p->values));
    SY_TRY(sy_head_loss(&head, p, &y, s != NULL ? &s->g : &no_grad));
    if (p->stats != NULL) {
        SY_TRY(
            sy_sum(p->stream, &(sy_sum_args){.x = p->nll, .out = p->stats->nll_sum, .scale = 1}));
    }
    if (saved != NULL && model->n_blocks > model->n_layers) {
        SY_TRY(sy_mtp_forward(model, p, &s->y, &s->mtp));
    }
    if (saved != NULL) {
        *saved = s;
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy_model_backward(sy_model *model, sy_pass *p, sy_model_saved *s)
{
    sy_status st = SY_OK;
    if (s->mtp != NULL) {
        SY_TRY(sy_mtp_backward(model, p, s->mtp, &s->y, &s->g));
    }
    if (p->grads != NULL) {
        SY_TRY(sy_grad_sync_reached(p->grads, model->norm)); /* the head was done in forward */
    }
    for (int32_t i = model->n_layers - 1; i >= 0; i--) {
        SY_TRY(sy_block_backward(&model->block[i], p, s->block[i], &s->x[i], &s->g));
    }
    SY_TRY(sy__model_embed_backward(model, p, &s->g));
    if (p->grads != NULL) {
        SY_TRY(sy_grad_sync_reached(p->grads, model->embed));
    }
cleanup:
    return st;
}

sy_status sy_model_decode(sy_model *model, sy_pass *p, sy_tensor *logits)
{
    sy_status st = SY_OK;
    const sy_head head = head_of(model);
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor y;
    SY_TRY(run_blocks(model, p, &y));
    SY_TRY(sy_value_sync_finish(p->values));
    if (p->batch->T > 0) {
        SY_TRY(sy_head_logits(&head, p, &y, logits));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy_model_begin(sy_model *model, const sy_run_begin *begin)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < model->n_blocks; i++) {
        const sy_sublayer *ffn = &model->block[i].ffn;
        if (ffn->ops->begin != NULL) {
            SY_TRY(ffn->ops->begin(ffn->self, begin));
        }
    }
cleanup:
    return st;
}

sy_status sy_model_end_step(sy_model *model, const sy_step_end *end)
{
    sy_status st = SY_OK;
    sy_step_end with_share = *end;
    with_share.share = model->share;
    for (int32_t i = 0; i < model->n_blocks; i++) {
        const sy_sublayer *ffn = &model->block[i].ffn;
        if (ffn->ops->end_step != NULL) {
            SY_TRY(ffn->ops->end_step(ffn->self, &with_share));
        }
    }
cleanup:
    return st;
}

sy_status sy_model_walk(sy_model *model, sy_emit *emit, void *to)
{
    sy_status st = SY_OK;
    char prefix[32];
    for (int32_t i = 0; i < model->n_blocks; i++) {
        const sy_sublayer *ffn = &model->block[i].ffn;
        snprintf(prefix, sizeof prefix, "layers/%03d", i);
        if (ffn->ops->walk != NULL) {
            SY_TRY(ffn->ops->walk(ffn->self, prefix, emit, to));
        }
    }
cleanup:
    return st;
}

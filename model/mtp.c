#include "model/mtp.h"

#include <stdio.h>

#include "core/span.h"
#include "model/head.h"
#include "model/model_impl.h"

/* Of one module. */
typedef struct module_saved {
    sy_device_batch batch;        /* the tokens as it sees them */
    sy_tensor h, below_rstd;      /* [T, H] what the one before says, behind its norm */
    sy_tensor embed_rstd, h_rstd; /* [T, 1] of the two norms */
    sy_tensor both;               /* [T, 2H] their outputs, side by side */
    sy_tensor x, y, g;            /* [T, H] into the block, out of it, and y's gradient */
    void *block;
} module_saved;

struct sy_mtp_saved {
    module_saved *module; /* [D] */
};

/* ---- parameters ---- */

sy_status sy_mtp_declare(sy_model *model, int32_t k, sy_params *params)
{
    sy_status st = SY_OK;
    const sy_model_config *c = model->config;
    sy_mtp *m = &model->mtp[k - 1];
    const int32_t layer = m->block->layer;
    const int64_t H = c->hidden;
    const sy_param_spec embed_norm =
        sy_param_vector(H, SY_INIT_ONES, "layers/%03d/mtp/embed_norm", layer);
    const sy_param_spec hidden_norm =
        sy_param_vector(H, SY_INIT_ONES, "layers/%03d/mtp/hidden_norm", layer);
    const sy_param_spec proj =
        sy_param_matrix(H, 2 * H, c->init_std, "layers/%03d/mtp/proj", layer);
    const sy_param_spec norm = sy_param_vector(H, SY_INIT_ONES, "mtp/%03d/norm", layer);
    SY_TRY(sy_params_declare(params, &embed_norm, &m->embed_norm));
    SY_TRY(sy_params_declare(params, &hidden_norm, &m->hidden_norm));
    SY_TRY(sy_params_declare(params, &proj, &m->proj));
    SY_TRY(sy_block_declare(m->block, params));
    /* Its gradient comes in forward already, so it is none of those that a layer's backward makes
       and that may share memory with other layers' (parallel/grad_sync.h). */
    SY_TRY(sy_params_declare(params, &norm, &m->norm));
cleanup:
    return st;
}

/* ---- tokens ---- */

void sy_mtp_shift(const sy_batch *b, int32_t k, sy_mtp_batch *out)
{
    out->n_aimed = out->n_routed = 0;
    for (int64_t i = 0; i < (int64_t)b->B * b->S; i++) {
        const int64_t left = b->S - 1 - i % b->S; /* tokens behind it in its sequence */
        const int64_t to = i + (left < k ? left : k);
        const bool there = left >= k && (b->doc == NULL || b->doc[to] == b->doc[i]) &&
                           (b->routed == NULL || (b->routed[i] && b->routed[to]));
        const bool aimed = there && b->targets[to] >= 0;
        out->ids[i] = b->ids[to];
        out->targets[i] = aimed ? b->targets[to] : -1;
        out->loss_weight[i] = !aimed ? 0 : b->loss_weight != NULL ? b->loss_weight[to] : 1;
        out->routed[i] = there;
        out->n_aimed += aimed;
        out->n_routed += there;
    }
}

/* One of the step's sums of module k. */
static sy_tensor told_at(const sy_pass *p, int32_t k, int32_t which)
{
    return sy_tensor_rows(&p->stats->mtp, (k - 1) * SY_MTP_N_SUMS + which, 1);
}

static sy_status upload(sy_pass *p, sy_arena *arena, sy_dtype dtype, int64_t n, const void *h_data,
                        sy_tensor *out)
{
    sy_status st = SY_OK;
    SY_TRY(sy_arena_1d(arena, dtype, n, out));
    SY_TRY(sy_copy_h2d(p->stream, out->data, h_data, sy_tensor_bytes(out)));
cleanup:
    return st;
}

/* How many tokens of this rank have a target, and are routed, is told with the losses. */
static sy_status count(sy_pass *p, int32_t k, const sy_mtp_batch *h)
{
    sy_status st = SY_OK;
    const int64_t mark = sy_arena_mark(p->scratch);
    double *told = NULL;
    sy_tensor n;
    SY_TRY(sy_host_arena_alloc(p->host, 2 * (int64_t)sizeof *told, (void **)&told));
    told[0] = (double)h->n_aimed;
    told[1] = (double)h->n_routed;
    SY_TRY(upload(p, p->scratch, SY_F64, 2, told, &n));
    for (int32_t i = 0; i < 2; i++) {
        SY_TRY(sy_sum(p->stream, &(sy_sum_args){.x = sy_tensor_rows(&n, i, 1),
                                                .out = told_at(p, k, SY_MTP_TARGETS + i),
                                                .scale = 1}));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* A dry device's batch has no contents. */
static sy_status make_batch(sy_pass *p, int32_t k, sy_device_batch *out)
{
    sy_status st = SY_OK;
    const int64_t T = p->batch->T;
    sy_mtp_batch h = {0};
    SY_TRY(sy_host_arena_alloc(p->host, T * (int64_t)sizeof *h.ids, (void **)&h.ids));
    SY_TRY(sy_host_arena_alloc(p->host, T * (int64_t)sizeof *h.targets, (void **)&h.targets));
    SY_TRY(
        sy_host_arena_alloc(p->host, T * (int64_t)sizeof *h.loss_weight, (void **)&h.loss_weight));
    SY_TRY(sy_host_arena_alloc(p->host, T * (int64_t)sizeof *h.routed, (void **)&h.routed));
    if (!p->mesh->dev->dry) {
        sy_mtp_shift(p->h_batch, k, &h);
    }
    *out = *p->batch;
    SY_TRY(upload(p, p->keep, SY_I32, T, h.ids, &out->ids));
    SY_TRY(upload(p, p->keep, SY_I32, T, h.targets, &out->targets));
    SY_TRY(upload(p, p->keep, SY_F32, T, h.loss_weight, &out->loss_weight));
    SY_TRY(upload(p, p->keep, SY_U8, T, h.routed, &out->routed));
    if (p->stats != NULL) {
        SY_TRY(count(p, k, &h));
    }
cleanup:
    return st;
}

/* ---- forward ---- */

/* The pass as module k sees it: fewer tokens are routed there. */
static sy_pass pass_of(const sy_model *model, const sy_pass *p, int32_t k, const module_saved *m)
{
    sy_pass inner = *p;
    inner.batch = &m->batch;
    inner.per_routed_token = p->per_routed_token / model->share[model->n_layers + k - 1];
    return inner;
}

static sy_status norm_forward(const sy_model *model, sy_pass *p, const sy_param *w,
                              const sy_tensor *x, const sy_tensor *y, sy_tensor *rstd)
{
    sy_status st = SY_OK;
    SY_TRY(sy_arena_2d(p->keep, p->wide, x->shape[0], 1, rstd));
    SY_TRY(sy_rmsnorm(p->stream, &(sy_rmsnorm_args){.x = sy_tensor_heads(x, 1),
                                                    .w = w->value,
                                                    .y = sy_tensor_heads(y, 1),
                                                    .rstd = *rstd,
                                                    .eps = model->config->norm_eps}));
cleanup:
    return st;
}

/* x = M [norm(embed(ids)); norm(h)], h the norm of what stands below. */
static sy_status join(sy_model *model, sy_pass *p, const sy_mtp *mtp, const sy_tensor *below,
                      const sy_param *below_norm, module_saved *m)
{
    sy_status st = SY_OK;
    const int64_t T = below->shape[0], H = below->shape[1], mark = sy_arena_mark(p->scratch);
    sy_tensor e, left, right;
    SY_TRY(sy_arena_2d(p->keep, p->compute, T, H, &m->h));
    SY_TRY(sy_arena_2d(p->keep, p->compute, T, 2 * H, &m->both));
    SY_TRY(sy_arena_2d(p->keep, p->compute, T, H, &m->x));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, H, &e));
    left = sy_tensor_cols(&m->both, 0, H);
    right = sy_tensor_cols(&m->both, H, H);
    SY_TRY(sy__model_embed(model, p, &e));
    SY_TRY(norm_forward(model, p, mtp->embed_norm, &e, &left, &m->embed_rstd));
    SY_TRY(norm_forward(model, p, below_norm, below, &m->h, &m->below_rstd));
    SY_TRY(norm_forward(model, p, mtp->hidden_norm, &m->h, &right, &m->h_rstd));
    SY_TRY(sy_linear_forward(p, &m->both, &mtp->proj->value, &m->x));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* Loss of module k, and the gradient of what its block gives. */
static sy_status predict(sy_model *model, sy_pass *p, int32_t k, module_saved *m)
{
    sy_status st = SY_OK;
    const int64_t mark = sy_arena_mark(p->scratch);
    const sy_model_config *c = model->config;
    const sy_head head = {.config = c,
                          .norm = model->mtp[k - 1].norm,
                          .weight = model->head,
                          .coeff = p->mtp_factor * c->mtp_loss_coeff / c->mtp_layers};
    SY_TRY(sy_arena_1d(p->scratch, p->wide, m->batch.T, &p->nll));
    SY_TRY(sy_arena_2d(p->keep, p->compute, m->batch.T, c->hidden, &m->g));
    SY_TRY(sy_head_loss(&head, p, &m->y, &m->g));
    if (p->stats != NULL) {
        SY_TRY(sy_sum(p->stream,
                      &(sy_sum_args){.x = p->nll, .out = told_at(p, k, SY_MTP_NLL), .scale = 1}));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* What module k stands on: y and the norm behind it. */
static const sy_param *norm_below(const sy_model *model, int32_t k)
{
    return k == 1 ? model->norm : model->mtp[k - 2].norm;
}

static sy_status module_forward(sy_model *model, sy_pass *p, int32_t k, const sy_tensor *below,
                                module_saved *m)
{
    sy_status st = SY_OK;
    const sy_mtp *mtp = &model->mtp[k - 1];
    sy_pass inner;
    SY_TRY(make_batch(p, k, &m->batch));
    inner = pass_of(model, p, k, m);
    sy_span_begin(SY_SPAN_PART, "mtp", mtp->block->layer, -1);
    st = join(model, &inner, mtp, below, norm_below(model, k), m);
    sy_span_end();
    SY_TRY(st);
    SY_TRY(sy_arena_2d(p->keep, p->compute, below->shape[0], below->shape[1], &m->y));
    SY_TRY(sy_block_forward(mtp->block, &inner, &m->x, &m->y, &m->block));
    p->carry = inner.carry;
    SY_TRY(predict(model, &inner, k, m));
cleanup:
    return st;
}

sy_status sy_mtp_forward(sy_model *model, sy_pass *p, const sy_tensor *y, sy_mtp_saved **saved)
{
    sy_status st = SY_OK;
    const int32_t D = model->config->mtp_layers;
    sy_mtp_saved *s = NULL;
    SY_TRY(sy_host_arena_alloc(p->host, sizeof *s, (void **)&s));
    SY_TRY(sy_host_arena_alloc(p->host, D * (int64_t)sizeof *s->module, (void **)&s->module));
    for (int32_t k = 1; k <= D; k++) {
        const sy_tensor *below = k == 1 ? y : &s->module[k - 2].y;
        SY_TRY(module_forward(model, p, k, below, &s->module[k - 1]));
    }
    *saved = s;
cleanup:
    return st;
}

/* ---- backward ---- */

static sy_status norm_backward(sy_pass *p, const sy_param *w, const sy_tensor *x,
                               const sy_tensor *rstd, const sy_tensor *dy, const sy_tensor *dx,
                               double beta)
{
    return sy_rmsnorm_backward(p->stream, &(sy_rmsnorm_backward_args){.x = sy_tensor_heads(x, 1),
                                                                      .w = w->value,
                                                                      .rstd = *rstd,
                                                                      .dy = sy_tensor_heads(dy, 1),
                                                                      .dx = sy_tensor_heads(dx, 1),
                                                                      .dw = w->grad,
                                                                      .beta = beta});
}

/* From the gradient of x: those of what it is made of; g += that of what stands below. */
static sy_status join_backward(sy_model *model, sy_pass *p, const sy_mtp *mtp,
                               const sy_tensor *below, const sy_param *below_norm,
                               const module_saved *m, sy_tensor *g)
{
    sy_status st = SY_OK;
    const int64_t T = below->shape[0], H = below->shape[1], mark = sy_arena_mark(p->scratch);
    sy_tensor dboth, e, left, right;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, 2 * H, &dboth));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, H, &e));
    left = sy_tensor_cols(&dboth, 0, H);
    right = sy_tensor_cols(&dboth, H, H);
    SY_TRY(sy_linear_dgrad(p, &m->g, &mtp->proj->value, &dboth, 0));
    SY_TRY(sy_linear_wgrad(p, &m->g, &m->both, &mtp->proj->grad));
    SY_TRY(norm_backward(p, mtp->hidden_norm, &m->h, &m->h_rstd, &right, &right, 0));
    SY_TRY(norm_backward(p, below_norm, below, &m->below_rstd, &right, g, 1));
    SY_TRY(sy__model_embed(model, p, &e));
    SY_TRY(norm_backward(p, mtp->embed_norm, &e, &m->embed_rstd, &left, &left, 0));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = left, .y = e}));
    SY_TRY(sy__model_embed_backward(model, p, &e));
    if (p->grads != NULL) {
        SY_TRY(sy_grad_sync_reached(p->grads, mtp->embed_norm));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy_mtp_backward(sy_model *model, sy_pass *p, sy_mtp_saved *s, const sy_tensor *y,
                          sy_tensor *g)
{
    sy_status st = SY_OK;
    for (int32_t k = model->config->mtp_layers; k >= 1; k--) {
        const sy_mtp *mtp = &model->mtp[k - 1];
        module_saved *m = &s->module[k - 1], *before = k > 1 ? &s->module[k - 2] : NULL;
        sy_pass inner = pass_of(model, p, k, m);
        SY_TRY(sy_block_backward(mtp->block, &inner, m->block, &m->x, &m->g));
        sy_span_begin(SY_SPAN_PART, "mtp", mtp->block->layer, -1);
        st = join_backward(model, &inner, mtp, before != NULL ? &before->y : y,
                           norm_below(model, k), m, before != NULL ? &before->g : g);
        sy_span_end();
        SY_TRY(st);
    }
cleanup:
    return st;
}

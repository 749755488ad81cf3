#include "model/block.h"

#include <stdio.h>

#include "core/span.h"

typedef struct block_saved {
    sy_tensor normed[3], rstd[3]; /* before attention, before the feed-forward parts */
    sy_tensor mid[2];             /* [T, H] the residual stream between them */
    void *attn, *ffn, *extra;
} block_saved;

static sy_status declare_norm(sy_block *block, const char *name, sy_params *params, sy_param **out)
{
    sy_param_spec spec = {.n_dim = 1,
                          .shape_glb = {block->config->hidden},
                          .shard_dim = -1,
                          .replicas = SY_DENSE,
                          .init = SY_INIT_ONES,
                          .trainable = true};
    snprintf(spec.name, sizeof spec.name, "layers/%03d/%s", block->layer, name);
    return sy_params_declare(params, &spec, out);
}

sy_status sy_block_declare(sy_block *block, sy_params *params)
{
    sy_status st = SY_OK;
    char prefix[32];
    snprintf(prefix, sizeof prefix, "layers/%03d", block->layer);
    SY_TRY(sy_depth_declare(block, params));
    SY_TRY(declare_norm(block, "attn_norm", params, &block->attn_norm));
    SY_TRY(block->attn.ops->declare(block->attn.self, prefix, params));
    SY_TRY(declare_norm(block, "ffn_norm", params, &block->ffn_norm));
    SY_TRY(block->ffn.ops->declare(block->ffn.self, prefix, params));
    if (block->extra.ops != NULL) {
        SY_TRY(declare_norm(block, "extra_norm", params, &block->extra_norm));
        SY_TRY(block->extra.ops->declare(block->extra.self, prefix, params));
    }
cleanup:
    return st;
}

/* y = x + m * sublayer(norm(x)), m the residual multiplier. */
static sy_status part_forward(sy_block *block, sy_pass *p, const sy_sublayer *sub,
                              const sy_param *norm, const sy_tensor *x, sy_tensor *y,
                              sy_tensor *normed, sy_tensor *rstd, void **saved)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), T = x->shape[0], H = x->shape[1];
    sy_arena *arena = saved != NULL ? p->saved : p->scratch;
    sy_tensor out;

    SY_TRY(sy_arena_2d(arena, p->compute, T, H, normed));
    SY_TRY(sy_arena_2d(arena, p->wide, T, 1, rstd));
    SY_TRY(sy_rmsnorm(p->stream, &(sy_rmsnorm_args){.x = sy_tensor_heads(x, 1),
                                                    .w = norm->value,
                                                    .y = sy_tensor_heads(normed, 1),
                                                    .rstd = *rstd,
                                                    .eps = block->config->norm_eps}));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, H, &out));
    sy_span_begin(SY_SPAN_PART, sub->ops->name, block->layer, -1);
    st = sub->ops->forward(sub->self, p, normed, &out, saved);
    sy_span_end();
    SY_TRY(st);
    SY_TRY(sy_scale_in_place(p, block->config->residual_multiplier, &out));
    SY_TRY(sy_add(p->stream, &(sy_add_args){.a = *x, .b = out, .y = *y}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static sy_status all_parts(sy_block *block, sy_pass *p, const sy_tensor *x, sy_tensor *y,
                           block_saved *s, bool keep)
{
    sy_status st = SY_OK;
    sy_arena *arena = keep ? p->saved : p->scratch;
    int64_t mark = sy_arena_mark(p->scratch);
    const bool extra = block->extra.ops != NULL;
    SY_TRY(sy_arena_2d(arena, p->compute, x->shape[0], x->shape[1], &s->mid[0]));
    SY_TRY(part_forward(block, p, &block->attn, block->attn_norm, x, &s->mid[0], &s->normed[0],
                        &s->rstd[0], keep ? &s->attn : NULL));
    if (extra) {
        SY_TRY(sy_arena_2d(arena, p->compute, x->shape[0], x->shape[1], &s->mid[1]));
    }
    SY_TRY(part_forward(block, p, &block->ffn, block->ffn_norm, &s->mid[0], extra ? &s->mid[1] : y,
                        &s->normed[1], &s->rstd[1], keep ? &s->ffn : NULL));
    if (extra) {
        SY_TRY(part_forward(block, p, &block->extra, block->extra_norm, &s->mid[1], y,
                            &s->normed[2], &s->rstd[2], keep ? &s->extra : NULL));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy_block_all_forward(sy_block *block, sy_pass *p, const sy_tensor *x, sy_tensor *y,
                               void **saved)
{
    sy_status st = SY_OK;
    sy_arena *saved_arena = p->saved;
    block_saved *s = NULL;

    p->layer = block->layer;
    sy_span_begin(SY_SPAN_LAYER, "layer", block->layer, -1);
    SY_TRY(sy_host_arena_alloc(p->host, sizeof *s, (void **)&s));
    if (saved != NULL && p->recompute == SY_RECOMPUTE_BLOCK) {
        p->saved = p->block;
        sy_arena_release(p->block, 0);
    }
    SY_TRY(all_parts(block, p, x, y, s, saved != NULL));
    if (saved != NULL) {
        *saved = s;
    }
cleanup:
    sy_span_end();
    p->saved = saved_arena;
    return st;
}

/* Forward again: fills in what was not kept. The sublayers' outputs are needed up to the last
   one's input only, but all must refill what they saved. */
static sy_status recompute(sy_block *block, sy_pass *p, const sy_tensor *x, block_saved *s)
{
    sy_status st = SY_OK;
    sy_pass_kind kind = p->kind;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor y;
    p->kind = SY_PASS_RECOMPUTE;
    sy_span_begin(SY_SPAN_PART, "recompute", block->layer, -1);
    SY_TRY(sy_arena_2d(p->scratch, p->compute, x->shape[0], x->shape[1], &y));
    SY_TRY(all_parts(block, p, x, &y, s, true));
cleanup:
    p->kind = kind;
    sy_span_end();
    sy_arena_release(p->scratch, mark);
    return st;
}

/* m * g for the sublayer; g itself goes on along the residual stream as it is. */
static sy_status sublayer_grad(const sy_block *block, sy_pass *p, const sy_tensor *g,
                               sy_tensor *out)
{
    sy_status st = SY_OK;
    double factor = block->config->residual_multiplier;
    *out = *g;
    if (factor != 1) {
        SY_TRY(sy_arena_2d(p->scratch, p->compute, g->shape[0], g->shape[1], out));
        SY_TRY(sy_scale(p->stream, &(sy_scale_args){.x = *g, .y = *out, .factor = factor}));
    }
cleanup:
    return st;
}

static sy_status part_backward(sy_block *block, sy_pass *p, const sy_sublayer *sub, sy_param *norm,
                               const sy_tensor *x, const sy_tensor *normed, const sy_tensor *rstd,
                               void *saved, sy_tensor *g)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor dy, dnormed;
    SY_TRY(sublayer_grad(block, p, g, &dy));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, x->shape[0], x->shape[1], &dnormed));
    sy_span_begin(SY_SPAN_PART, sub->ops->name, block->layer, -1);
    st = sub->ops->backward(sub->self, p, saved, normed, &dy, &dnormed);
    sy_span_end();
    SY_TRY(st);
    SY_TRY(sy_rmsnorm_backward(p->stream,
                               &(sy_rmsnorm_backward_args){.x = sy_tensor_heads(x, 1),
                                                           .w = norm->value,
                                                           .rstd = *rstd,
                                                           .dy = sy_tensor_heads(&dnormed, 1),
                                                           .dx = sy_tensor_heads(g, 1),
                                                           .dw = norm->grad,
                                                           .beta = 1}));
    if (p->grads != NULL) {
        SY_TRY(sy_grad_sync_reached(p->grads, norm));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy_block_all_backward(sy_block *block, sy_pass *p, void *saved, const sy_tensor *x,
                                sy_tensor *g)
{
    sy_status st = SY_OK;
    sy_arena *saved_arena = p->saved;
    block_saved *s = saved;

    p->layer = block->layer;
    sy_span_begin(SY_SPAN_LAYER, "layer", block->layer, -1);
    if (p->recompute == SY_RECOMPUTE_BLOCK) {
        p->saved = p->block;
        sy_arena_release(p->block, 0);
        SY_TRY(recompute(block, p, x, s));
    }
    if (block->extra.ops != NULL) {
        SY_TRY(part_backward(block, p, &block->extra, block->extra_norm, &s->mid[1], &s->normed[2],
                             &s->rstd[2], s->extra, g));
    }
    SY_TRY(part_backward(block, p, &block->ffn, block->ffn_norm, &s->mid[0], &s->normed[1],
                         &s->rstd[1], s->ffn, g));
    SY_TRY(part_backward(block, p, &block->attn, block->attn_norm, x, &s->normed[0], &s->rstd[0],
                         s->attn, g));
cleanup:
    sy_span_end();
    p->saved = saved_arena;
    return st;
}

sy_status sy_block_forward(sy_block *block, sy_pass *p, const sy_tensor *x, sy_tensor *y,
                           void **saved)
{
    return block->depth.router != NULL ? sy_depth_forward(block, p, x, y, saved)
                                       : sy_block_all_forward(block, p, x, y, saved);
}

sy_status sy_block_backward(sy_block *block, sy_pass *p, void *saved, const sy_tensor *x,
                            sy_tensor *g)
{
    return block->depth.router != NULL ? sy_depth_backward(block, p, saved, x, g)
                                       : sy_block_all_backward(block, p, saved, x, g);
}

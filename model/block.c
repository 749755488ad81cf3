#include "model/block.h"

#include <stdio.h>

#include "core/span.h"

enum { MAX_PARTS = 3 };

/* A sublayer and the norm before it, */
typedef struct part {
    const sy_sublayer *sub;
    sy_param *norm;
} part;
/* and what its backward needs. */
typedef struct part_saved {
    sy_tensor x, normed, rstd; /* the residual stream before it */
    void *sub;
} part_saved;
typedef struct block_saved {
    part_saved part[MAX_PARTS];
} block_saved;

/* In the order of forward. Returns how many. */
static int32_t parts_of(const sy_block *block, part out[MAX_PARTS])
{
    out[0] = (part){&block->attn, block->attn_norm};
    out[1] = (part){&block->ffn, block->ffn_norm};
    out[2] = (part){&block->extra, block->extra_norm};
    return block->extra.ops != NULL ? 3 : 2;
}

static sy_status declare_norm(sy_block *block, const char *name, sy_params *params, sy_param **out)
{
    const sy_param_spec spec =
        sy_param_vector(block->config->hidden, SY_INIT_ONES, "layers/%03d/%s", block->layer, name);
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

/* normed = norm(s->x), where s->x = x + m * out first if there is an x: what the part before gave
   goes into the residual stream on the way. */
static sy_status norm_forward(sy_block *block, sy_pass *p, const sy_param *norm, const sy_tensor *x,
                              const sy_tensor *out, part_saved *s)
{
    sy_rmsnorm_args args = {.x = sy_tensor_heads(&s->x, 1),
                            .w = norm->value,
                            .y = sy_tensor_heads(&s->normed, 1),
                            .rstd = s->rstd,
                            .eps = block->config->norm_eps};
    if (x != NULL) {
        args.x = sy_tensor_heads(x, 1);
        args.add = sy_tensor_heads(out, 1);
        args.sum = sy_tensor_heads(&s->x, 1);
        args.factor = block->config->residual_multiplier;
    }
    return sy_rmsnorm(p->stream, &args);
}

/* out = sublayer(norm(s->x)), s->x as above. */
static sy_status part_forward(sy_block *block, sy_pass *p, const part *part, const sy_tensor *x,
                              sy_tensor *out, part_saved *s, bool keep)
{
    sy_status st = SY_OK;
    const int64_t mark = sy_arena_mark(p->scratch), T = s->x.shape[0], H = s->x.shape[1];
    sy_arena *arena = keep ? p->saved : p->scratch;

    SY_TRY(sy_arena_2d(arena, p->compute, T, H, &s->normed));
    SY_TRY(sy_arena_2d(arena, p->wide, T, 1, &s->rstd));
    SY_TRY(norm_forward(block, p, part->norm, x, out, s));
    sy_span_begin(SY_SPAN_PART, part->sub->ops->name, block->layer, -1);
    st = part->sub->ops->forward(part->sub->self, p, &s->normed, out, keep ? &s->sub : NULL);
    sy_span_end();
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* y NULL: what the last part gives is not wanted, only what all parts save. */
static sy_status all_parts(sy_block *block, sy_pass *p, const sy_tensor *x, const sy_tensor *y,
                           block_saved *s, bool keep)
{
    sy_status st = SY_OK;
    sy_arena *arena = keep ? p->saved : p->scratch;
    const int64_t mark = sy_arena_mark(p->scratch), T = x->shape[0], H = x->shape[1];
    part part[MAX_PARTS];
    const int32_t n = parts_of(block, part);
    sy_tensor out;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, H, &out));
    s->part[0].x = *x;
    for (int32_t i = 0; i < n; i++) {
        const sy_tensor *before = i > 0 ? &s->part[i - 1].x : NULL;
        if (before != NULL) {
            SY_TRY(sy_arena_2d(arena, p->compute, T, H, &s->part[i].x));
        }
        SY_TRY(part_forward(block, p, &part[i], before, &out, &s->part[i], keep));
    }
    if (y != NULL) {
        SY_TRY(sy_scale_in_place(p, block->config->residual_multiplier, &out));
        SY_TRY(sy_add(p->stream, &(sy_add_args){.a = s->part[n - 1].x, .b = out, .y = *y}));
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

/* Forward again: fills in what was not kept. */
static sy_status recompute(sy_block *block, sy_pass *p, const sy_tensor *x, block_saved *s)
{
    sy_status st = SY_OK;
    sy_pass_kind kind = p->kind;
    p->kind = SY_PASS_RECOMPUTE;
    sy_span_begin(SY_SPAN_PART, "recompute", block->layer, -1);
    st = all_parts(block, p, x, NULL, s, true);
    p->kind = kind;
    sy_span_end();
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

static sy_status part_backward(sy_block *block, sy_pass *p, const part *part, part_saved *s,
                               sy_tensor *g)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor dy, dnormed;
    SY_TRY(sublayer_grad(block, p, g, &dy));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, g->shape[0], g->shape[1], &dnormed));
    sy_span_begin(SY_SPAN_PART, part->sub->ops->name, block->layer, -1);
    st = part->sub->ops->backward(part->sub->self, p, s->sub, &s->normed, &dy, &dnormed);
    sy_span_end();
    SY_TRY(st);
    SY_TRY(sy_rmsnorm_backward(p->stream,
                               &(sy_rmsnorm_backward_args){.x = sy_tensor_heads(&s->x, 1),
                                                           .w = part->norm->value,
                                                           .rstd = s->rstd,
                                                           .dy = sy_tensor_heads(&dnormed, 1),
                                                           .dx = sy_tensor_heads(g, 1),
                                                           .dw = part->norm->grad,
                                                           .beta = 1}));
    if (p->grads != NULL) {
        SY_TRY(sy_grad_sync_reached(p->grads, part->norm));
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
    part part[MAX_PARTS];

    p->layer = block->layer;
    sy_span_begin(SY_SPAN_LAYER, "layer", block->layer, -1);
    if (p->recompute == SY_RECOMPUTE_BLOCK) {
        p->saved = p->block;
        sy_arena_release(p->block, 0);
        SY_TRY(recompute(block, p, x, s));
    }
    for (int32_t i = parts_of(block, part) - 1; i >= 0; i--) {
        SY_TRY(part_backward(block, p, &part[i], &s->part[i], g));
    }
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

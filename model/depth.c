#include "model/depth.h"

#include <math.h>
#include <stdio.h>

#include "model/block.h"
#include "model/depth_choice.h"
#include "model/layer_list.h"

/* What a layer knows of the tokens that it takes, n = B C of them. */
typedef struct depth_saved {
    sy_depth_choice choice;
    sy_device_batch batch;            /* theirs */
    sy_tensor row, row_of, place;     /* [n], [T]; [T] n instead of -1 */
    sy_tensor token_start, token_row; /* [T+1], [n]: from rows back to tokens */
    sy_tensor row_start;              /* [n+1] 0, 1, ..: every row by itself */
    sy_tensor row_r, token_r, dlogit; /* [n], [T], [T, 1] wide */
    sy_tensor x, delta;               /* [n, H] what the block gets, and what it adds */
    void *block;
} depth_saved;

static bool has_depth(const sy_model_config *c, int32_t layer)
{
    return c->depth_capacity.set && sy_layer_list_has(&c->depth_layers, layer);
}

int64_t sy_depth_params(const sy_model_config *config, int32_t layer)
{
    return has_depth(config, layer) ? 2 * (int64_t)config->hidden : 0;
}

sy_status sy_depth_declare(sy_block *block, sy_params *params)
{
    sy_status st = SY_OK;
    const sy_model_config *c = block->config;
    const int32_t layer = block->layer;
    const double std = c->init_std;
    sy_param_spec router = sy_param_matrix(1, c->hidden, std, "layers/%03d/depth/router", layer);
    sy_param_spec guess = sy_param_matrix(1, c->hidden, std, "layers/%03d/depth/predictor", layer);
    sy_param_spec bias = sy_param_vector(1, SY_INIT_ZEROS, "layers/%03d/depth/bias", layer);
    if (!has_depth(c, layer)) {
        return SY_OK;
    }
    router.wide = guess.wide = bias.wide = true;
    SY_TRY(sy_params_declare(params, &router, &block->depth.router));
    SY_TRY(sy_params_declare(params, &guess, &block->depth.predictor));
    SY_TRY(sy_params_declare(params, &bias, &block->depth.bias));
cleanup:
    return st;
}

/* ---- scores ---- */

static sy_status widen(sy_pass *p, const sy_tensor *x, sy_tensor *out)
{
    sy_status st = SY_OK;
    *out = *x;
    if (p->compute != p->wide) {
        SY_TRY(sy_arena_2d(p->scratch, p->wide, x->shape[0], x->shape[1], out));
        SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = *x, .y = *out}));
    }
cleanup:
    return st;
}

/* n doubles of the host, to be read when the stream has passed. */
static sy_status fetch(sy_pass *p, const sy_tensor *t, void **raw, double **out)
{
    sy_status st = SY_OK;
    const int64_t n = sy_tensor_numel(t);
    SY_TRY(sy_host_arena_alloc(p->host, n * (int64_t)sizeof(double), raw));
    SY_TRY(sy_host_arena_alloc(p->host, n * (int64_t)sizeof(double), (void **)out));
    SY_TRY(sy_copy_d2h(p->stream, *raw, t->data, sy_tensor_bytes(t)));
cleanup:
    return st;
}

/* Scores of router and predictor, and who is routed, on the host. The predictor begins where it
   takes as many as the router does. */
static sy_status fetch_scores(sy_block *block, sy_pass *p, const sy_tensor *x, sy_depth_choice *c)
{
    sy_status st = SY_OK;
    const sy_param *w[2] = {block->depth.router, block->depth.predictor};
    const int64_t T = x->shape[0], S = block->config->seq_len;
    const double C = (double)sy_model_layer_tokens(block->config, block->layer, S);
    const int64_t mark = sy_arena_mark(p->scratch);
    const sy_tensor *bias = &block->depth.bias->value, *routed = &p->batch->routed;
    sy_tensor wide, z[2];
    void *raw[3], *mask = NULL;
    double *value[3];
    SY_TRY(widen(p, x, &wide));
    for (int32_t i = 0; i < 2; i++) {
        SY_TRY(sy_arena_2d(p->scratch, p->wide, T, 1, &z[i]));
        SY_TRY(sy_linear_forward(p, &wide, &w[i]->value, &z[i]));
        SY_TRY(fetch(p, &z[i], &raw[i], &value[i]));
    }
    SY_TRY(fetch(p, bias, &raw[2], &value[2]));
    if (routed->data != NULL) {
        SY_TRY(sy_host_arena_alloc(p->host, T, &mask));
        SY_TRY(sy_copy_d2h(p->stream, mask, routed->data, T));
    }
    SY_TRY(sy_stream_sync(p->stream));
    sy_convert(SY_F64, value[0], p->wide, raw[0], T);
    sy_convert(SY_F64, value[1], p->wide, raw[1], T);
    sy_convert(SY_F64, value[2], p->wide, raw[2], 1);
    for (int64_t t = 0; t < T; t++) {
        value[1][t] += value[2][0] + log((C + 0.5) / ((double)S - C + 0.5));
    }
    c->r = value[0];
    c->logit = value[1];
    c->routed = mask;
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* ---- the choice ---- */

static sy_status host_array(sy_pass *p, int64_t n, size_t bytes, void *out)
{
    return sy_host_arena_alloc(p->host, n * (int64_t)bytes, (void **)out);
}

static sy_status choose(sy_block *block, sy_pass *p, sy_depth_choice *c)
{
    sy_status st = SY_OK;
    const sy_device_batch *b = p->batch;
    const int64_t T = b->T;
    c->B = b->B;
    c->S = b->S;
    c->by_predictor = p->kind == SY_PASS_EVAL || p->kind == SY_PASS_DECODE;
    c->C = (int32_t)sy_model_layer_tokens(block->config, block->layer, b->S);
    SY_TRY(host_array(p, T, sizeof *c->taken, &c->taken));
    SY_TRY(host_array(p, b->S, sizeof *c->order, &c->order));
    SY_TRY(host_array(p, T, sizeof *c->dlogit, &c->dlogit));
    if (!p->mesh->dev->dry) {
        sy_depth_choose(c);
        sy_depth_judge(c);
    } else if (c->by_predictor) {
        c->C = c->S; /* the most there can be */
    }
    const int64_t n = (int64_t)c->B * c->C;
    SY_TRY(host_array(p, n, sizeof *c->row, &c->row));
    SY_TRY(host_array(p, T, sizeof *c->row_of, &c->row_of));
    SY_TRY(host_array(p, T + 1, sizeof *c->token_start, &c->token_start));
    SY_TRY(host_array(p, n, sizeof *c->token_row, &c->token_row));
    SY_TRY(host_array(p, n, sizeof *c->row_routed, &c->row_routed));
    SY_TRY(host_array(p, n, sizeof *c->row_r, &c->row_r));
    SY_TRY(host_array(p, T, sizeof *c->token_r, &c->token_r));
    if (!p->mesh->dev->dry) {
        sy_depth_place(c);
    }
cleanup:
    return st;
}

static sy_status put_bytes(sy_pass *p, sy_arena *arena, sy_dtype dtype, int64_t n, const void *from,
                           sy_tensor *out)
{
    sy_status st = SY_OK;
    SY_TRY(sy_arena_1d(arena, dtype, n, out));
    SY_TRY(sy_copy_h2d(p->stream, out->data, from, sy_tensor_bytes(out)));
cleanup:
    return st;
}

static sy_status put_wide(sy_pass *p, sy_arena *arena, int64_t n, const double *from,
                          sy_tensor *out)
{
    sy_status st = SY_OK;
    void *raw = NULL;
    SY_TRY(sy_host_arena_alloc(p->host, n * (int64_t)sizeof(double), &raw));
    sy_convert(p->wide, raw, SY_F64, from, n);
    SY_TRY(put_bytes(p, arena, p->wide, n, raw, out));
cleanup:
    return st;
}

/* The choice to the device. */
static sy_status put_choice(sy_pass *p, sy_arena *arena, depth_saved *s)
{
    sy_status st = SY_OK;
    const sy_depth_choice *c = &s->choice;
    const int64_t T = p->batch->T, n = (int64_t)c->B * c->C;
    int32_t *iota = NULL, *place = NULL;
    SY_TRY(host_array(p, n + 1, sizeof *iota, &iota));
    SY_TRY(host_array(p, T, sizeof *place, &place));
    for (int64_t t = 0; t < T; t++) {
        place[t] = c->row_of[t] >= 0 ? c->row_of[t] : (int32_t)n;
    }
    for (int64_t i = 0; i <= n; i++) {
        iota[i] = (int32_t)i;
    }
    SY_TRY(put_bytes(p, arena, SY_I32, n, c->row, &s->row));
    SY_TRY(put_bytes(p, arena, SY_I32, T, c->row_of, &s->row_of));
    SY_TRY(put_bytes(p, arena, SY_I32, T, place, &s->place));
    SY_TRY(put_bytes(p, arena, SY_I32, T + 1, c->token_start, &s->token_start));
    SY_TRY(put_bytes(p, arena, SY_I32, n, c->token_row, &s->token_row));
    SY_TRY(put_bytes(p, arena, SY_I32, n + 1, iota, &s->row_start));
    SY_TRY(put_wide(p, arena, n, c->row_r, &s->row_r));
    SY_TRY(put_wide(p, arena, T, c->token_r, &s->token_r));
cleanup:
    return st;
}

/* One of the arrays of a batch, of the tokens that are taken; absent stays absent. */
static sy_status pick(sy_pass *p, sy_arena *arena, const sy_tensor *row, const sy_tensor *from,
                      sy_tensor *out)
{
    sy_status st = SY_OK;
    *out = sy_tensor_none();
    if (from->data != NULL) {
        SY_TRY(sy_arena_1d(arena, from->dtype, row->shape[0], out));
        SY_TRY(sy_gather_rows(
            p->stream,
            &(sy_gather_rows_args){.x = sy_tensor_2d(from->data, from->dtype, from->shape[0], 1),
                                   .idx = *row,
                                   .y = sy_tensor_2d(out->data, out->dtype, out->shape[0], 1)}));
    }
cleanup:
    return st;
}

/* What the block sees instead of the batch. Rows without a token are not routed. */
static sy_status put_batch(sy_pass *p, sy_arena *arena, depth_saved *s)
{
    sy_status st = SY_OK;
    const sy_device_batch *b = p->batch;
    const sy_depth_choice *c = &s->choice;
    const int64_t n = (int64_t)c->B * c->C;
    s->batch = (sy_device_batch){.B = n > 0 ? c->B : 0, .S = c->C, .T = n};
    SY_TRY(pick(p, arena, &s->row, &b->ids, &s->batch.ids));
    SY_TRY(pick(p, arena, &s->row, &b->pos, &s->batch.pos));
    SY_TRY(pick(p, arena, &s->row, &b->doc, &s->batch.doc));
    SY_TRY(pick(p, arena, &s->row, &b->token_glb, &s->batch.token_glb));
    SY_TRY(put_bytes(p, arena, SY_U8, n, c->row_routed, &s->batch.routed));
cleanup:
    return st;
}

/* The share of a sequence's tokens, as a factor on what is counted per token. */
static double times_tokens(const sy_block *block)
{
    return sy_model_layer_share(block->config, block->layer);
}

/* What the predictor learns from, and what is told of it. */
static sy_status put_lesson(sy_block *block, sy_pass *p, sy_arena *arena, depth_saved *s)
{
    sy_status st = SY_OK;
    sy_depth_choice *c = &s->choice;
    const double factor = block->config->depth_predictor_coeff * p->per_routed_token;
    const int64_t mark = sy_arena_mark(p->scratch);
    double *told = NULL;
    sy_tensor on_device;
    for (int64_t t = 0; t < p->batch->T; t++) {
        c->dlogit[t] *= factor;
    }
    SY_TRY(put_wide(p, arena, p->batch->T, c->dlogit, &s->dlogit));
    SY_TRY(host_array(p, 2, sizeof *told, &told));
    told[0] = factor * c->loss;
    told[1] = c->n_right;
    SY_TRY(put_bytes(p, p->scratch, SY_F64, 2, told, &on_device));
    for (int32_t i = 0; i < 2 && p->stats != NULL; i++) {
        sy_tensor sums = sy_tensor_rows(&p->stats->sums, block->layer, 1);
        void *out = (double *)sums.data + SY_SUM_DEPTH + i;
        SY_TRY(sy_sum(p->stream, &(sy_sum_args){.x = sy_tensor_rows(&on_device, i, 1),
                                                .out = sy_tensor_1d(out, SY_F64, 1),
                                                .scale = 1}));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* ---- forward ---- */

/* A pass as the block sees it: only the tokens that it takes; losses of experts are means over
   those. */
static sy_pass inner_pass(const sy_block *block, const sy_pass *p, const depth_saved *s)
{
    sy_pass inner = *p;
    const int64_t S = block->config->seq_len;
    inner.batch = &s->batch;
    inner.row_of = s->place;
    inner.carry = NULL; /* what the layer below noted is of other rows */
    if (!s->choice.by_predictor) {
        inner.T_max = p->T_max / S * sy_model_layer_tokens(block->config, block->layer, S);
        inner.T_round = p->T_round / S * sy_model_layer_tokens(block->config, block->layer, S);
        inner.per_routed_token = p->per_routed_token / times_tokens(block);
    }
    return inner;
}

static sy_status subtract(sy_pass *p, const sy_tensor *a, const sy_tensor *b, const sy_tensor *out)
{
    sy_status st = SY_OK;
    SY_TRY(sy_scale(p->stream, &(sy_scale_args){.x = *b, .y = *out, .factor = -1}));
    SY_TRY(sy_add(p->stream, &(sy_add_args){.a = *a, .b = *out, .y = *out}));
cleanup:
    return st;
}

/* delta [n, H] = block(x) - x of the tokens that are taken. */
static sy_status run_block(sy_block *block, sy_pass *p, sy_arena *arena, const sy_tensor *x,
                           bool keep, depth_saved *s)
{
    sy_status st = SY_OK;
    const int64_t n = s->batch.T, H = x->shape[1];
    sy_tensor y;
    sy_pass inner;
    SY_TRY(sy_arena_2d(arena, p->compute, n, H, &s->x));
    SY_TRY(sy_arena_2d(arena, p->compute, n, H, &s->delta));
    SY_TRY(sy_gather_rows(p->stream, &(sy_gather_rows_args){.x = *x, .idx = s->row, .y = s->x}));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, n, H, &y));
    inner = inner_pass(block, p, s);
    SY_TRY(sy_block_all_forward(block, &inner, &s->x, &y, keep ? &s->block : NULL));
    SY_TRY(subtract(p, &y, &s->x, &s->delta));
cleanup:
    return st;
}

sy_status sy_depth_forward(sy_block *block, sy_pass *p, const sy_tensor *x, sy_tensor *y,
                           void **saved)
{
    sy_status st = SY_OK;
    sy_arena *arena = saved != NULL ? p->keep : p->scratch;
    const int64_t mark = sy_arena_mark(p->scratch);
    depth_saved *s = NULL;
    SY_TRY(sy_host_arena_alloc(p->host, sizeof *s, (void **)&s));
    SY_TRY(fetch_scores(block, p, x, &s->choice));
    SY_TRY(choose(block, p, &s->choice));
    SY_TRY(put_choice(p, arena, s));
    SY_TRY(put_batch(p, arena, s));
    if (!s->choice.by_predictor) {
        SY_TRY(put_lesson(block, p, arena, s));
    }
    SY_TRY(run_block(block, p, arena, x, saved != NULL, s));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = *x, .y = *y}));
    SY_TRY(sy_combine_rows(p->stream, &(sy_combine_rows_args){.rows = s->delta,
                                                              .weight = s->row_r,
                                                              .token_start = s->token_start,
                                                              .token_row = s->token_row,
                                                              .y = *y,
                                                              .beta = 1}));
    if (saved != NULL) {
        *saved = s;
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* ---- backward ---- */

/* dr [n] = <dy, delta> of each row. sigmoid'(0) is a quarter, exactly. */
static sy_status router_signal(sy_pass *p, const depth_saved *s, const sy_tensor *g, sy_tensor *dr)
{
    sy_status st = SY_OK;
    const int64_t n = s->batch.T, H = g->shape[1];
    sy_tensor dy, half, zero;
    SY_TRY(sy_arena_1d(p->scratch, p->wide, n, dr));
    const int64_t mark = sy_arena_mark(p->scratch);
    SY_TRY(sy_arena_2d(p->scratch, p->compute, n, H, &dy));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, n, H, &half));
    SY_TRY(sy_arena_1d(p->scratch, p->wide, n, &zero));
    SY_TRY(sy_zero(p->stream, zero.data, sy_tensor_bytes(&zero)));
    SY_TRY(sy_gather_rows(p->stream, &(sy_gather_rows_args){.x = *g, .idx = s->row, .y = dy}));
    SY_TRY(sy_gate_backward(
        p->stream,
        &(sy_gate_backward_args){.x = s->delta, .s = zero, .dy = dy, .dx = half, .ds = *dr}));
    SY_TRY(sy_scale(p->stream, &(sy_scale_args){.x = *dr, .y = *dr, .factor = 4}));
    sy_arena_release(p->scratch, mark);
cleanup:
    return st;
}

/* g += (gradient of block(x) - x) of the tokens that are taken. */
static sy_status block_backward(sy_block *block, sy_pass *p, depth_saved *s, sy_tensor *g)
{
    sy_status st = SY_OK;
    const int64_t n = s->batch.T, H = g->shape[1];
    sy_tensor dy, dx;
    sy_pass inner = inner_pass(block, p, s);
    SY_TRY(sy_arena_2d(p->scratch, p->compute, n, H, &dy));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, n, H, &dx));
    SY_TRY(sy_combine_rows(p->stream, &(sy_combine_rows_args){.rows = *g,
                                                              .weight = s->token_r,
                                                              .token_start = s->row_start,
                                                              .token_row = s->row,
                                                              .y = dy}));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = dy, .y = dx}));
    SY_TRY(sy_block_all_backward(block, &inner, s->block, &s->x, &dx));
    SY_TRY(subtract(p, &dx, &dy, &dy));
    SY_TRY(sy_combine_rows(p->stream, &(sy_combine_rows_args){.rows = dy,
                                                              .token_start = s->token_start,
                                                              .token_row = s->token_row,
                                                              .y = *g,
                                                              .beta = 1}));
cleanup:
    return st;
}

/* Of router and predictor; only the router's goes on to x. */
static sy_status score_backward(sy_block *block, sy_pass *p, const depth_saved *s,
                                const sy_tensor *dr, const sy_tensor *x, sy_tensor *g)
{
    sy_status st = SY_OK;
    const sy_depth *d = &block->depth;
    const int64_t T = x->shape[0], H = x->shape[1];
    sy_tensor input, dz, wide, narrow;
    const sy_tensor dlogit = sy_tensor_2d(s->dlogit.data, p->wide, T, 1);
    SY_TRY(widen(p, x, &input));
    SY_TRY(sy_arena_2d(p->scratch, p->wide, T, 1, &dz));
    SY_TRY(sy_gather_rows(
        p->stream, &(sy_gather_rows_args){.x = sy_tensor_2d(dr->data, p->wide, dr->shape[0], 1),
                                          .idx = s->row_of,
                                          .y = dz}));
    SY_TRY(sy_linear_wgrad(p, &dz, &input, &d->router->grad));
    SY_TRY(sy_linear_wgrad(p, &dlogit, &input, &d->predictor->grad));
    if (d->bias->grad.data != NULL) {
        SY_TRY(sy_column_sum(p->stream, &(sy_column_sum_args){.x = dlogit, .out = d->bias->grad}));
    }
    if (p->compute == p->wide) {
        SY_TRY(sy_linear_dgrad(p, &dz, &d->router->value, g, 1));
        goto cleanup;
    }
    SY_TRY(sy_arena_2d(p->scratch, p->wide, T, H, &wide));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, H, &narrow));
    SY_TRY(sy_linear_dgrad(p, &dz, &d->router->value, &wide, 0));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = wide, .y = narrow}));
    SY_TRY(sy_add(p->stream, &(sy_add_args){.a = *g, .b = narrow, .y = *g}));
cleanup:
    return st;
}

sy_status sy_depth_backward(sy_block *block, sy_pass *p, void *saved, const sy_tensor *x,
                            sy_tensor *g)
{
    sy_status st = SY_OK;
    depth_saved *s = saved;
    const int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor dr;
    SY_TRY(router_signal(p, s, g, &dr));
    SY_TRY(block_backward(block, p, s, g));
    SY_TRY(score_backward(block, p, s, &dr, x, g));
    if (p->grads != NULL) {
        SY_TRY(sy_grad_sync_reached(p->grads, block->depth.router));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

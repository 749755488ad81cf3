/* Passes of an engine: micro-batch to the device, arenas reset, statistics reduced. */
#include "model/kv.h"
#include "parallel/agree.h"
#include "train/engine.h"

/* Copy one array of the batch; absent stays absent (but a rank without tokens has all of them,
 * empty). */
static sy_status upload(sy_engine *e, int32_t i, const void *h_data, int64_t T, sy_tensor *out)
{
    sy_status st = SY_OK;
    *out = h_data != NULL || T == 0 ? sy_tensor_rows(&e->batch_mem[i], 0, T) : sy_tensor_none();
    if (T > 0 && h_data != NULL) {
        SY_TRY(sy_copy_h2d(e->compute_stream, out->data, h_data, sy_tensor_bytes(out)));
    }
cleanup:
    return st;
}

static sy_status upload_batch(sy_engine *e, const sy_batch *h)
{
    sy_status st = SY_OK;
    sy_device_batch *b = &e->batch;
    int64_t T = (int64_t)h->B * h->S;
    SY_REQUIRE(T <= (int64_t)e->spec.B * e->spec.S, SY_ERR_INTERNAL,
               "a micro-batch of %ld tokens where the engine holds %ld", (long)T,
               (long)e->spec.B * e->spec.S);
    *b = (sy_device_batch){.B = h->B, .S = h->S, .T = T};
    SY_TRY(upload(e, 0, h->ids, T, &b->ids));
    SY_TRY(upload(e, 1, h->targets, T, &b->targets));
    SY_TRY(upload(e, 2, h->loss_weight, T, &b->loss_weight));
    SY_TRY(upload(e, 3, h->routed, T, &b->routed));
    SY_TRY(upload(e, 4, h->pos, T, &b->pos));
    SY_TRY(upload(e, 5, h->doc, T, &b->doc));
    SY_TRY(upload(e, 6, h->token_glb, T, &b->token_glb));
cleanup:
    return st;
}

static void reset_arena(sy_arena *arena)
{
    sy_arena_release(arena, 0);
}

/* Tokens of all ranks, for whoever counts them together. Collective over dp. */
static sy_status count_round(sy_engine *e, int64_t T, int64_t *out)
{
    sy_status st = SY_OK;
    const sy_moe_config *moe = e->settings->moe;
    int64_t all = T * e->mesh->group[SY_DP]->size; /* of ranks that do not exist */
    if (moe->experts > 0 && moe->capacity_scope == SY_CAPACITY_GLOBAL) {
        SY_TRY(sy_all_reduce(e->mesh->host, &(sy_comm_args){.send = &T,
                                                            .recv = &all,
                                                            .n = 1,
                                                            .dtype = SY_I64,
                                                            .reduce = SY_SUM,
                                                            .what = "tokens of a round",
                                                            .layer = -1}));
    }
    *out = all;
cleanup:
    return st;
}

sy_status sy_engine_begin(sy_engine *e, sy_pass_kind kind, const sy_batch *h_batch, int64_t step,
                          int32_t micro_idx, sy_pass *out)
{
    sy_status st = SY_OK;
    int32_t turn = (int32_t)(e->n_passes++ % 2);
    int64_t T_round = 0;

    if (e->n_passes > 2) { /* the stream may still read what the pass before last left there */
        SY_TRY(sy_event_sync(e->host_free[turn]));
    }
    if (e->mesh->dev->dry) { /* nobody writes there: memory that is never touched stands for it */
        sy_host_arena_free(&e->host[turn]);
    } else {
        sy_host_arena_reset(&e->host[turn]);
    }
    reset_arena(&e->keep);
    reset_arena(&e->block);
    reset_arena(&e->scratch);
    SY_TRY(upload_batch(e, h_batch));
    SY_TRY(count_round(e, e->batch.T, &T_round));
    *out = (sy_pass){.kind = kind,
                     .step = step,
                     .micro_idx = micro_idx,
                     .seed = (uint64_t)e->settings->run->seed,
                     .recompute = (sy_recompute)e->settings->train->recompute,
                     .compute = e->compute,
                     .wide = e->wide,
                     .batch = &e->batch,
                     .h_batch = h_batch,
                     .mtp_factor = 1,
                     .T_max = (int64_t)e->spec.B * e->spec.S,
                     .T_round = T_round,
                     .mesh = e->mesh,
                     .stream = e->compute_stream,
                     .comm = e->comm_stream,
                     .travel = e->travel,
                     .values = e->values,
                     .keep = &e->keep,
                     .saved = &e->keep,
                     .scratch = &e->scratch,
                     .block = &e->block,
                     .host = &e->host[turn],
                     .rope = e->rope,
                     .nll = sy_tensor_rows(&e->nll, 0, e->batch.T),
                     .kv = e->kv,
                     .stats = &e->stats};
cleanup:
    return st;
}

sy_status sy_engine_end(sy_engine *e, sy_pass *pass)
{
    (void)pass;
    return sy_event_record(e->host_free[(e->n_passes - 1) % 2], e->compute_stream);
}

sy_status sy_engine_zero_stats(sy_engine *e)
{
    sy_status st = SY_OK;
    SY_TRY(sy_zero(e->compute_stream, e->sums.data, sy_tensor_bytes(&e->sums)));
    SY_TRY(sy_zero(e->compute_stream, e->loads.data, sy_tensor_bytes(&e->loads)));
    e->stats.dispatch_s = e->stats.combine_s = e->stats.experts_s = 0;
    e->stats.n_extra_passes = e->stats.n_chosen = 0;
    for (int64_t i = 0; i < e->n_router_sums; i++) {
        e->stats.h_router[i] = 0;
    }
cleanup:
    return st;
}

static sy_status reduce(sy_engine *e, const sy_tensor *t, const char *what)
{
    return sy_all_reduce(e->mesh->group[SY_WORLD], &(sy_comm_args){.stream = e->compute_stream,
                                                                   .send = t->data,
                                                                   .recv = t->data,
                                                                   .n = sy_tensor_numel(t),
                                                                   .dtype = t->dtype,
                                                                   .reduce = SY_SUM,
                                                                   .what = what,
                                                                   .layer = -1});
}

sy_status sy_engine_reduce_stats(sy_engine *e)
{
    sy_status st = SY_OK;
    SY_TRY(sy_copy_d2h(e->compute_stream, e->h_own_sums, e->sums.data, sy_tensor_bytes(&e->sums)));
    SY_TRY(reduce(e, &e->sums, "step sums"));
    if (sy_engine_experts(e) > 0) {
        SY_TRY(reduce(e, &e->loads, "step loads"));
    }
    SY_TRY(sy_copy_d2h(e->compute_stream, e->h_sums, e->sums.data, sy_tensor_bytes(&e->sums)));
    SY_TRY(sy_copy_d2h(e->compute_stream, e->h_loads, e->loads.data, sy_tensor_bytes(&e->loads)));
    SY_TRY(sy_stream_sync(e->compute_stream));
    if (e->n_router_sums > 0) {
        SY_TRY(sy_host_all_reduce(e->mesh->host, e->stats.h_router, e->n_router_sums, SY_F64,
                                  SY_SUM, "router sums"));
    }
cleanup:
    return st;
}

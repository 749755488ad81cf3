#include "train/eval_impl.h"

#include "core/fault.h"
#include "parallel/agree.h"

sy_status sy_eval_set_open(sy_engine *engine, const sy_data_valid *from, int32_t micro_batch,
                           int32_t sequences, bool mask_documents, sy_eval_set *out)
{
    sy_status st = SY_OK;
    const sy_comm *dp = engine->mesh->group[SY_DP];
    sy_loader_dataset dataset = {from->path, 1, from->part};
    sy_loader_spec spec = {
        .datasets = &dataset,
        .n_datasets = 1,
        .sequential = true,
        .file = sy_data_file_spec(engine->settings->data, engine->settings->model->vocab_size),
        .S = engine->settings->model->seq_len,
        .B = micro_batch,
        .global_batch = sequences,
        .dp_rank = dp->rank,
        .dp_size = dp->size,
        .mask_documents = mask_documents};
    *out = (sy_eval_set){.name = from->name, .path = from->path};
    spec.stride = from->stride;
    sy_data_split(engine->settings->data, spec.split);
    SY_TRY(sy_agree(engine->mesh->host, sy_loader_create(&spec, &out->loader)));
cleanup:
    return st;
}

void sy_eval_set_close(sy_eval_set *set)
{
    sy_loader_destroy(&set->loader);
}

/* The next batch of this rank. Any rank may fail here; *stopped: `stop` of this rank before, of any
   rank after. */
static sy_status next_batch(sy_eval_set *set, int64_t position, sy_comm *host,
                            const sy_step_batch **batch, bool *stopped)
{
    sy_status st = SY_OK, mine = sy_fault("train.eval");
    int64_t sum[2]; /* ranks that failed, ranks asked to stop */
    if (mine == SY_OK) {
        mine = sy_loader_take(set->loader, position, batch);
    }
    sum[0] = mine != SY_OK;
    sum[1] = *stopped;
    SY_TRY(sy_host_all_reduce(host, sum, 2, SY_I64, SY_SUM, "eval head"));
    if (sum[0] > 0) {
        SY_TRY(sy_agree(host, mine));
    }
    *stopped = sum[1] > 0;
cleanup:
    return st;
}

static sy_status run_batch(sy_engine *engine, const sy_step_batch *batch, const sy__eval_part *part)
{
    sy_status st = SY_OK;
    sy_pass p;
    for (int32_t i = 0; i < batch->n_micro; i++) {
        SY_TRY(sy_engine_begin(engine, SY_PASS_EVAL, &batch->micro[i], 0, i, &p));
        SY_TRY(sy_model_forward(engine->model, &p, NULL));
        SY_TRY(sy_engine_end(engine, &p));
        if (part->see != NULL) {
            SY_TRY(sy_stream_sync(engine->compute_stream));
            SY_TRY(part->see(part->self, &batch->micro[i]));
        }
    }
    SY_TRY(
        sy_stream_sync(engine->compute_stream)); /* the loader's arrays change at the next take */
cleanup:
    return st;
}

static double drop_fraction(const sy_engine *engine)
{
    int64_t n = (int64_t)sy_engine_blocks(engine) * sy_engine_experts(engine), chosen = 0, kept = 0;
    for (int64_t i = 0; i < n; i++) {
        chosen += engine->h_loads[i];
        kept += engine->h_loads[n + i];
    }
    return chosen > 0 ? (double)(chosen - kept) / (double)chosen : 0;
}

sy_status sy__evaluate_part(sy_engine *engine, sy_eval_set *set, const sy__eval_part *part,
                            sy_eval_result *out, int64_t *end)
{
    sy_status st = SY_OK;
    sy_comm *host = engine->mesh->host;
    const sy_step_batch *batch = NULL;
    int64_t position = part->position, tokens = 0;
    bool stopped = false;

    SY_TRY(sy_engine_zero_stats(engine));
    for (int64_t k = 0; part->n_batches == 0 || k < part->n_batches; k++) {
        stopped = part->stop != NULL && part->stop(part->stop_self);
        SY_TRY(next_batch(set, position, host, &batch, &stopped));
        if (batch->n_sequences == 0) {
            break;
        }
        if (stopped) {
            *out = (sy_eval_result){.stopped = true};
            goto cleanup;
        }
        st = run_batch(engine, batch, part);
        if (st != SY_OK) {
            sy_comm_abort(host, st);
        }
        tokens += batch->loss_tokens;
        position += batch->n_sequences;
    }
    SY_TRY(sy_engine_reduce_stats(engine));
    SY_TRY(sy_host_all_reduce(host, &tokens, 1, SY_I64, SY_SUM, "eval tokens"));
    *end = position;
    *out = (sy_eval_result){.tokens = tokens,
                            .loss = tokens > 0 ? engine->h_sums[1] / (double)tokens : 0,
                            .drop_fraction = drop_fraction(engine)};
cleanup:
    return st;
}

sy_status sy_evaluate(sy_engine *engine, sy_eval_set *set, int64_t n_batches, sy_eval_stop *stop,
                      const void *stop_self, sy_eval_result *out)
{
    int64_t end = 0;
    const sy__eval_part part = {.n_batches = n_batches, .stop = stop, .stop_self = stop_self};
    return sy__evaluate_part(engine, set, &part, out, &end);
}

#include "train/trainer.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/log.h"
#include "parallel/agree.h"
#include "train/batch_ramp.h"
#include "train/sample_log.h"

sy_status sy_train_data_open(const sy_run_settings *settings, int32_t dp_rank, int32_t dp_size,
                             sy_loader **out)
{
    sy_status st = SY_OK;
    const sy_data_config *data = settings->data;
    sy_loader_dataset *sets = NULL;
    sy_loader_spec spec = {.n_datasets = data->train.n,
                           .seed = (uint64_t)settings->run->seed,
                           .file = sy_data_file_spec(data, settings->model->vocab_size),
                           .S = settings->model->seq_len,
                           .B = settings->train->micro_batch,
                           .global_batch = settings->train->global_batch,
                           .dp_rank = dp_rank,
                           .dp_size = dp_size,
                           .mask_documents = data->mask_documents};
    SY_TRY(sy_alloc(data->train.n, sizeof *sets, (void **)&sets));
    for (int32_t i = 0; i < data->train.n; i++) {
        sy_data_train entry = sy_data_train_entry(data, i);
        sets[i] = (sy_loader_dataset){entry.path, entry.weight, entry.part};
    }
    spec.objective = sy_data_objective(data, spec.S);
    sy_data_split(data, spec.split);
    if (data->order == SY_ORDER_MEGATRON) {
        spec.megatron_samples = sy_batch_ramp_sequences(settings, settings->train->steps);
    }
    spec.datasets = sets;
    SY_TRY(sy_config_blame(settings->config, "data.train", sy_loader_create(&spec, out)));
cleanup:
    sy_free(&sets);
    return st;
}

void sy_train_order_warn(const sy_trainer *t, int64_t before)
{
    const int64_t now = sy_batch_ramp_sequences(t->settings, t->settings->train->steps);
    if (!sy_loader_same_order(t->loader, before)) {
        sy_warn(
            "data.order megatron: the checkpoint's order was made for %ld sequences, this run's "
            "for %ld, and it is another one: behind sequence %ld some that were seen come "
            "again and others never come. To keep the order, keep train.steps and the batch "
            "(train.stop_after_minutes ends a run early); --reset data begins the new one from "
            "its start",
            (long)before, (long)now, (long)t->count.data_step);
    }
}

/* Of a run in bf16 the masters are the truth; a run in another precision goes on from them. */
typedef struct value_emit {
    const sy_trainer *trainer;
    sy_emit *emit;
    void *to;
} value_emit;

static sy_status emit_value(void *self, const sy_field *field)
{
    const value_emit *v = self;
    sy_field f = *field;
    char master[2 * SY_PARAM_NAME];
    snprintf(master, sizeof master, "optim/master/%s", field->name + strlen("model/"));
    f.prefer = v->trainer->engine->compute == v->trainer->engine->wide ? master : NULL;
    return v->emit(v->to, &f);
}

static sy_status walk_model(void *self, sy_emit *emit, void *to)
{
    sy_status st = SY_OK;
    sy_trainer *t = self;
    SY_TRY(sy_value_sync_finish(t->values)); /* whoever saves or loads has streams of its own */
    SY_TRY(sy_stream_sync(t->engine->compute_stream));
    SY_TRY(sy_params_walk(t->engine->params, "model", emit_value, &(value_emit){t, emit, to}));
cleanup:
    return st;
}

static sy_status walk_sublayers(void *self, sy_emit *emit, void *to)
{
    sy_trainer *t = self;
    return sy_model_walk(t->engine->model, emit, to);
}

/* Numbers that every rank has; rank 0 writes them. Older files lack some. */
static sy_status emit_numbers(const sy_trainer *t, const char *name, sy_dtype dtype, void *values,
                              sy_box box, bool optional, sy_emit *emit, void *to)
{
    sy_part part = {.box = box, .data = values, .write = t->engine->mesh->host->rank == 0};
    sy_field field = {.name = name,
                      .dtype = dtype,
                      .n_dim = box.n_dim,
                      .n_parts = 1,
                      .parts = &part,
                      .optional = optional};
    memcpy(field.shape_glb, box.shape, sizeof field.shape_glb);
    return emit(to, &field);
}

static sy_status walk_counters(void *self, sy_emit *emit, void *to)
{
    sy_status st = SY_OK;
    sy_trainer *t = self;
    const sy_box one = {.n_dim = 1, .shape = {1}};
    struct {
        const char *name;
        int64_t *value;
        bool optional;
    } counter[] = {{"state/step", &t->count.step, false},
                   {"state/data_step", &t->count.data_step, false},
                   {"state/tokens_seen", &t->count.tokens_seen, false},
                   {"state/skipped_steps", &t->count.skipped, false},
                   {"state/schedule_start", &t->count.schedule_start, true},
                   {"state/skipped_in_row", &t->count.skipped_in_row, true},
                   {"state/spikes", &t->count.spikes, true},
                   {"state/rollbacks", &t->count.rollbacks, true},
                   {"state/rollbacks_in_row", &t->count.rollbacks_in_row, true},
                   {"state/skipped_sequences", &t->count.skipped_sequences, true},
                   {"state/window_updates", &t->spikes.n, true}};
    for (size_t i = 0; i < sizeof counter / sizeof counter[0]; i++) {
        SY_TRY(emit_numbers(t, counter[i].name, SY_I64, counter[i].value, one, counter[i].optional,
                            emit, to));
    }
cleanup:
    return st;
}

/* What a spike is compared with, and the loads of the last step. */
static sy_status walk_history(void *self, sy_emit *emit, void *to)
{
    sy_status st = SY_OK;
    sy_trainer *t = self;
    const sy_box window = {.n_dim = 1, .shape = {SY_SPIKE_MEMORY}};
    SY_TRY(emit_numbers(t, "state/window_loss", SY_F64, t->spikes.loss, window, true, emit, to));
    SY_TRY(emit_numbers(t, "state/window_grad_norm", SY_F64, t->spikes.grad_norm, window, true,
                        emit, to));
    if (t->probe != NULL) {
        SY_TRY(sy_probe_walk(t->probe, emit, to));
    }
    if (t->h_loads != NULL) {
        sy_box all = {.n_dim = 2,
                      .shape = {sy_engine_blocks(t->engine), sy_engine_experts(t->engine)}};
        SY_TRY(emit_numbers(t, "state/loads", SY_I64, t->h_loads, all, true, emit, to));
    }
cleanup:
    return st;
}

static void set_owners(sy_trainer *t)
{
    t->owner[0] = (sy_owner){.name = "model", .self = t, .walk = walk_model};
    t->owner[1] = (sy_owner){.name = "sublayers", .self = t, .walk = walk_sublayers};
    t->owner[2] = (sy_owner){.name = "optimizer", .self = t->opt, .walk = sy_optimizer_walk};
    t->owner[3] = (sy_owner){.name = "counters", .self = t, .walk = walk_counters};
    t->owner[4] = (sy_owner){.name = "history", .self = t, .walk = walk_history};
}

sy_state sy_trainer_state(sy_trainer *t, const char *config_yaml)
{
    return (sy_state){.owners = t->owner,
                      .n_owners = 5,
                      .step = t->count.step,
                      .tokens_seen = t->count.tokens_seen,
                      .kind = "training",
                      .config_yaml = config_yaml};
}

/* What each rank does by itself: its result is agreed upon before anybody goes on. */
static sy_status build_local(sy_trainer *t)
{
    sy_status st = SY_OK;
    sy_engine *e = t->engine;
    const sy_comm *dp = e->mesh->group[SY_DP];
    SY_TRY(sy_optimizer_create(t->settings->optim, e->params, &t->opt));
    SY_TRY(sy_grad_sync_create(e->params, e->compute_stream, e->comm_stream, &t->grads));
    SY_TRY(sy_value_sync_create(e->params, e->compute_stream, e->comm_stream, &t->values));
    e->values = t->values;
    if (e->spec.prices == NULL) {
        SY_TRY(sy_train_data_open(t->settings, dp->rank, dp->size, &t->loader));
        SY_TRY(sy_sample_log_open(e->mesh->host->rank, &t->samples));
    }
    if (sy_engine_experts(e) > 0) {
        SY_TRY(sy_alloc((int64_t)sy_engine_blocks(e) * sy_engine_experts(e), sizeof *t->h_loads,
                        (void **)&t->h_loads));
    }
    SY_TRY(sy_probe_create(e, t->loader, &t->probe));
    SY_TRY(sy_params_init(e->params, (uint64_t)t->settings->run->seed, e->compute_stream));
    SY_TRY(sy_optimizer_sync_masters(t->opt, e->compute_stream));
    SY_TRY(sy_stream_sync(e->compute_stream));
    set_owners(t);
    e->predicted_bytes = e->dev->ledger.total_now;
cleanup:
    return st;
}

sy_status sy_trainer_create(const sy_trainer_spec *spec, sy_trainer **out)
{
    sy_status st = SY_OK;
    sy_trainer *t = NULL;
    sy_engine_spec engine = {.settings = spec->settings,
                             .world = spec->world,
                             .use = SY_USE_TRAIN,
                             .B = spec->settings->train->micro_batch,
                             .S = spec->settings->model->seq_len,
                             .threads = spec->threads,
                             .prices = spec->prices};
    SY_TRY(sy_agree(spec->world, sy_alloc(1, sizeof *t, (void **)&t)));
    t->settings = spec->settings;
    SY_TRY(sy_engine_create(&engine, &t->engine));
    SY_TRY(sy_agree(spec->world, build_local(t)));
    (void)sy_comm_calls_take(); /* what its ranks did before, with others too, is none of its */
    *out = t;
    t = NULL;
cleanup:
    sy_trainer_destroy(&t);
    return st;
}

void sy_trainer_destroy(sy_trainer **trainer)
{
    sy_trainer *t = *trainer;
    if (t == NULL) {
        return;
    }
    sy_probe_destroy(&t->probe);
    sy_sample_log_close(&t->samples);
    sy_loader_destroy(&t->loader);
    sy_value_sync_destroy(&t->values);
    sy_grad_sync_destroy(&t->grads);
    sy_optimizer_destroy(&t->opt);
    sy_engine_destroy(&t->engine);
    sy_free(&t->h_loads);
    sy_free(trainer);
}

/* A run until its first step: its folder, what it goes on from, its outputs. */
#include "train/run_impl.h"

#include "checkpoint/checkpoint.h"
#include "core/alloc.h"
#include "core/log.h"
#include "core/pulse.h"
#include "core/span.h"
#include "moe/capacity.h"
#include "parallel/agree.h"
#include "train/batch_ramp.h"
#include "train/peak.h"
#include "train/same.h"
#include "train/tell_data.h"
#include "train/trouble.h"

static sy_status claim(sy__run *r, sy_run_start *start)
{
    sy_status st = SY_OK;
    const sy_run_spec *spec = r->spec;
    char *path = NULL;
    SY_TRY(sy_run_config_dir(r->settings->run, spec->run_dir, &path));
    SY_TRY(sy_run_dir_init(path, &r->dir));
    if (sy__run_is_root(r)) {
        SY_TRY(sy_run_dir_claim(&r->dir, SY_RUN_LOCK_WAIT_S));
        SY_TRY(sy_run_dir_decide(&r->dir, spec->resume, spec->resume_from, start));
    }
cleanup:
    sy_free(&path);
    return st;
}

/* The checkpoint to go on from, with the rules of what may have changed. */
static sy_status check_resume(sy__run *r, char **path)
{
    sy_status st = SY_OK;
    const char *from = r->spec->resume_from != NULL ? r->spec->resume_from : r->dir.path;
    sy_run_settings old = {0};
    char *changes = NULL;
    SY_TRY(sy_find_model(from, r->world, path));
    if (r->spec->resume_from != NULL) { /* the newest of a folder has been checked */
        SY_TRY(sy_checkpoint_check(*path, r->world));
    }
    SY_TRY(sy_checkpoint_settings(*path, NULL, 0, r->world, &old));
    SY_TRY(sy_agree(r->world, sy_run_settings_compatible(&old, r->settings, r->spec->overrides,
                                                         r->spec->n_overrides, &changes)));
    r->sequences_before = sy_batch_ramp_sequences(&old, old.train->steps);
    sy_info("resuming from %s", *path);
    for (char *rest = changes, *line = strtok_r(rest, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        sy_info("changed since the checkpoint: %s", line);
    }
cleanup:
    sy_free(&changes);
    sy_run_settings_free(&old);
    return st;
}

static sy_status masters_from_values(sy_trainer *t)
{
    sy_status st = SY_OK;
    SY_TRY(sy_optimizer_sync_masters(t->opt, t->engine->compute_stream));
    SY_TRY(sy_stream_sync(t->engine->compute_stream));
cleanup:
    return st;
}

sy_status sy__run_load(sy__run *r, const char *path, sy_load_what what)
{
    sy_status st = SY_OK;
    sy_state state = sy_trainer_state(r->trainer, r->config_yaml);
    SY_TRY(sy_checkpoint_load(path, &state, what, r->trainer->engine->mesh->io));
    if (what == SY_LOAD_MODEL) {
        SY_TRY(sy_agree(r->world, masters_from_values(r->trainer)));
    }
cleanup:
    return st;
}

/* --reset: parts of the past that a resumed run leaves behind. */
static sy_status reset(sy__run *r)
{
    sy_status st = SY_OK;
    sy_trainer *t = r->trainer;
    const uint32_t what = r->spec->reset;
    if (what & SY_RESET_OPTIMIZER) {
        SY_TRY(sy_agree(r->world, sy_optimizer_reset(t->opt, t->engine->compute_stream)));
        SY_TRY(sy_agree(r->world, sy_stream_sync(t->engine->compute_stream)));
        sy_info("reset: the optimizer's moments begin at zero");
    }
    if (what & SY_RESET_SCHEDULE) {
        t->count.schedule_start = t->count.step;
        sy_info("reset: the learning rate's schedule begins at step %ld", (long)t->count.step);
    }
    if (what & SY_RESET_DATA) {
        t->count.data_step = 0;
        sy_info("reset: the data begins anew");
    } else if (sy__run_is_root(r)) {
        sy_train_order_warn(t, r->sequences_before);
    }
    if (r->spec->skip_batches > 0) {
        sy_train_skip_data(t, r->spec->skip_batches *
                                  (int64_t)sy_batch_ramp_size(t->settings, t->count.step + 1));
        sy_info("the data goes on at sequence %ld", (long)t->count.data_step);
    }
cleanup:
    return st;
}

static sy_status open_saves(sy__run *r, int64_t saved_step)
{
    return sy_saves_open(&(sy_saves_spec){.trainer = r->trainer,
                                          .dir = &r->dir,
                                          .config_yaml = r->config_yaml,
                                          .blobs = r->tokenizer.blob,
                                          .n_blobs = r->tokenizer.n},
                         saved_step, &r->saves);
}

static sy_status open_valid(sy__run *r)
{
    sy_status st = SY_OK;
    const sy_data_config *data = r->settings->data;
    SY_TRY(sy_agree(r->world, sy_alloc(data->valid.n, sizeof *r->valid, (void **)&r->valid)));
    for (; r->n_valid < data->valid.n; r->n_valid++) {
        sy_data_valid v = sy_data_valid_entry(data, r->n_valid);
        SY_TRY(sy_eval_set_open(r->trainer->engine, &v, r->settings->train->micro_batch,
                                r->settings->train->global_batch, data->mask_documents,
                                &r->valid[r->n_valid]));
    }
cleanup:
    return st;
}

/* The rate of matrix products of all ranks together, measured at once on all of them. Collective.
 */
static sy_status measure_peak(sy__run *r, double *peak)
{
    sy_status st = SY_OK;
    sy_engine *e = r->trainer->engine;
    SY_TRY(sy_agree(r->world, sy_measure_peak(e->dev, e->compute, 0.05, peak)));
    SY_TRY(sy_host_all_reduce(r->world, peak, 1, SY_F64, SY_SUM, "peak"));
cleanup:
    return st;
}

void sy__run_tensorboard_failed(sy__run *r)
{
    sy_warn("no TensorBoard events from here on: %s", sy_error_message());
    sy_error_clear();
    sy_tensorboard_close(&r->tensorboard);
}

void sy__run_open_tensorboard(sy__run *r, int64_t keep_step)
{
    if (sy_tensorboard_open(r->dir.tensorboard, keep_step, &r->tensorboard) != SY_OK) {
        sy__run_tensorboard_failed(r);
    }
}

static double work_until(const void *settings, int64_t step)
{
    return (double)sy_batch_ramp_sequences(settings, step);
}

/* resumed: the file that the run goes on from, if any; *stands: see sy_run_dir_set_aside. */
static sy_status open_outputs(sy__run *r, sy_run_start start, double peak, const char *resumed,
                              bool *stands)
{
    sy_status st = SY_OK;
    const sy_trainer *t = r->trainer;
    sy_metrics_tail tail = {0};
    sy_progress_spec progress = {.what = "step",
                                 .start = t->count.step,
                                 .total = r->settings->train->steps,
                                 .plain_s = 5,
                                 .work = work_until,
                                 .self = r->settings};
    SY_TRY(sy_run_dir_clean(&r->dir, NULL));
    if (start == SY_RUN_CONTINUE) {
        SY_TRY(sy_run_dir_set_aside(&r->dir, t->count.step, resumed, stands));
    }
    SY_TRY(sy_run_dir_write_config(&r->dir, r->config_yaml));
    SY_TRY(sy_metrics_file_open(r->dir.metrics, start == SY_RUN_CONTINUE ? t->count.step : -1,
                                &tail, &r->metrics_file));
    if (start == SY_RUN_CONTINUE && tail.n_dropped > 0) {
        sy_info("%s: dropped %lld bytes behind step %lld%s", r->dir.metrics,
                (long long)tail.n_dropped, (long long)t->count.step,
                tail.torn ? "; the last line had no end, as a crash leaves it" : "");
    }
    sy__run_open_tensorboard(r, start == SY_RUN_CONTINUE ? t->count.step : -1);
    SY_TRY(sy_step_metrics_create(t, peak, tail.time_s, &r->metrics));
    SY_TRY(sy_progress_create(&progress, &r->progress));
cleanup:
    return st;
}

static void announce_ramp(const sy_run_settings *s)
{
    const sy_train_config *c = s->train;
    if (c->batch_ramp_from > 0) {
        sy_info(
            "batch: from %d to %d sequences, %d more at a time, in the first %ld steps; the %ld "
            "steps of the run are %.4g tokens",
            c->batch_ramp_from, c->global_batch, c->batch_ramp_by, (long)sy_batch_ramp_steps(s),
            (long)c->steps, (double)sy_batch_ramp_sequences(s, c->steps) * s->model->seq_len);
    }
}

static void announce(const sy__run *r, double peak)
{
    const sy_engine *e = r->trainer->engine;
    const sy_moe_config *moe = r->settings->moe;
    int64_t active = 0, total = sy_params_count(e->params, false);
    char memory[512];
    sy_engine_flops_per_token(e, &active);
    sy_engine_memory_format(e, memory, sizeof memory);
    sy_info("%s: %.2f M parameters, %.2f M active per token; %d rank%s, ep %d, zero %d; %s %s, %d "
            "thread%s",
            r->dir.path, (double)total / 1e6, (double)active / 1e6, r->world->size,
            r->world->size == 1 ? "" : "s", r->settings->parallel->ep, r->settings->parallel->zero,
            e->dev->name, sy_dtype_name(e->compute), e->dev->n_threads,
            e->dev->n_threads == 1 ? "" : "s");
    sy_info("memory: %s", memory);
    if (moe->experts > 0 && (moe->capacity_factor.set || moe->eval_capacity_factor.set)) {
        sy_capacity_describe(moe, (int64_t)e->spec.B * e->spec.S, r->world->size, memory,
                             sizeof memory);
        sy_info("capacity: %s", memory);
    }
    announce_ramp(r->settings);
    sy_info("matrix-product peak, measured: %.1f GFLOP/s (all ranks)", peak / 1e9);
    if (moe->force_balance) {
        sy_warn("moe.force_balance is on: routing is not learned; figures are for benchmarks only");
    }
    if (sy__run_is_root(r) && sy_capacity_looks_ahead(moe) && !moe->look_ahead) {
        sy_warn(
            "moe.drop_policy: a later token that scores higher takes an earlier one's row, which "
            "this causal model cannot know when it writes; position and token_position drop "
            "later tokens first, and moe.look_ahead true says that it is meant");
    }
}

void sy__run_save(sy__run *r, bool final)
{
    sy_pulse_phase("save");
    sy_span_begin(SY_SPAN_PHASE, "checkpoint", -1, -1);
    sy_saves_save(&r->saves, final,
                  sy__run_is_root(r) ? sy_metrics_file_sync(r->metrics_file) : SY_OK);
    sy_span_end();
}

/* A checkpoint from elsewhere gets a place in the folder at once: a run that dies before its first
   save goes on from there. Rank 0 knows whether it stands there already. */
static sy_status save_named(sy__run *r, bool stands)
{
    sy_status st = SY_OK;
    int32_t stands_int = stands;
    SY_TRY(sy_host_broadcast(r->world, &stands_int, sizeof stands_int, 0, "named checkpoint"));
    if (!stands_int) {
        sy__run_save(r, false);
    }
cleanup:
    return st;
}

sy_status sy__run_start(sy__run *r)
{
    sy_status st = SY_OK, mine = SY_OK;
    sy_run_start how = SY_RUN_NEW;
    sy_trainer_spec trainer = {
        .settings = r->settings, .world = r->world, .threads = r->spec->threads};
    char *path = NULL;
    double peak = 0;
    int64_t saved_step = -1;
    int32_t how_int;
    bool stands = false;

    SY_TRY(sy_agree(r->world, claim(r, &how)));
    SY_TRY(sy_run_same(r->settings, &r->dir, r->world));
    how_int = (int32_t)how;
    SY_TRY(sy_host_broadcast(r->world, &how_int, sizeof how_int, 0, "run start"));
    how = (sy_run_start)how_int;
    sy_pulse_phase(how == SY_RUN_CONTINUE || r->spec->init_from != NULL ? "load" : "start");
    if (how == SY_RUN_CONTINUE) {
        SY_TRY(check_resume(r, &path));
    } else if (r->spec->init_from != NULL) {
        SY_TRY(sy_find_model(r->spec->init_from, r->world, &path));
        SY_TRY(sy_checkpoint_check(path, r->world));
    }
    SY_TRY(sy_agree(r->world, sy_config_echo(r->settings->config, &r->config_yaml)));
    SY_TRY(sy_trainer_create(&trainer, &r->trainer));
    if (path != NULL) {
        SY_TRY(sy__run_load(r, path, how == SY_RUN_CONTINUE ? SY_LOAD_ALL : SY_LOAD_MODEL));
        SY_TRY(sy_tokenizer_files_read(path, r->world, &r->tokenizer));
    } else {
        SY_TRY(sy_train_tell_data(r->trainer));
    }
    SY_TRY(how == SY_RUN_CONTINUE ? reset(r) : SY_OK);
    if (how == SY_RUN_CONTINUE && r->spec->resume_from == NULL && r->spec->reset == 0 &&
        r->spec->skip_batches == 0) {
        saved_step = r->trainer->count.step; /* a named one may stand in another folder */
    }
    r->profile = (sy_profile){.world = r->world, .folder = r->dir.path};
    SY_TRY(sy_profile_plan(&r->profile, r->spec->profile_steps, r->spec->profile_first,
                           r->trainer->count.step, r->settings->train->steps));
    SY_TRY(open_saves(r, saved_step));
    SY_TRY(open_valid(r));
    SY_TRY(sy_agree(r->world, sy_replicas_create(r->trainer, &r->replicas)));
    SY_TRY(measure_peak(r, &peak));
    if (sy__run_is_root(r)) {
        mine = open_outputs(r, how, peak, path, &stands);
    }
    SY_TRY(sy_agree(r->world, mine));
    announce(r, peak);
    SY_TRY(r->spec->resume_from != NULL ? save_named(r, stands) : SY_OK);
cleanup:
    sy_free(&path);
    return st;
}

/* One run from start to end. Rank 0 owns the run directory; whatever it alone does is agreed upon
 * before anybody goes on. */
#include "train/run.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/tokenizer_files.h"
#include "core/alloc.h"
#include "core/clock.h"
#include "core/log.h"
#include "core/pulse.h"
#include "core/span.h"
#include "moe/capacity.h"
#include "parallel/agree.h"
#include "parallel/watch.h"
#include "report/html.h"
#include "report/run_dir.h"
#include "report/tensorboard.h"
#include "train/batch_ramp.h"
#include "train/eval.h"
#include "train/peak.h"
#include "train/profile.h"
#include "train/replicas.h"
#include "train/routed.h"
#include "train/same.h"
#include "train/saves.h"
#include "train/step_metrics.h"
#include "train/tell_data.h"
#include "train/trouble.h"

typedef struct run {
    const sy_run_spec *spec;
    const sy_run_settings *settings;
    sy_comm *world;
    sy_run_dir dir;
    char *config_yaml;
    sy_tokenizer_files tokenizer; /* what the first checkpoint came with goes into the next */
    sy_trainer *trainer;
    sy_replicas *replicas;
    sy_eval_set *valid;
    int32_t n_valid;
    sy_metrics_file *metrics_file; /* rank 0 */
    sy_tensorboard *tensorboard;   /* rank 0; NULL once it cannot be written */
    sy_step_metrics *metrics;      /* rank 0 */
    sy_progress *progress;         /* rank 0 */
    sy_saves saves;
    sy_profile profile;
    int64_t sequences_before; /* of the whole run that this one goes on from */
    double begun_s;
} run;

static bool is_root(const run *r)
{
    return r->world->rank == 0;
}

/* ---- start ---- */

static sy_status claim(run *r, sy_run_start *start)
{
    sy_status st = SY_OK;
    const sy_run_spec *spec = r->spec;
    char *path = NULL;
    SY_TRY(sy_run_config_dir(r->settings->run, spec->run_dir, &path));
    SY_TRY(sy_run_dir_init(path, &r->dir));
    if (is_root(r)) {
        SY_TRY(sy_run_dir_claim(&r->dir, SY_RUN_LOCK_WAIT_S));
        SY_TRY(sy_run_dir_decide(&r->dir, spec->resume, spec->resume_from, start));
    }
cleanup:
    sy_free(&path);
    return st;
}

/* The checkpoint to go on from, with the rules of what may have changed. */
static sy_status check_resume(run *r, char **path)
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

static sy_status load(run *r, const char *path, sy_load_what what)
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
static sy_status reset(run *r)
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
    } else if (is_root(r)) {
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

static sy_status open_saves(run *r, int64_t saved_step)
{
    return sy_saves_open(&(sy_saves_spec){.trainer = r->trainer,
                                          .dir = &r->dir,
                                          .config_yaml = r->config_yaml,
                                          .blobs = r->tokenizer.blob,
                                          .n_blobs = r->tokenizer.n},
                         saved_step, &r->saves);
}

static sy_status open_valid(run *r)
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
static sy_status measure_peak(run *r, double *peak)
{
    sy_status st = SY_OK;
    sy_engine *e = r->trainer->engine;
    SY_TRY(sy_agree(r->world, sy_measure_peak(e->dev, e->compute, 0.05, peak)));
    SY_TRY(sy_host_all_reduce(r->world, peak, 1, SY_F64, SY_SUM, "peak"));
cleanup:
    return st;
}

/* A second view of the metrics: a run does not fail for it. Rank 0. */
static void tensorboard_failed(run *r)
{
    sy_warn("no TensorBoard events from here on: %s", sy_error_message());
    sy_error_clear();
    sy_tensorboard_close(&r->tensorboard);
}

static void open_tensorboard(run *r, int64_t keep_step)
{
    if (sy_tensorboard_open(r->dir.tensorboard, keep_step, &r->tensorboard) != SY_OK) {
        tensorboard_failed(r);
    }
}

static double work_until(const void *settings, int64_t step)
{
    return (double)sy_batch_ramp_sequences(settings, step);
}

/* resumed: the file that the run goes on from, if any; *stands: see sy_run_dir_set_aside. */
static sy_status open_outputs(run *r, sy_run_start start, double peak, const char *resumed,
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
    open_tensorboard(r, start == SY_RUN_CONTINUE ? t->count.step : -1);
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

static void announce(const run *r, double peak)
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
    if (is_root(r) && sy_capacity_looks_ahead(moe) && !moe->look_ahead) {
        sy_warn(
            "moe.drop_policy: a later token that scores higher takes an earlier one's row, which "
            "this causal model cannot know when it writes; position and token_position drop "
            "later tokens first, and moe.look_ahead true says that it is meant");
    }
}

static void save(run *r, bool final)
{
    sy_pulse_phase("save");
    sy_span_begin(SY_SPAN_PHASE, "checkpoint", -1, -1);
    sy_saves_save(&r->saves, final, is_root(r) ? sy_metrics_file_sync(r->metrics_file) : SY_OK);
    sy_span_end();
}

/* A checkpoint from elsewhere gets a place in the folder at once: a run that dies before its first
   save goes on from there. Rank 0 knows whether it stands there already. */
static sy_status save_named(run *r, bool stands)
{
    sy_status st = SY_OK;
    int32_t stands_int = stands;
    SY_TRY(sy_host_broadcast(r->world, &stands_int, sizeof stands_int, 0, "named checkpoint"));
    if (!stands_int) {
        save(r, false);
    }
cleanup:
    return st;
}

static sy_status start(run *r)
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
        SY_TRY(load(r, path, how == SY_RUN_CONTINUE ? SY_LOAD_ALL : SY_LOAD_MODEL));
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
    if (is_root(r)) {
        mine = open_outputs(r, how, peak, path, &stands);
    }
    SY_TRY(sy_agree(r->world, mine));
    announce(r, peak);
    SY_TRY(r->spec->resume_from != NULL ? save_named(r, stands) : SY_OK);
cleanup:
    sy_free(&path);
    return st;
}

/* ---- the loop ---- */

static bool is_asked_to_stop(const void *self)
{
    const run *r = self;
    double minutes = r->settings->train->stop_after_minutes;
    return (r->spec->stop != NULL && r->spec->stop()) ||
           (minutes > 0 && sy_clock_s() - r->begun_s >= 60 * minutes);
}

/* To which labels' experts the set went: in all layers together, and in each. Rank 0. */
static sy_status record_routed(run *r, const char *set)
{
    sy_status st = SY_OK;
    const int32_t n = r->settings->moe->experts > 0 ? r->settings->moe->expert_labels.n : 0;
    double *share = NULL;
    char key[512], name[SY_EXPERT_LABEL + 1], layer[32];
    SY_TRY(sy_alloc(n, sizeof *share, (void **)&share));
    for (int32_t i = -1; i < r->settings->model->layers && n > 0; i++) {
        if (i >= 0 && !sy_moe_config_layer(r->settings->moe, i)) {
            continue;
        }
        snprintf(layer, sizeof layer, i < 0 ? "" : "layer_%d/", i);
        sy_routed_shares(r->trainer->engine, i, share);
        for (int32_t g = 0; g < n; g++) {
            snprintf(key, sizeof key, "valid/%s/%srouted/%s", set, layer,
                     sy_routed_name(r->settings, g, name));
            SY_TRY(sy_metrics_set_f64(r->metrics->record, key, share[g]));
        }
    }
cleanup:
    sy_free(&share);
    return st;
}

/* A set that is cut short has no figure, and those behind it are left out. */
static sy_status evaluate(run *r, bool *stopped)
{
    sy_status st = SY_OK;
    char key[256];
    for (int32_t i = 0; i < r->n_valid && !*stopped; i++) {
        sy_eval_result result;
        SY_TRY(sy_evaluate(r->trainer->engine, &r->valid[i], r->settings->train->eval_batches,
                           is_asked_to_stop, r, &result));
        *stopped = result.stopped;
        if (is_root(r) && !*stopped) {
            snprintf(key, sizeof key, "valid/%s/loss", r->valid[i].name);
            SY_TRY(sy_metrics_set_f64(r->metrics->record, key, result.loss));
            SY_TRY(record_routed(r, r->valid[i].name));
            sy_info("step %ld: valid/%s loss %.4f over %ld tokens", (long)r->trainer->count.step,
                    r->valid[i].name, result.loss, (long)result.tokens);
        }
    }
cleanup:
    return st;
}

static bool due(int64_t step, int64_t every)
{
    return every > 0 && step % every == 0;
}

/* Metrics of the step on rank 0: kept in the record until evaluation has added its own. */
static sy_status log_step(run *r, const sy_step_result *result)
{
    sy_status st = SY_OK;
    sy_step_facts facts;
    char text[256];
    int32_t slowest = -1;
    const double from = sy_clock_s();
    sy_span_begin(SY_SPAN_PHASE, "metrics", -1, -1);
    r->metrics->straggler_ratio = sy_watch_slowest(r->world, &slowest);
    SY_TRY(sy_step_metrics_fill(r->metrics, result, r->saves.stall_s, &facts));
    r->saves.stall_s = 0;
    sy_progress_update(r->progress, result->step, sy_step_facts_format(&facts, text, sizeof text));
    sy_step_metrics_book(r->metrics, from);
cleanup:
    sy_span_end();
    return st;
}

/* The record as a line and as events; a run does not fail for either. Rank 0. */
static void write_metrics(run *r, int64_t step)
{
    const double from = sy_clock_s();
    sy_span_begin(SY_SPAN_PHASE, "metrics output", -1, -1);
    if (sy_metrics_file_append(r->metrics_file, step, r->metrics->record) != SY_OK) {
        sy_warn("metrics of step %ld were not written: %s", (long)step, sy_error_message());
        sy_error_clear();
    }
    if (r->tensorboard != NULL &&
        sy_tensorboard_append(r->tensorboard, step, r->metrics->record) != SY_OK) {
        tensorboard_failed(r);
    }
    sy_span_end();
    sy_step_metrics_book(r->metrics, from);
}

/* Look at the routing of the probe. */
static sy_status take_probe(run *r)
{
    sy_status st = SY_OK;
    const double from = sy_clock_s();
    sy_span_begin(SY_SPAN_PHASE, "probe", -1, -1);
    SY_TRY(sy_probe_take(r->trainer->probe, r->trainer->count.step));
    if (is_root(r)) {
        st = sy_step_metrics_probe(r->metrics, r->trainer->probe, sy_clock_s() - from);
    }
cleanup:
    sy_span_end();
    return st;
}

/* *stopped: a rank was asked to stop during evaluation. */
static sy_status after_step(run *r, const sy_step_result *result, bool *stopped)
{
    sy_status st = SY_OK;
    const sy_train_config *c = r->settings->train;
    bool last = result->step == c->steps, eval = last || due(result->step, c->eval_every);
    bool probe = r->trainer->probe != NULL && due(result->step, c->probe_every);

    if (is_root(r)) {
        st = log_step(r, result);
    }
    SY_TRY(st);
    if (eval) {
        sy_pulse_phase("evaluation");
        sy_span_begin(SY_SPAN_PHASE, "evaluation", -1, -1);
        st = evaluate(r, stopped);
        sy_span_end();
        SY_TRY(st);
    }
    SY_TRY(probe ? take_probe(r) : SY_OK);
    if (is_root(r) && (last || eval || probe || due(result->step, c->log_every))) {
        write_metrics(r, result->step);
    }
    if (sy_saves_due(&r->saves, result->save_now)) {
        r->trainer->count.rollbacks_in_row = 0;
        save(r, last);
    }
cleanup:
    return st;
}

/* Now and then, and before whatever a checkpoint will be made of. */
static sy_status compare_replicas(run *r, sy_step_result *result)
{
    sy_status st = SY_OK;
    const sy_train_config *c = r->settings->train;
    const int64_t step = result->step;
    const double from = sy_clock_s();
    if (c->digest_every > 0 && (step % c->digest_every == 0 || due(step, c->checkpoint_every) ||
                                result->save_now || step == c->steps)) {
        sy_span_begin(SY_SPAN_PHASE, "replicas", -1, -1);
        st = sy_replicas_check(r->replicas, step, result->verdict == SY_STEP_DONE);
        sy_span_end();
        r->trainer->time.digest_s = sy_clock_s() - from;
    }
    return st;
}

/* One step. A save under way goes on while the gradients are computed; before anything is updated,
   what it saves must have been copied. */
static sy_status step(run *r, sy_step_result *result)
{
    sy_status st = SY_OK;
    sy_trainer *t = r->trainer;
    t->votes.save_now = is_root(r) && sy_saves_time_is_up(&r->saves);
    t->votes.saver_ready = sy_saves_ready(&r->saves);
    sy_span_begin(SY_SPAN_STEP, "step", t->count.step + 1, -1);
    SY_TRY(sy_trainer_gradients(t, is_asked_to_stop(r), result));
    if (result->verdict != SY_STEP_STOP) {
        if (result->savers_ready) {
            sy_saves_go_on(&r->saves);
        }
        if (result->trouble.kind != SY_TROUBLE_NONE) {
            SY_TRY(sy_trouble_report(t, result)); /* while the gradients stand */
        }
        SY_TRY(compare_replicas(r, result));
        sy_saves_wait_copied(&r->saves);
        SY_TRY(sy_trainer_update(t, result));
    }
cleanup:
    sy_span_end();
    return st;
}

/* Rank 0: metrics go on behind the checkpoint. */
static sy_status rewind_outputs(run *r, const char *path)
{
    sy_status st = SY_OK;
    const int64_t step = r->trainer->count.step;
    bool stands;
    SY_TRY(sy_run_dir_set_aside(&r->dir, step, path, &stands));
    sy_metrics_file_close(&r->metrics_file);
    SY_TRY(sy_metrics_file_open(r->dir.metrics, step, NULL, &r->metrics_file));
    sy_tensorboard_close(&r->tensorboard);
    open_tensorboard(r, step);
cleanup:
    return st;
}

/* Go on from the newest checkpoint, with data behind those of the step that failed: what was
   learned from since then is not seen again. The checkpoint is written again with its new place in
   the data, so that a resume takes the same way. */
static sy_status roll_back(run *r, int64_t step)
{
    sy_status st = SY_OK;
    sy_trainer *t = r->trainer;
    const sy_train_config *c = r->settings->train;
    const sy_train_counters was = t->count;
    char *path = NULL;
    sy_saves_finish(&r->saves);
    SY_TRY(sy_find_model(r->dir.path, r->world, &path));
    SY_TRY(load(r, path, SY_LOAD_ALL));
    t->count.rollbacks = was.rollbacks + 1;
    t->count.rollbacks_in_row = was.rollbacks_in_row + 1;
    sy_train_skip_data(t, was.data_step - t->count.data_step +
                              c->skip_batches * (int64_t)sy_batch_ramp_size(t->settings, step));
    if (is_root(r)) {
        sy_warn(
            "back from step %ld to the checkpoint of step %ld; %ld sequences of the data are left "
            "out by now, the next is %ld (roll-back %ld)",
            (long)step, (long)t->count.step, (long)t->count.skipped_sequences,
            (long)t->count.data_step, (long)t->count.rollbacks);
    }
    SY_TRY(sy_agree(r->world, is_root(r) ? rewind_outputs(r, path) : SY_OK));
    save(r, false);
cleanup:
    sy_free(&path);
    return st;
}

/* An error that ends the loop is one of all ranks; what is saved beside it is of a step before. */
static void finish_save(run *r)
{
    sy_trace why;
    sy_error_take(&why);
    sy_error_clear();
    sy_saves_finish(&r->saves);
    (void)sy_error_raise(&why);
}

static sy_status loop(run *r, bool *stopped)
{
    sy_status st = SY_OK;
    const sy_train_config *c = r->settings->train;
    sy_step_result result;
    if (r->trainer->probe != NULL && r->trainer->probe->n_taken == 0) {
        SY_TRY(take_probe(r)); /* what the first look is compared with */
    }
    while (r->trainer->count.step < c->steps && !*stopped) {
        sy_profile_before(&r->profile, r->trainer->count.step + 1);
        SY_TRY(step(r, &result));
        if (result.verdict == SY_STEP_STOP) {
            *stopped = true;
            break;
        }
        if (result.roll_back && r->saves.saved_step >= 0) { /* without a checkpoint it is a skip */
            SY_TRY(sy_trouble_limit(r->trainer, &result));
            SY_TRY(roll_back(r, result.step));
            continue;
        }
        st = after_step(r, &result, stopped);
        if (st != SY_OK) {
            sy_comm_abort(r->world, st);
        }
        sy_profile_after(&r->profile, result.step);
        SY_TRY(sy_trouble_limit(r->trainer, &result));
    }
    sy_profile_finish(&r->profile);
    sy_saves_finish(&r->saves);
    if (r->saves.saved_step != r->trainer->count.step && !(r->saves.last_failed && !*stopped)) {
        save(r, true);
    }
    SY_REQUIRE(!r->saves.last_failed, SY_ERR_IO,
               "the last checkpoint of the run could not be saved");
    if (*stopped) {
        sy_info("stopped on request after step %ld of %ld; --resume goes on from here",
                (long)result.step, (long)c->steps);
    }
cleanup:
    if (st != SY_OK) {
        finish_save(r);
    }
    return st;
}

/* ---- end ---- */

static void finish(run *r)
{
    sy_span_discard();
    sy_progress_destroy(&r->progress);
    sy_tensorboard_close(&r->tensorboard);
    sy_metrics_file_close(&r->metrics_file);
    sy_step_metrics_destroy(&r->metrics);
    for (int32_t i = 0; i < r->n_valid; i++) {
        sy_eval_set_close(&r->valid[i]);
    }
    sy_free(&r->valid);
    sy_saves_close(&r->saves);
    sy_replicas_destroy(&r->replicas);
    sy_trainer_destroy(&r->trainer);
    sy_tokenizer_files_free(&r->tokenizer);
    sy_run_dir_free(&r->dir);
    sy_free(&r->config_yaml);
}

/* The page is a convenience: a run does not fail for it. */
static void write_report(run *r)
{
    sy_metrics_file_close(&r->metrics_file);
    const char *path = r->dir.path;
    if (sy_report_write(&path, 1, r->dir.report, NULL) != SY_OK) {
        sy_warn("no report: %s", sy_error_message());
        sy_error_clear();
    }
}

/* Checkpoints keep the complete configuration, which is longer than what the user wrote: it must be
   one that can be read again. */
static sy_status check_echo(const sy_run_settings *s)
{
    sy_status st = SY_OK;
    sy_run_settings again = {0};
    char *yaml = NULL;
    SY_TRY(sy_config_echo(s->config, &yaml));
    SY_TRY(sy_run_settings_parse(yaml, strlen(yaml),
                                 "the configuration with its defaults, as checkpoints keep it",
                                 NULL, 0, &again));
cleanup:
    sy_run_settings_free(&again);
    sy_free(&yaml);
    return st;
}

/* What the configuration of a run must have beside that of a model; before anything is claimed. */
static sy_status check_config(const sy_run_spec *spec)
{
    sy_status st = SY_OK;
    const sy_run_settings *s = spec->settings;
    SY_TRY(sy_device_config_check(s->config));
    SY_TRY(sy_parallel_config_check(s->config, spec->world->size, s->moe->experts));
    SY_TRY(sy_agree(spec->world, sy_checkpoint_io_check()));
    SY_TRY(sy_agree(spec->world, check_echo(s)));
    if (s->data->train.n == 0) {
        SY_TRY(sy_config_error(s->config, "data.train", "data.train names no data to train on"));
    }
cleanup:
    return st;
}

sy_status sy_run_train(const sy_run_spec *spec, bool *stopped)
{
    sy_status st = SY_OK;
    run r = {
        .spec = spec, .settings = spec->settings, .world = spec->world, .begun_s = sy_clock_s()};
    *stopped = false;
    SY_TRY(check_config(spec));
    sy_pulse_phase("start");
    SY_TRY(start(&r));
    SY_TRY(loop(&r, stopped));
    if (is_root(&r)) {
        write_report(&r);
    }
cleanup:
    finish(&r);
    return st;
}

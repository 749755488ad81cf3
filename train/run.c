/* One run from start to end. Rank 0 owns the run directory; whatever it alone does is agreed upon
 * before anybody goes on. */
#include "train/run_impl.h"

#include <stdio.h>
#include <string.h>

#include "checkpoint/checkpoint.h"
#include "core/alloc.h"
#include "core/clock.h"
#include "core/log.h"
#include "core/pulse.h"
#include "core/span.h"
#include "parallel/agree.h"
#include "parallel/watch.h"
#include "report/html.h"
#include "train/batch_ramp.h"
#include "train/routed.h"
#include "train/tell_data.h"
#include "train/trouble.h"

/* ---- the loop ---- */

static bool is_asked_to_stop(const void *self)
{
    const sy__run *r = self;
    double minutes = r->settings->train->stop_after_minutes;
    return (r->spec->stop != NULL && r->spec->stop()) ||
           (minutes > 0 && sy_clock_s() - r->begun_s >= 60 * minutes);
}

/* To which labels' experts the set went: in all layers together, and in each. Rank 0. */
static sy_status record_routed(sy__run *r, const char *set)
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
static sy_status evaluate(sy__run *r, bool *stopped)
{
    sy_status st = SY_OK;
    char key[256];
    for (int32_t i = 0; i < r->n_valid && !*stopped; i++) {
        sy_eval_result result;
        SY_TRY(sy_evaluate(r->trainer->engine, &r->valid[i], r->settings->train->eval_batches,
                           is_asked_to_stop, r, &result));
        *stopped = result.stopped;
        if (sy__run_is_root(r) && !*stopped) {
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
static sy_status log_step(sy__run *r, const sy_step_result *result)
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
static void write_metrics(sy__run *r, int64_t step)
{
    const double from = sy_clock_s();
    sy_span_begin(SY_SPAN_PHASE, "metrics output", -1, -1);
    if (sy_metrics_file_append(r->metrics_file, step, r->metrics->record) != SY_OK) {
        sy_warn("metrics of step %ld were not written: %s", (long)step, sy_error_message());
        sy_error_clear();
    }
    if (r->tensorboard != NULL &&
        sy_tensorboard_append(r->tensorboard, step, r->metrics->record) != SY_OK) {
        sy__run_tensorboard_failed(r);
    }
    sy_span_end();
    sy_step_metrics_book(r->metrics, from);
}

/* Look at the routing of the probe. */
static sy_status take_probe(sy__run *r)
{
    sy_status st = SY_OK;
    const double from = sy_clock_s();
    sy_span_begin(SY_SPAN_PHASE, "probe", -1, -1);
    SY_TRY(sy_probe_take(r->trainer->probe, r->trainer->count.step));
    if (sy__run_is_root(r)) {
        st = sy_step_metrics_probe(r->metrics, r->trainer->probe, sy_clock_s() - from);
    }
cleanup:
    sy_span_end();
    return st;
}

/* *stopped: a rank was asked to stop during evaluation. */
static sy_status after_step(sy__run *r, const sy_step_result *result, bool *stopped)
{
    sy_status st = SY_OK;
    const sy_train_config *c = r->settings->train;
    bool last = result->step == c->steps, eval = last || due(result->step, c->eval_every);
    bool probe = r->trainer->probe != NULL && due(result->step, c->probe_every);

    if (sy__run_is_root(r)) {
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
    if (sy__run_is_root(r) && (last || eval || probe || due(result->step, c->log_every))) {
        write_metrics(r, result->step);
    }
    if (sy_saves_due(&r->saves, result->save_now)) {
        r->trainer->count.rollbacks_in_row = 0;
        sy__run_save(r, last);
    }
cleanup:
    return st;
}

/* Now and then, and before whatever a checkpoint will be made of. */
static sy_status compare_replicas(sy__run *r, sy_step_result *result)
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
static sy_status step(sy__run *r, sy_step_result *result)
{
    sy_status st = SY_OK;
    sy_trainer *t = r->trainer;
    t->votes.save_now = sy__run_is_root(r) && sy_saves_time_is_up(&r->saves);
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
static sy_status rewind_outputs(sy__run *r, const char *path)
{
    sy_status st = SY_OK;
    const int64_t step = r->trainer->count.step;
    bool stands;
    SY_TRY(sy_run_dir_set_aside(&r->dir, step, path, &stands));
    sy_metrics_file_close(&r->metrics_file);
    SY_TRY(sy_metrics_file_open(r->dir.metrics, step, NULL, &r->metrics_file));
    sy_tensorboard_close(&r->tensorboard);
    sy__run_open_tensorboard(r, step);
cleanup:
    return st;
}

/* Go on from the newest checkpoint, with data behind those of the step that failed: what was
   learned from since then is not seen again. The checkpoint is written again with its new place in
   the data, so that a resume takes the same way. */
static sy_status roll_back(sy__run *r, int64_t step)
{
    sy_status st = SY_OK;
    sy_trainer *t = r->trainer;
    const sy_train_config *c = r->settings->train;
    const sy_train_counters was = t->count;
    char *path = NULL;
    sy_saves_finish(&r->saves);
    SY_TRY(sy_find_model(r->dir.path, r->world, &path));
    SY_TRY(sy__run_load(r, path, SY_LOAD_ALL));
    t->count.rollbacks = was.rollbacks + 1;
    t->count.rollbacks_in_row = was.rollbacks_in_row + 1;
    sy_train_skip_data(t, was.data_step - t->count.data_step +
                              c->skip_batches * (int64_t)sy_batch_ramp_size(t->settings, step));
    if (sy__run_is_root(r)) {
        sy_warn(
            "back from step %ld to the checkpoint of step %ld; %ld sequences of the data are left "
            "out by now, the next is %ld (roll-back %ld)",
            (long)step, (long)t->count.step, (long)t->count.skipped_sequences,
            (long)t->count.data_step, (long)t->count.rollbacks);
    }
    SY_TRY(sy_agree(r->world, sy__run_is_root(r) ? rewind_outputs(r, path) : SY_OK));
    sy__run_save(r, false);
cleanup:
    sy_free(&path);
    return st;
}

/* An error that ends the loop is one of all ranks; what is saved beside it is of a step before. */
static void finish_save(sy__run *r)
{
    sy_trace why;
    sy_error_take(&why);
    sy_error_clear();
    sy_saves_finish(&r->saves);
    (void)sy_error_raise(&why);
}

static sy_status loop(sy__run *r, bool *stopped)
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
        sy__run_save(r, true);
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

static void finish(sy__run *r)
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
static void write_report(sy__run *r)
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
    sy__run r = {
        .spec = spec, .settings = spec->settings, .world = spec->world, .begun_s = sy_clock_s()};
    *stopped = false;
    SY_TRY(check_config(spec));
    sy_pulse_phase("start");
    SY_TRY(sy__run_start(&r));
    SY_TRY(loop(&r, stopped));
    if (sy__run_is_root(&r)) {
        write_report(&r);
    }
cleanup:
    finish(&r);
    return st;
}

/* The order of one step: head (one host all-reduce), micro-batches, gradients, foot (two device
 * all-reduces and one wait), one decision on all ranks, update. */
#include <math.h>

#include "backend/corrupt.h"
#include "core/clock.h"
#include "core/fault.h"
#include "core/pulse.h"
#include "core/span.h"
#include "optim/schedule.h"
#include "parallel/agree.h"
#include "train/batch_ramp.h"
#include "train/sample_log.h"
#include "train/trainer.h"

enum {
    HEAD_FAILED,
    HEAD_STOP,
    HEAD_LOSS_TOKENS,
    HEAD_ROUTED_TOKENS,
    HEAD_SAVE_NOW,
    HEAD_SAVER_READY,
    HEAD_STEP,
    HEAD_STEP_SQUARED, /* with the sum, equal on all ranks only if the steps are */
    HEAD_CALLS,        /* a digest of the collectives since the last head */
    HEAD_CALLS_SQUARED,
    HEAD_N
};

/* Sums over all ranks; also the place where a rank that cannot take part says so. */
static sy_status head(sy_trainer *t, bool stop, const sy_step_batch **batch, int64_t sum[HEAD_N],
                      double *data_wait_s)
{
    sy_status st = SY_OK;
    const double t0 = sy_clock_s();
    sy_comm *host = t->engine->mesh->host;
    const int64_t calls = sy_comm_calls_take();
    sy_span_begin(SY_SPAN_PHASE, "data wait", -1, -1);
    sy_status mine = sy_fault("train.step");
    if (mine == SY_OK) {
        const int64_t step = t->count.step + 1;
        mine = sy_loader_take_sized(t->loader, t->count.data_step,
                                    sy_batch_ramp_size(t->settings, step),
                                    sy_batch_ramp_size(t->settings, step + 1), batch);
    }
    *data_wait_s = sy_clock_s() - t0;
    sy_span_end();
    sum[HEAD_FAILED] = mine != SY_OK;
    sum[HEAD_STOP] = stop;
    sum[HEAD_LOSS_TOKENS] = mine == SY_OK ? (*batch)->loss_tokens : 0;
    sum[HEAD_ROUTED_TOKENS] = mine == SY_OK ? (*batch)->routed_tokens : 0;
    sum[HEAD_SAVE_NOW] = t->votes.save_now;
    sum[HEAD_SAVER_READY] = t->votes.saver_ready;
    sum[HEAD_STEP] = t->count.step;
    sum[HEAD_STEP_SQUARED] = t->count.step * t->count.step;
    sum[HEAD_CALLS] = calls;
    sum[HEAD_CALLS_SQUARED] = calls * calls;
    SY_TRY(sy_host_all_reduce(host, sum, HEAD_N, SY_I64, SY_SUM, "step head"));
    if (sum[HEAD_FAILED] > 0) {
        SY_TRY(sy_agree(host, mine));
    }
    if (sum[HEAD_CALLS] != calls * host->size ||
        sum[HEAD_CALLS_SQUARED] != calls * sum[HEAD_CALLS]) {
        SY_TRY(sy_comm_calls_compare(host));
    }
    SY_REQUIRE(sum[HEAD_STEP] == t->count.step * host->size &&
                   sum[HEAD_STEP_SQUARED] == t->count.step * sum[HEAD_STEP],
               SY_ERR_INTERNAL, "ranks are at different steps; this one is at %ld",
               (long)t->count.step);
cleanup:
    return st;
}

/* Book the time since *from, and begin the next phase there. */
static void book(const sy_trainer *t, double *phase_s, double *from)
{
    double now = sy_stream_clock(t->engine->compute_stream);
    *phase_s += now - *from;
    *from = now;
}

/* Waiting for what the update before changed is not forward. */
static void book_forward(sy_trainer *t, double *from)
{
    const double waited_s = sy_value_sync_take_s(t->values);
    book(t, &t->time.forward_s, from);
    t->time.forward_s -= waited_s;
    t->time.param_gather_s += waited_s;
}

/* The reductions that backward started on the way are not backward. */
static void book_backward(sy_trainer *t, double *from)
{
    double reducing_s = sy_grad_sync_take_s(t->grads);
    book(t, &t->time.backward_s, from);
    t->time.backward_s -= reducing_s;
    t->time.grad_sync_wait_s += reducing_s;
}

/* Steps of the schedules count from where they began. */
static int64_t decay_steps(const sy_trainer *t)
{
    const int64_t steps = t->settings->optim->decay_steps;
    return steps > 0 ? steps : t->settings->train->steps - t->count.schedule_start;
}

static double learning_rate(const sy_trainer *t, int64_t step)
{
    return sy_schedule_lr(t->settings->optim, decay_steps(t), step - t->count.schedule_start);
}

/* Of the step under way. */
static double mtp_factor(const sy_trainer *t)
{
    const double gone = (double)(t->count.step + 1 - t->count.schedule_start);
    return sy_phases_factor(&t->settings->train->mtp_phases, gone / (double)decay_steps(t));
}

static sy_status micro_batch(sy_trainer *t, const sy_batch *batch, int32_t micro_idx, bool last,
                             const int64_t sum[HEAD_N])
{
    sy_status st = SY_OK;
    sy_engine *e = t->engine;
    sy_model_saved *saved = NULL;
    sy_pass p;
    double from = sy_stream_clock(e->compute_stream);
    sy_span_begin(SY_SPAN_PHASE, "forward", -1, -1);
    SY_TRY(sy_sample_log_add(t->samples, t->count.step + 1, t->count.data_step, batch));
    SY_TRY(sy_engine_begin(e, SY_PASS_TRAIN, batch, t->count.step + 1, micro_idx, &p));
    p.mtp_factor = mtp_factor(t);
    p.per_loss_token = sum[HEAD_LOSS_TOKENS] > 0 ? 1.0 / (double)sum[HEAD_LOSS_TOKENS] : 0;
    p.per_routed_token = sum[HEAD_ROUTED_TOKENS] > 0 ? 1.0 / (double)sum[HEAD_ROUTED_TOKENS] : 0;
    sy_pulse_phase("forward");
    SY_TRY(sy_model_forward(e->model, &p, &saved));
    sy_span_end();
    book_forward(t, &from);
    sy_span_begin(SY_SPAN_PHASE, "backward", -1, -1);
    sy_pulse_phase("backward");
    SY_TRY(sy_grad_sync_begin(t->grads, last));
    p.grads = t->grads;
    SY_TRY(sy_model_backward(e->model, &p, saved));
    if (!last) {
        SY_TRY(sy_grad_sync_finish(t->grads));
    }
    SY_TRY(sy_engine_end(e, &p));
    sy_span_end();
    book_backward(t, &from);
cleanup:
    return st;
}

/* Fault points in the first tensor of the model, which every rank has a copy of: before a step, and
   once its gradients are reduced. */
static sy_status corrupt(sy_trainer *t, bool reduced)
{
    sy_status st = SY_OK;
    const sy_params *params = t->engine->params;
    const sy_param *p = params->param[0];
    const sy_tensor moments = sy_tensor_1d(t->opt->m, params->wide, params->shard_n);
    const int64_t at = sy_tensor_numel(&p->value) / 2;
    sy_stream *stream = t->engine->compute_stream;
    if (reduced) {
        SY_TRY(sy_corrupt(stream, "train.reduced", &p->grad, at));
    } else {
        SY_TRY(sy_value_sync_need(t->values, p));
        SY_TRY(sy_corrupt(stream, "train.weight", &p->value, at));
        if (t->opt->m != NULL) {
            SY_TRY(sy_corrupt(stream, "train.moment", &moments, params->shard_n / 2));
        }
        SY_TRY(sy_corrupt(stream, "train.gradient", &p->grad, at));
    }
cleanup:
    return st;
}

/* Forward and backward over this rank's micro-batches, gradients and statistics reduced. */
static sy_status compute(sy_trainer *t, const sy_step_batch *batch, const int64_t sum[HEAD_N])
{
    sy_status st = SY_OK;
    sy_engine *e = t->engine;
    const sy_comm *dp = e->mesh->group[SY_DP];
    sy_tensor norm = sy_tensor_rows(&e->sums, 0, 1);
    double from;

    SY_TRY(sy_engine_zero_stats(e));
    SY_TRY(corrupt(t, false));
    for (int32_t i = 0; i < batch->n_micro; i++) {
        SY_TRY(micro_batch(t, &batch->micro[i], i * dp->size + dp->rank, i == batch->n_micro - 1,
                           sum));
        SY_TRY(sy_fault("train.micro_batch"));
    }
    from = sy_stream_clock(e->compute_stream);
    sy_span_begin(SY_SPAN_PHASE, "gradient sync", -1, -1);
    SY_TRY(sy_grad_sync_finish(t->grads));
    sy_span_end();
    SY_TRY(corrupt(t, true));
    book(t, &t->time.grad_sync_wait_s, &from);
    sy_grad_sync_take_s(t->grads); /* it is in there */
    sy_span_begin(SY_SPAN_PHASE, "sync", -1, -1);
    SY_TRY(sy_grad_sync_norm(t->grads, &norm));
    SY_TRY(sy_engine_reduce_stats(e));
    sy_span_end();
    book(t, &t->time.sync_s, &from);
    const sy_fault_action fault = sy_fault_hit("train.nonfinite");
    if (fault == SY_FAULT_NAN || fault == SY_FAULT_INF) {
        e->h_sums[0] = fault == SY_FAULT_NAN ? NAN : INFINITY;
    }
cleanup:
    return st;
}

/* What is to become of the step. All ranks see the same sums, so all decide alike. */
static void judge(const sy_trainer *t, sy_step_result *r)
{
    const sy_train_config *c = t->settings->train;
    r->trouble =
        sy_spikes_judge(&t->spikes, c->spike_window, c->spike_sigma, r->loss, r->grad_norm);
    r->verdict = SY_STEP_DONE;
    if (r->trouble.kind == SY_TROUBLE_NONFINITE) {
        r->verdict = SY_STEP_SKIPPED;
        r->roll_back = c->nonfinite == SY_NONFINITE_ROLLBACK;
    } else if (c->spike == SY_SPIKE_OFF) {
        r->trouble = (sy_trouble){.kind = SY_TROUBLE_NONE};
    } else if (r->trouble.kind != SY_TROUBLE_NONE && c->spike != SY_SPIKE_WARN) {
        r->verdict = SY_STEP_SKIPPED;
        r->roll_back = c->spike == SY_SPIKE_ROLLBACK;
    }
}

double sy_step_mtp_loss(const sy_model_config *model, const sy_step_result *r)
{
    double sum = 0;
    for (int32_t k = 0; k < model->mtp_layers; k++) {
        sum += r->mtp[k * SY_MTP_N_SUMS + SY_MTP_NLL];
    }
    return r->loss_tokens > 0 && model->mtp_layers > 0
               ? r->mtp_factor * model->mtp_loss_coeff / model->mtp_layers * sum /
                     (double)r->loss_tokens
               : 0;
}

static void fill_result(const sy_trainer *t, const sy_step_batch *batch, const int64_t sum[HEAD_N],
                        sy_step_result *r)
{
    const sy_engine *e = t->engine;
    const int64_t L = sy_engine_blocks(e), E = sy_engine_experts(e);
    r->step = t->count.step + 1;
    r->n_sequences = batch->n_sequences;
    r->loss_tokens = sum[HEAD_LOSS_TOKENS];
    r->routed_tokens = sum[HEAD_ROUTED_TOKENS];
    r->loss = r->loss_tokens > 0 ? e->h_sums[1] / (double)r->loss_tokens : 0;
    r->grad_norm = sqrt(e->h_sums[0]);
    judge(t, r);
    r->sums = e->h_sums + 2;
    r->output_z = r->loss_tokens > 0 ? e->h_sums[2 + L * SY_N_SUMS] / (double)r->loss_tokens : 0;
    r->mtp_factor = mtp_factor(t);
    r->mtp = e->h_sums + 3 + L * SY_N_SUMS;
    r->load = E > 0 ? e->h_loads : NULL;
    r->kept = E > 0 ? e->h_loads + L * E : NULL;
    r->dropped_at = E > 0 ? e->h_loads + 2 * L * E : NULL;
    r->dispatch_s = e->stats.dispatch_s;
    r->combine_s = e->stats.combine_s;
    r->experts_s = e->stats.experts_s;
    r->n_extra_passes = e->stats.n_extra_passes;
    r->save_now = sum[HEAD_SAVE_NOW] > 0;
    r->savers_ready = sum[HEAD_SAVER_READY] == e->mesh->host->size;
}

/* The others are in the midst of collectives. */
static void end_job_unless_ok(sy_trainer *t, sy_status st)
{
    if (st != SY_OK) {
        sy_comm_abort(t->engine->mesh->host, st);
    }
}

sy_status sy_trainer_gradients(sy_trainer *t, bool stop, sy_step_result *out)
{
    sy_status st = SY_OK;
    const sy_step_batch *batch = NULL;
    int64_t sum[HEAD_N];
    double t0 = sy_clock_s(), waited_s = sy_pulse_waited_s(), data_wait_s = 0;

    t->time = (sy_step_times){0};
    sy_pulse_step(t->count.step + 1);
    sy_pulse_phase("step head");
    SY_TRY(head(t, stop, &batch, sum, &data_wait_s));
    t->time.sync_s = sy_clock_s() - t0 - data_wait_s;
    *out = (sy_step_result){.verdict = SY_STEP_STOP, .step = t->count.step};
    if (sum[HEAD_STOP] > 0) {
        goto cleanup;
    }
    end_job_unless_ok(t, compute(t, batch, sum));
    fill_result(t, batch, sum, out);
    out->step_s = sy_clock_s() - t0;
    out->compute_s = out->step_s - (sy_pulse_waited_s() - waited_s);
    out->data_wait_s = data_wait_s;
cleanup:
    return st;
}

static sy_status update(sy_trainer *t, sy_step_result *r)
{
    sy_status st = SY_OK;
    sy_engine *e = t->engine;
    const sy_optim_config *o = t->settings->optim;
    bool skip = r->verdict == SY_STEP_SKIPPED;
    double from = sy_stream_clock(e->compute_stream);

    r->lr = learning_rate(t, r->step);
    sy_span_begin(SY_SPAN_PHASE, "optimizer", -1, -1);
    SY_TRY(sy_optimizer_step(
        t->opt,
        &(sy_update){.lr = r->lr,
                     .grad_scale = skip ? 0 : sy_clip_scale(r->grad_norm, o->clip_norm),
                     .skip = skip},
        e->compute_stream));
    sy_span_end();
    book(t, &t->time.optimizer_s, &from);
    sy_span_begin(SY_SPAN_PHASE, "parameter gather", -1, -1);
    SY_TRY(sy_value_sync_begin(t->values));
    sy_span_end();
    book(t, &t->time.param_gather_s, &from);
    sy_span_begin(SY_SPAN_PHASE, "optimizer", -1, -1);
    SY_TRY(sy_model_end_step(e->model,
                             &(sy_step_end){.h_load = r->load,
                                            .h_kept = r->kept,
                                            .h_router = e->stats.h_router,
                                            .n_router = e->n_router_sums / sy_engine_blocks(e),
                                            .L = sy_engine_blocks(e),
                                            .E = sy_engine_experts(e),
                                            .step = r->step,
                                            .routed_tokens = r->routed_tokens,
                                            .skipped = skip,
                                            .values = t->values,
                                            .stream = e->compute_stream}));
    SY_TRY(sy_stream_sync(e->compute_stream));
    sy_span_end();
    book(t, &t->time.optimizer_s, &from);
    r->time = t->time;
cleanup:
    return st;
}

sy_status sy_trainer_update(sy_trainer *t, sy_step_result *r)
{
    double t0 = sy_clock_s(), waited_s = sy_pulse_waited_s();
    sy_pulse_phase("update");
    end_job_unless_ok(t, update(t, r));
    t->count.step++;
    t->count.data_step += r->n_sequences;
    t->count.tokens_seen += r->loss_tokens;
    t->count.spikes +=
        r->trouble.kind == SY_TROUBLE_LOSS || r->trouble.kind == SY_TROUBLE_GRAD_NORM;
    if (r->verdict == SY_STEP_SKIPPED) {
        t->count.skipped++;
        t->count.skipped_in_row++;
    } else {
        t->count.skipped_in_row = 0;
        sy_spikes_accept(&t->spikes, r->loss, r->grad_norm);
    }
    if (r->load != NULL) {
        memcpy(t->h_loads, r->load,
               (size_t)(sy_engine_blocks(t->engine) * sy_engine_experts(t->engine)) *
                   sizeof *t->h_loads);
    }
    double update_s = sy_clock_s() - t0;
    r->step_s += update_s;
    r->compute_s += update_s - (sy_pulse_waited_s() - waited_s);
    sy_pulse_step_took(r->compute_s);
    return SY_OK;
}

sy_status sy_trainer_step(sy_trainer *t, bool stop, sy_step_result *out)
{
    sy_status st = SY_OK;
    SY_TRY(sy_trainer_gradients(t, stop, out));
    if (out->verdict != SY_STEP_STOP) {
        SY_TRY(sy_trainer_update(t, out));
    }
cleanup:
    return st;
}

sy_status sy_trainer_rehearse(sy_trainer *t, const sy_step_batch *batch, sy_step_result *out)
{
    sy_status st = SY_OK;
    const int64_t sum[HEAD_N] = {[HEAD_LOSS_TOKENS] = 1, [HEAD_ROUTED_TOKENS] = 1};
    int64_t head_sum[HEAD_N] = {0};
    const double from = sy_stream_clock(t->engine->compute_stream);
    t->time = (sy_step_times){0};
    *out = (sy_step_result){.step = t->count.step + 1};
    SY_TRY(
        sy_host_all_reduce(t->engine->mesh->host, head_sum, HEAD_N, SY_I64, SY_SUM, "step head"));
    SY_TRY(compute(t, batch, sum));
    fill_result(t, batch, sum, out);
    SY_TRY(update(t, out));
    out->step_s = sy_stream_clock(t->engine->compute_stream) - from;
cleanup:
    return st;
}

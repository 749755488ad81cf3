#include "train/step_metrics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "model/depth.h"
#include "moe/router.h"
#include "train/step_metrics_impl.h"

_Static_assert((int32_t)SY_DROP_PARTS == (int32_t)SY_HEALTH_PARTS,
               "health counts drops in the parts that the model does");

static int32_t list_layers(const sy_run_settings *s, int32_t *layer)
{
    int32_t n = 0;
    for (int32_t i = 0; i < sy_model_blocks(s->model); i++) {
        if (sy_moe_config_layer(s->moe, i)) {
            layer[n++] = i;
        }
    }
    return n;
}

sy_status sy_step_metrics_create(const sy_trainer *trainer, double peak_flops, double time_offset_s,
                                 sy_step_metrics **out)
{
    sy_status st = SY_OK;
    sy_step_metrics *m = NULL;
    const int64_t L = sy_engine_blocks(trainer->engine), E = sy_engine_experts(trainer->engine);

    SY_TRY(sy_alloc(1, sizeof *m, (void **)&m));
    m->trainer = trainer;
    m->peak_flops = peak_flops;
    m->straggler_ratio = 1;
    m->time_offset_s = time_offset_s;
    m->start_s = sy_clock_s();
    m->flops_per_token = sy_engine_flops_per_token(trainer->engine, NULL);
    SY_TRY(sy_metrics_create(&m->record));
    SY_TRY(sy_alloc(E, sizeof *m->load, (void **)&m->load));
    SY_TRY(sy_alloc(L, sizeof *m->dropped, (void **)&m->dropped));
    SY_TRY(sy_alloc(L * SY_DROP_PARTS, sizeof *m->dropped_at, (void **)&m->dropped_at));
    SY_TRY(sy_alloc(L * E, sizeof *m->routed_load, (void **)&m->routed_load));
    SY_TRY(sy_alloc(L, sizeof *m->entropy, (void **)&m->entropy));
    SY_TRY(sy_alloc(L, sizeof *m->confidence, (void **)&m->confidence));
    SY_TRY(sy_alloc(L, sizeof *m->output_rms, (void **)&m->output_rms));
    SY_TRY(sy_alloc(L, sizeof *m->layer, (void **)&m->layer));
    m->n_layers = list_layers(trainer->settings, m->layer);
    if (m->n_layers > 0) {
        SY_TRY(sy_health_create(&(sy_health_spec){.n_layers = m->n_layers,
                                                  .n_experts = (int32_t)E,
                                                  .layer_idx = m->layer},
                                &m->health));
    }
    *out = m;
    m = NULL;
cleanup:
    sy_step_metrics_destroy(&m);
    return st;
}

void sy_step_metrics_destroy(sy_step_metrics **metrics)
{
    sy_step_metrics *m = *metrics;
    if (m == NULL) {
        return;
    }
    sy_health_destroy(&m->health);
    sy_free(&m->layer);
    sy_free(&m->output_rms);
    sy_free(&m->confidence);
    sy_free(&m->entropy);
    sy_free(&m->routed_load);
    sy_free(&m->dropped_at);
    sy_free(&m->dropped);
    sy_free(&m->load);
    sy_metrics_destroy(&m->record);
    sy_free(metrics);
}

/* Tokens that are routed in layer i, at least 1. */
static double routed_in(const sy_step_metrics *m, const sy_step_result *r, int32_t i)
{
    const sy_model_config *model = m->trainer->settings->model;
    const double tokens = i < model->layers
                              ? sy_model_layer_share(model, i) * (double)r->routed_tokens
                              : r->mtp[(i - model->layers) * SY_MTP_N_SUMS + SY_MTP_ROUTED];
    return tokens > 0 ? tokens : 1;
}

/* What the step's sums say of layer m->layer[k]. */
static void take_layer(sy_step_metrics *m, const sy_step_result *r, int32_t k)
{
    const int64_t i = m->layer[k], E = sy_engine_experts(m->trainer->engine);
    const double *sums = r->sums + i * SY_N_SUMS;
    const double tokens = routed_in(m, r, (int32_t)i);
    m->dropped[k] = 0;
    for (int64_t e = 0; e < E; e++) {
        m->routed_load[k * E + e] = r->load[i * E + e];
        m->dropped[k] += r->load[i * E + e] - r->kept[i * E + e];
    }
    memcpy(m->dropped_at + (int64_t)k * SY_DROP_PARTS, r->dropped_at + i * SY_DROP_PARTS,
           SY_DROP_PARTS * sizeof *m->dropped_at);
    m->entropy[k] = sums[SY_SUM_ENTROPY] / tokens;
    m->confidence[k] = sums[SY_SUM_CONFIDENCE] / tokens;
    m->output_rms[k] = sums[SY_SUM_INPUT] == 0 ? 0 : sqrt(sums[SY_SUM_OUTPUT] / sums[SY_SUM_INPUT]);
}

/* Where the drops were: shares, all 0 where there were none. */
static sy_status fill_drop_position(sy_step_metrics *m, int32_t k)
{
    const int64_t *at = m->dropped_at + (int64_t)k * SY_DROP_PARTS;
    double share[SY_DROP_PARTS];
    char key[64];
    for (int32_t i = 0; i < SY_DROP_PARTS; i++) {
        share[i] = m->dropped[k] > 0 ? (double)at[i] / (double)m->dropped[k] : 0;
    }
    snprintf(key, sizeof key, "moe/layer_%d/drop_position", m->layer[k]);
    return sy_metrics_set_array(m->record, key, share, SY_DROP_PARTS);
}

/* One layer's keys: moe/layer_<i>/... */
static sy_status fill_layer(sy_step_metrics *m, const sy_step_result *r, int32_t k)
{
    sy_status st = SY_OK;
    int32_t i = m->layer[k];
    int64_t E = sy_engine_experts(m->trainer->engine);
    const int64_t *load = r->load + i * E;
    const double *sums = r->sums + (int64_t)i * SY_N_SUMS;
    char key[64];

    take_layer(m, r, k);
    for (int64_t e = 0; e < E; e++) {
        m->load[e] = (double)load[e];
    }
    snprintf(key, sizeof key, "moe/layer_%d/load", i);
    SY_TRY(sy_metrics_set_array(m->record, key, m->load, E));
    snprintf(key, sizeof key, "moe/layer_%d/load_max_over_mean", i);
    SY_TRY(sy_metrics_set_f64(m->record, key, sy_health_max_over_mean(load, (int32_t)E)));
    snprintf(key, sizeof key, "moe/layer_%d/dropped", i);
    SY_TRY(sy_metrics_set_i64(m->record, key, m->dropped[k]));
    snprintf(key, sizeof key, "moe/layer_%d/router_entropy", i);
    SY_TRY(sy_metrics_set_f64(m->record, key, m->entropy[k]));
    snprintf(key, sizeof key, "moe/layer_%d/router_confidence", i);
    SY_TRY(sy_metrics_set_f64(m->record, key, m->confidence[k]));
    snprintf(key, sizeof key, "moe/layer_%d/dead_experts", i);
    SY_TRY(sy_metrics_set_i64(m->record, key, sy_health_dead_experts(load, (int32_t)E)));
    snprintf(key, sizeof key, "moe/layer_%d/output_rms", i);
    SY_TRY(sy_metrics_set_f64(m->record, key, m->output_rms[k]));
    SY_TRY(fill_drop_position(m, k));
    snprintf(key, sizeof key, "moe/layer_%d/aux_loss", i);
    SY_TRY(sy_metrics_set_f64(m->record, key, sums[SY_SUM_AUX]));
    snprintf(key, sizeof key, "moe/layer_%d/z_loss", i);
    SY_TRY(sy_metrics_set_f64(m->record, key, sums[SY_SUM_Z]));
cleanup:
    return st;
}

/* Mean over the layers that route of one of their sums. */
static double layer_mean(const sy_step_metrics *m, const sy_step_result *r, int32_t which)
{
    double sum = 0;
    for (int32_t k = 0; k < m->n_layers; k++) {
        sum += r->sums[(int64_t)m->layer[k] * SY_N_SUMS + which];
    }
    return sum / (m->n_layers > 0 ? m->n_layers : 1);
}

static double mean_of(const double *x, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += x[i];
    }
    return n > 0 ? sum / n : 0;
}

/* What routers have beside the common losses. */
static sy_status fill_router(sy_step_metrics *m, const sy_step_result *r)
{
    sy_status st = SY_OK;
    const sy_router_ops *router = sy_router_find(m->trainer->settings->moe->router);
    double tokens = r->routed_tokens > 0 ? (double)r->routed_tokens : 1;
    char key[64];
    if (router->host == NULL && router->losses == NULL) {
        return SY_OK;
    }
    SY_TRY(sy_metrics_set_f64(m->record, "moe/router_loss", layer_mean(m, r, SY_SUM_ROUTER)));
    if (router->metric != NULL) {
        snprintf(key, sizeof key, "moe/router_%s", router->metric);
        SY_TRY(sy_metrics_set_f64(m->record, key, layer_mean(m, r, SY_SUM_METRIC) / tokens));
    }
cleanup:
    return st;
}

/* Layers that take some of the tokens only. */
static sy_status fill_depth(sy_step_metrics *m, const sy_step_result *r)
{
    sy_status st = SY_OK;
    const sy_model_config *model = m->trainer->settings->model;
    const double tokens = r->routed_tokens > 0 ? (double)r->routed_tokens : 1;
    double loss = 0, right = 0, n = 0;
    for (int32_t i = 0; i < model->layers; i++) {
        const double *sums = r->sums + (int64_t)i * SY_N_SUMS;
        n += sy_depth_params(model, i) > 0;
        loss += sums[SY_SUM_DEPTH];
        right += sums[SY_SUM_DEPTH_RIGHT] / tokens;
    }
    if (n > 0) {
        SY_TRY(sy_metrics_set_f64(m->record, "depth/predictor_loss", loss / n));
        SY_TRY(sy_metrics_set_f64(m->record, "depth/predictor_accuracy", right / n));
    }
cleanup:
    return st;
}

/* Mean loss of each module that predicts further tokens, over the tokens that have a target. */
static sy_status fill_mtp(sy_step_metrics *m, const sy_step_result *r)
{
    sy_status st = SY_OK;
    char key[64];
    for (int32_t k = 0; k < m->trainer->settings->model->mtp_layers; k++) {
        const double *sums = r->mtp + (int64_t)k * SY_MTP_N_SUMS;
        const double n = sums[SY_MTP_TARGETS];
        snprintf(key, sizeof key, "train/mtp_loss_%d", k + 1);
        SY_TRY(sy_metrics_set_f64(m->record, key, n > 0 ? sums[SY_MTP_NLL] / n : 0));
    }
cleanup:
    return st;
}

static sy_status fill_moe(sy_step_metrics *m, const sy_step_result *r, sy_step_facts *facts)
{
    sy_status st = SY_OK;
    sy_metrics *rec = m->record;
    sy_health_figures figures;
    for (int32_t k = 0; k < m->n_layers; k++) {
        SY_TRY(fill_layer(m, r, k));
    }
    sy_health_observe(m->health,
                      &(sy_health_step){.load = m->routed_load,
                                        .dropped = m->dropped,
                                        .dropped_at = m->dropped_at,
                                        .entropy = m->entropy,
                                        .output_rms = m->output_rms},
                      NULL, NULL);
    figures = sy_health_last(m->health);
    SY_TRY(sy_metrics_set_f64(rec, "moe/aux_loss", layer_mean(m, r, SY_SUM_AUX)));
    SY_TRY(sy_metrics_set_f64(rec, "moe/z_loss", layer_mean(m, r, SY_SUM_Z)));
    SY_TRY(fill_router(m, r));
    SY_TRY(sy_metrics_set_f64(rec, "moe/drop_fraction", figures.drop_fraction));
    SY_TRY(sy_metrics_set_f64(rec, "moe/load_max_over_mean", figures.load_max_over_mean));
    SY_TRY(sy_metrics_set_f64(rec, "moe/router_entropy", mean_of(m->entropy, m->n_layers)));
    SY_TRY(sy_metrics_set_f64(rec, "moe/router_confidence", mean_of(m->confidence, m->n_layers)));
    SY_TRY(sy_metrics_set_f64(rec, "moe/output_rms", mean_of(m->output_rms, m->n_layers)));
    SY_TRY(sy_metrics_set_i64(rec, "moe/dead_experts", figures.dead_experts));
    SY_TRY(sy_metrics_set_f64(rec, "perf/dispatch_ms", 1e3 * r->dispatch_s));
    SY_TRY(sy_metrics_set_f64(rec, "perf/combine_ms", 1e3 * r->combine_s));
    SY_TRY(sy_metrics_set_f64(rec, "perf/experts_ms", 1e3 * r->experts_s));
    SY_TRY(sy_metrics_set_i64(rec, "perf/extra_passes", r->n_extra_passes));
    if (m->trainer->settings->moe->force_balance) {
        SY_TRY(sy_metrics_set_i64(rec, "moe/force_balance", 1));
    }
    facts->drop_fraction = figures.drop_fraction;
    facts->load_max_over_mean = figures.load_max_over_mean;
cleanup:
    return st;
}

static sy_status fill_perf(sy_step_metrics *m, const sy_step_result *r, double stall_s,
                           sy_step_facts *facts)
{
    sy_status st = SY_OK;
    sy_metrics *rec = m->record;
    double rate = (double)r->loss_tokens / r->step_s;
    SY_TRY(sy_metrics_set_f64(rec, "perf/tokens_per_s", rate));
    SY_TRY(sy_metrics_set_f64(rec, "perf/step_ms", 1e3 * r->step_s));
    SY_TRY(sy_metrics_set_f64(rec, "perf/data_wait_ms", 1e3 * r->data_wait_s));
    SY_TRY(sy_metrics_set_f64(rec, "perf/mfu",
                              m->peak_flops > 0 ? rate * m->flops_per_token / m->peak_flops : NAN));
    SY_TRY(sy_metrics_set_f64(rec, "perf/checkpoint_stall_ms", 1e3 * stall_s));
    SY_TRY(sy_metrics_set_f64(rec, "perf/compute_ms", 1e3 * r->compute_s));
    SY_TRY(sy_metrics_set_f64(rec, "perf/straggler_ratio", m->straggler_ratio));
    SY_TRY(sy_metrics_set_i64(rec, "mem/peak_bytes", sy_engine_peak_rss_bytes()));
    SY_TRY(sy__step_perf_fill(m, r));
    facts->step_ms = 1e3 * r->step_s;
    facts->tokens_per_s = rate;
cleanup:
    return st;
}

sy_status sy_step_metrics_fill(sy_step_metrics *m, const sy_step_result *r,
                               double checkpoint_stall_s, sy_step_facts *facts)
{
    sy_status st = SY_OK;
    sy_metrics *rec = m->record;
    const sy_train_counters *count = &m->trainer->count;
    *facts = (sy_step_facts){.loss = r->loss,
                             .grad_norm = r->grad_norm,
                             .lr = r->lr,
                             .drop_fraction = NAN,
                             .load_max_over_mean = NAN};
    sy_metrics_clear(rec);
    SY_TRY(sy_metrics_set_i64(rec, "tokens", count->tokens_seen));
    SY_TRY(sy_metrics_set_f64(rec, "time_s", m->time_offset_s + sy_clock_s() - m->start_s));
    SY_TRY(sy_metrics_set_f64(rec, "train/loss", r->loss));
    if (m->trainer->settings->model->output_z_loss_coeff > 0) {
        SY_TRY(sy_metrics_set_f64(rec, "train/output_z_loss", r->output_z));
    }
    SY_TRY(sy_metrics_set_f64(rec, "train/grad_norm", r->grad_norm));
    SY_TRY(sy_metrics_set_f64(rec, "train/lr", r->lr));
    if (m->trainer->settings->train->batch_ramp_from > 0) {
        SY_TRY(sy_metrics_set_i64(rec, "train/global_batch", r->n_sequences));
        facts->sequences = r->n_sequences;
    }
    SY_TRY(sy_metrics_set_i64(rec, "train/skipped_steps", count->skipped));
    SY_TRY(sy_metrics_set_i64(rec, "train/spikes", count->spikes));
    SY_TRY(sy_metrics_set_i64(rec, "train/rollbacks", count->rollbacks));
    SY_TRY(sy_metrics_set_i64(rec, "train/skipped_sequences", count->skipped_sequences));
    SY_TRY(fill_mtp(m, r));
    SY_TRY(fill_depth(m, r));
    if (m->n_layers > 0) {
        SY_TRY(fill_moe(m, r, facts));
    }
    SY_TRY(fill_perf(m, r, checkpoint_stall_s, facts));
cleanup:
    return st;
}

sy_status sy_step_metrics_probe(sy_step_metrics *m, const sy_probe *probe, double probe_s)
{
    sy_status st = SY_OK;
    char key[64];
    for (int32_t k = 0; k < probe->n_layers; k++) {
        snprintf(key, sizeof key, "moe/layer_%d/routing_overlap", m->layer[k]);
        SY_TRY(sy_metrics_set_f64(m->record, key, probe->overlap[k]));
    }
    SY_TRY(sy_metrics_set_f64(m->record, "moe/routing_overlap",
                              mean_of(probe->overlap, probe->n_layers)));
    SY_TRY(sy_metrics_set_f64(m->record, "perf/probe_ms", 1e3 * probe_s));
cleanup:
    return st;
}

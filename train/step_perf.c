/* Where the time and the memory went: the phases of a step, and the device's ledger. */
#include <stdio.h>

#include "core/clock.h"
#include "train/step_metrics_impl.h"

static sy_status fill_phases(sy_metrics *rec, const sy_step_times *t)
{
    sy_status st = SY_OK;
    SY_TRY(sy_metrics_set_f64(rec, "perf/forward_ms", 1e3 * t->forward_s));
    SY_TRY(sy_metrics_set_f64(rec, "perf/backward_ms", 1e3 * t->backward_s));
    SY_TRY(sy_metrics_set_f64(rec, "perf/grad_sync_wait_ms", 1e3 * t->grad_sync_wait_s));
    SY_TRY(sy_metrics_set_f64(rec, "perf/optimizer_ms", 1e3 * t->optimizer_s));
    SY_TRY(sy_metrics_set_f64(rec, "perf/param_gather_ms", 1e3 * t->param_gather_s));
    SY_TRY(sy_metrics_set_f64(rec, "perf/sync_ms", 1e3 * t->sync_s));
    SY_TRY(sy_metrics_set_f64(rec, "perf/digest_ms", 1e3 * t->digest_s));
cleanup:
    return st;
}

/* The most that was held at once for each purpose, on rank 0. */
static sy_status fill_memory(sy_metrics *rec, const sy_ledger *ledger)
{
    sy_status st = SY_OK;
    char key[64];
    for (int32_t tag = 0; tag < SY_N_MEM_TAGS; tag++) {
        if (ledger->peak[tag] > 0) {
            snprintf(key, sizeof key, "mem/%s_bytes", sy_mem_tag_name((sy_mem_tag)tag));
            SY_TRY(sy_metrics_set_i64(rec, key, ledger->peak[tag]));
        }
    }
cleanup:
    return st;
}

void sy_step_metrics_book(sy_step_metrics *metrics, double from_s)
{
    metrics->output_s += sy_clock_s() - from_s;
}

sy_status sy__step_perf_fill(sy_step_metrics *metrics, const sy_step_result *r)
{
    sy_status st = SY_OK;
    SY_TRY(fill_phases(metrics->record, &r->time));
    SY_TRY(sy_metrics_set_f64(metrics->record, "perf/metrics_ms", 1e3 * metrics->output_s));
    metrics->output_s = 0;
    SY_TRY(fill_memory(metrics->record, &metrics->trainer->engine->dev->ledger));
cleanup:
    return st;
}

#include "train/trouble.h"

#include <stdio.h>

#include "core/log.h"
#include "train/blame.h"

static void describe(const sy_trouble *t, char *buf, size_t buf_bytes)
{
    const char *what = t->kind == SY_TROUBLE_LOSS ? "loss" : "gradient norm";
    if (t->kind == SY_TROUBLE_NONFINITE) {
        snprintf(buf, buf_bytes, "loss or gradient norm is not finite");
    } else {
        snprintf(buf, buf_bytes, "the %s %.4g is %.1f standard deviations above its mean %.4g",
                 what, t->value, t->deviation > 0 ? (t->value - t->mean) / t->deviation : 0,
                 t->mean);
    }
}

sy_status sy_trouble_report(const sy_trainer *t, const sy_step_result *r)
{
    sy_status st = SY_OK;
    char what[160], blame[SY_BLAME_BYTES];
    SY_TRY(sy_blame(t, r, blame));
    describe(&r->trouble, what, sizeof what);
    const bool stops = r->trouble.kind == SY_TROUBLE_NONFINITE &&
                       t->settings->train->nonfinite == SY_NONFINITE_STOP;
    if (t->engine->mesh->host->rank == 0) {
        sy_warn("step %ld%s: %s; %s; sequences %ld to %ld of the data", (long)r->step,
                stops                           ? " stops the run"
                : r->verdict == SY_STEP_SKIPPED ? " skipped"
                                                : "",
                what, blame, (long)t->count.data_step,
                (long)(t->count.data_step + r->n_sequences - 1));
    }
cleanup:
    return st;
}

/* The last updates that were done, newest first. */
static void list_window(const sy_trainer *t, char *buf, size_t buf_bytes)
{
    const sy_spikes *s = &t->spikes;
    size_t used = 0;
    buf[0] = '\0';
    for (int64_t i = s->n - 1; i >= 0 && i > s->n - 9 && used < buf_bytes; i--) {
        used += (size_t)snprintf(buf + used, buf_bytes - used, " %.4g/%.4g",
                                 s->loss[i % SY_SPIKE_MEMORY], s->grad_norm[i % SY_SPIKE_MEMORY]);
    }
}

/* For whoever looks into it. */
static void dump(const sy_trainer *t, const sy_step_result *r)
{
    char window[8 * 32];
    list_window(t, window, sizeof window);
    if (t->engine->mesh->host->rank == 0) {
        sy_warn(
            "facts of step %ld: learning rate %.3g, loss %.6g, gradient norm %.6g, next sequence "
            "%ld, %ld tokens seen, %ld steps skipped, %ld spikes, %ld roll-backs",
            (long)r->step, r->lr, r->loss, r->grad_norm, (long)t->count.data_step,
            (long)t->count.tokens_seen, (long)t->count.skipped, (long)t->count.spikes,
            (long)t->count.rollbacks);
        sy_warn("loss/norm of the last updates, newest first:%s", window);
    }
}

sy_status sy_trouble_limit(const sy_trainer *t, const sy_step_result *r)
{
    sy_status st = SY_OK;
    const sy_train_config *c = t->settings->train;
    const sy_train_counters *n = &t->count;
    if (r->verdict != SY_STEP_SKIPPED) {
        return SY_OK;
    }
    SY_REQUIRE(r->trouble.kind != SY_TROUBLE_NONFINITE || c->nonfinite != SY_NONFINITE_STOP,
               SY_ERR_NUMERIC,
               "step %ld: the gradient norm is not finite, and train.nonfinite is stop",
               (long)r->step);
    if (c->skip_limit == 0 ||
        (n->skipped_in_row < c->skip_limit && n->rollbacks_in_row < c->skip_limit)) {
        return SY_OK;
    }
    dump(t, r);
    SY_REQUIRE(n->skipped_in_row < c->skip_limit, SY_ERR_NUMERIC,
               "step %ld: %ld steps one after another were skipped, which is train.skip_limit",
               (long)r->step, (long)n->skipped_in_row);
    SY_REQUIRE(false, SY_ERR_NUMERIC,
               "step %ld: after %ld roll-backs there was no new checkpoint, and train.skip_limit "
               "allows no more",
               (long)r->step, (long)n->rollbacks_in_row);
cleanup:
    return st;
}

void sy_train_skip_data(sy_trainer *t, int64_t n)
{
    t->count.data_step += n;
    t->count.skipped_sequences += n;
}

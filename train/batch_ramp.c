#include "train/batch_ramp.h"

#include <stdio.h>

/* Level i begins with the first step that has at least i R / n sequences before it. */
typedef struct ramp {
    int64_t n, sequences; /* increments; R. Both 0: none */
    int64_t from, by, to;
} ramp;

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static ramp ramp_of(const sy_run_settings *s)
{
    const sy_train_config *c = s->train;
    ramp r = {.to = c->global_batch};
    if (c->batch_ramp_from > 0) {
        r.from = c->batch_ramp_from;
        r.by = c->batch_ramp_by;
        r.n = (r.to - r.from) / r.by;
        r.sequences = ceil_div(c->batch_ramp_tokens, s->model->seq_len);
    }
    return r;
}

/* ceil((i + 1) R / n), without a product that could be too large. */
static int64_t level_end(const ramp *r, int64_t i)
{
    return (i + 1) * (r->sequences / r->n) + ceil_div((i + 1) * (r->sequences % r->n), r->n);
}

/* Steps of level i, where `seen` sequences lie before them: none where a step passed the level by.
 */
static int64_t level_steps(const ramp *r, int64_t i, int64_t seen)
{
    const int64_t missing = level_end(r, i) - seen;
    return missing > 0 ? ceil_div(missing, r->from + i * r->by) : 0;
}

/* Sequences of the first `steps` steps; *next: of the one behind them. Level by level: a ramp has
   fewer of them than its last batch has sequences. */
static int64_t walk(const ramp *r, int64_t steps, int64_t *next)
{
    int64_t done = 0, seen = 0;
    for (int64_t i = 0; i < r->n; i++) {
        const int64_t size = r->from + i * r->by, k = level_steps(r, i, seen);
        if (k > steps - done) {
            *next = size;
            return seen + (steps - done) * size;
        }
        done += k;
        seen += k * size;
    }
    *next = r->to;
    return steps - done > (INT64_MAX - seen) / r->to ? INT64_MAX : seen + (steps - done) * r->to;
}

int32_t sy_batch_ramp_size(const sy_run_settings *settings, int64_t step)
{
    const ramp r = ramp_of(settings);
    int64_t size = 0;
    (void)walk(&r, step - 1, &size);
    return (int32_t)size;
}

int64_t sy_batch_ramp_sequences(const sy_run_settings *settings, int64_t steps)
{
    const ramp r = ramp_of(settings);
    int64_t size = 0;
    return walk(&r, steps, &size);
}

int64_t sy_batch_ramp_steps(const sy_run_settings *settings)
{
    const ramp r = ramp_of(settings);
    int64_t done = 0, seen = 0;
    for (int64_t i = 0; i < r.n; i++) {
        const int64_t k = level_steps(&r, i, seen);
        done += k;
        seen += k * (r.from + i * r.by);
    }
    return done;
}

const char *sy_batch_ramp_format(const sy_run_settings *settings, int64_t steps, char *buf,
                                 size_t buf_bytes)
{
    const int32_t first = sy_batch_ramp_size(settings, 1);
    const int32_t last = sy_batch_ramp_size(settings, steps > 0 ? steps : 1);
    if (first == last) {
        snprintf(buf, buf_bytes, "%d", first);
    } else {
        snprintf(buf, buf_bytes, "%d to %d", first, last);
    }
    return buf;
}

/* ---- what cannot be ---- */

/* The divisor of n that is nearest to x, the smaller of two; 1 divides all. */
static int32_t nearest_divisor(int32_t n, int32_t x)
{
    for (int32_t d = 0;; d++) {
        if (x - d >= 1 && x - d <= n && n % (x - d) == 0) {
            return x - d;
        }
        if (x + d >= 1 && x + d <= n && n % (x + d) == 0) {
            return x + d;
        }
    }
}

/* What a ramp would need, and nothing that it begins with: written down as 0, it is not wanted. */
static sy_status check_none(const sy_run_settings *s)
{
    const sy_train_config *c = s->train;
    const char *key = c->batch_ramp_tokens > 0 ? "train.batch_ramp_tokens"
                      : c->batch_ramp_by > 0   ? "train.batch_ramp_by"
                                               : NULL;
    if (key == NULL || sy_config_was_set(s->config, "train.batch_ramp_from")) {
        return SY_OK;
    }
    return sy_config_error(s->config, key,
                           "%s without train.batch_ramp_from says nothing; set that too, or leave "
                           "it out",
                           key);
}

sy_status sy_batch_ramp_check(const sy_run_settings *s)
{
    sy_status st = SY_OK;
    const sy_train_config *c = s->train;
    const int32_t from = c->batch_ramp_from, all = c->global_batch - from;
    if (from == 0) {
        return check_none(s);
    }
    if (all <= 0) {
        SY_TRY(sy_config_error(s->config, "train.batch_ramp_from",
                               "train.batch_ramp_from %d is not below train.global_batch %d, to "
                               "which the batch would grow; 0 trains without a ramp",
                               from, c->global_batch));
    }
    if (c->batch_ramp_by == 0 || all % c->batch_ramp_by != 0) {
        SY_TRY(sy_config_error(s->config, "train.batch_ramp_by",
                               "train.batch_ramp_by %d does not divide the %d sequences from "
                               "train.batch_ramp_from %d to train.global_batch %d; the nearest "
                               "that does is %d",
                               c->batch_ramp_by, all, from, c->global_batch,
                               nearest_divisor(all, c->batch_ramp_by)));
    }
    const int64_t first = (int64_t)from * s->model->seq_len;
    if (c->batch_ramp_tokens < first) {
        SY_TRY(sy_config_error(s->config, "train.batch_ramp_tokens",
                               "train.batch_ramp_tokens %ld is less than the first step, whose %d "
                               "sequences are %ld tokens; the least that makes a ramp is %ld",
                               (long)c->batch_ramp_tokens, from, (long)first, (long)first));
    }
cleanup:
    return st;
}

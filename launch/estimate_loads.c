/* How unevenly a run of the same model dealt its tokens to ranks: from the loads of its metrics. */
#include <stdio.h>

#include "core/alloc.h"
#include "launch/estimate_impl.h"

/* moe/layer_<i>/load, or NULL. */
static const sy_series *loads_of(const sy_series *s)
{
    int32_t layer = 0;
    int n_read = 0;
    const bool is_load = s->width > 0 && s->n > 0 &&
                         sscanf(s->key, "moe/layer_%7d/load%n", &layer, &n_read) == 1 &&
                         n_read > 0 && s->key[n_read] == '\0';
    return is_load ? s : NULL;
}

sy_status sy__estimate_loads_read(const char *run_dir, int32_t experts, sy_metrics_log *out)
{
    sy_status st = SY_OK;
    sy_metrics_log log = {0};
    char *path = NULL;
    bool found = false;
    SY_TRY(sy_asprintf(&path, "%s/metrics.jsonl", run_dir));
    SY_TRY(sy_metrics_log_read(path, &log));
    for (int32_t i = 0; i < log.n; i++) {
        const sy_series *s = loads_of(&log.series[i]);
        found = found || s != NULL;
        SY_REQUIRE(s == NULL || s->width == experts, SY_ERR_USAGE,
                   "--loads: '%s' is of a model with %d experts, moe.experts is %d", path, s->width,
                   experts);
    }
    SY_REQUIRE(found, SY_ERR_USAGE, "--loads: '%s' holds no loads of experts", path);
    *out = log;
    log = (sy_metrics_log){0};
cleanup:
    sy_metrics_log_free(&log);
    sy_free(&path);
    return st;
}

/* Of the rank with most rows over the mean; 0 where there were none. */
static double uneven(const double *load, int32_t experts, int32_t ep)
{
    const int32_t mine = experts / ep;
    double most = 0, all = 0;
    for (int32_t r = 0; r < ep; r++) {
        double sum = 0;
        for (int32_t e = 0; e < mine; e++) {
            sum += load[r * mine + e];
        }
        most = sum > most ? sum : most;
        all += sum;
    }
    return all > 0 ? most * ep / all : 0;
}

double sy__estimate_uneven(const sy_metrics_log *log, int32_t ep)
{
    double sum = 0, n = 0;
    for (int32_t i = 0; i < log->n; i++) {
        const sy_series *s = loads_of(&log->series[i]);
        for (int32_t k = s != NULL ? s->n / 2 : 0; s != NULL && k < s->n; k++) {
            const double x = uneven(s->row + (int64_t)k * s->width, s->width, ep);
            sum += x > 0 ? (double)s->point[k].n * x : 0;
            n += x > 0 ? (double)s->point[k].n : 0;
        }
    }
    return n > 0 ? sum / n : 1;
}

/* Which curves there are: losses above all, then whatever else the logs hold. One run: related
   curves share a figure. Several: a figure per metric, a line per run. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "report/html_impl.h"

enum { KEYS = 6, ZOOM_FROM = 60, TITLE_BYTES = 160 };

typedef struct chart_spec {
    const char *title, *unit;
    double scale;
    sy__unit format;
    bool from_zero, is_exact;
    double even; /* a dashed line; 0: none */
    struct {
        const char *key, *label;
    } line[KEYS];
} chart_spec;

static const chart_spec routing[] = {
    {.title = "Expert load",
     .unit = "fullest expert over the mean; dashed: even",
     .scale = 1,
     .even = 1,
     .line = {{"moe/load_max_over_mean", "max / mean"}}},
    {.title = "Dropped rows",
     .unit = "% of routed rows",
     .scale = 100,
     .from_zero = true,
     .line = {{"moe/drop_fraction", "dropped"}}},
    {.title = "Router entropy",
     .unit = "nats per token",
     .scale = 1,
     .line = {{"moe/router_entropy", "entropy"}}},
    {.title = "Router confidence",
     .unit = "mean of the largest score, %",
     .scale = 100,
     .line = {{"moe/router_confidence", "confidence"}}},
    {.title = "Overlap with earlier routing",
     .unit = "% of the choices",
     .scale = 100,
     .line = {{"moe/routing_overlap", "overlap"}}},
    {.title = "Experts' output",
     .unit = "root mean square",
     .scale = 1,
     .line = {{"moe/output_rms", "RMS"}}},
    {.title = "Experts without a token",
     .unit = "count per step, all layers",
     .scale = 1,
     .from_zero = true,
     .line = {{"moe/dead_experts", "experts"}}},
    {.title = "Auxiliary losses",
     .unit = "",
     .scale = 1,
     .line = {{"moe/aux_loss", "load balance"}, {"moe/z_loss", "router z"}}},
};

static const chart_spec optimization[] = {
    {.title = "Gradient norm",
     .unit = "before clipping",
     .scale = 1,
     .line = {{"train/grad_norm", "norm"}}},
    {.title = "Learning rate",
     .unit = "",
     .scale = 1,
     .from_zero = true,
     .is_exact = true,
     .line = {{"train/lr", "rate"}}},
};

static const chart_spec speed[] = {
    {.title = "Throughput",
     .unit = "tokens per second",
     .scale = 1,
     .format = SY__COUNT,
     .from_zero = true,
     .line = {{"perf/tokens_per_s", "tokens/s"}}},
    {.title = "Model FLOPs utilisation",
     .unit = "% of the measured matrix-product peak",
     .scale = 100,
     .from_zero = true,
     .line = {{"perf/mfu", "utilisation"}}},
    {.title = "Step time",
     .unit = "ms",
     .scale = 1,
     .from_zero = true,
     .line = {{"perf/step_ms", "step"}}},
    {.title = "Waiting",
     .unit = "ms per step",
     .scale = 1,
     .from_zero = true,
     .line = {{"perf/data_wait_ms", "for data"},
              {"perf/checkpoint_stall_ms", "for checkpoints"},
              {"perf/sync_ms", "for other ranks"},
              {"perf/metrics_ms", "metrics output"}}},
};

static bool has_numbers(const sy_series *series)
{
    return series != NULL && series->width == 0 && series->n > 0;
}

/* One metric of every run that has it. */
static int32_t lines_of_runs(const sy__page *page, const char *key, double scale,
                             sy__line_of line[SY__LINES_MAX])
{
    int32_t n = 0;
    for (int32_t r = 0; r < page->n_runs; r++) {
        const sy_series *series = sy_metrics_log_find(page->run[r].log, key);
        if (has_numbers(series)) {
            line[n++] = (sy__line_of){series, page->run[r].name, -1, scale, r};
        }
    }
    return n;
}

static sy__chart chart_of(const chart_spec *spec, const char *title)
{
    return (sy__chart){.title = title,
                       .unit = spec->unit,
                       .format = spec->format,
                       .from_zero = spec->from_zero,
                       .is_exact = spec->is_exact,
                       .even = spec->even > 0 ? spec->even : NAN};
}

static sy_status write_spec(const sy__page *page, const chart_spec *spec)
{
    sy_status st = SY_OK;
    sy__line_of line[SY__LINES_MAX];
    int32_t n = 0;
    for (int32_t i = 0; i < KEYS && spec->line[i].key != NULL && page->n_runs == 1; i++) {
        const sy_series *series = sy_metrics_log_find(page->log, spec->line[i].key);
        if (has_numbers(series)) {
            line[n++] = (sy__line_of){series, spec->line[i].label, -1, spec->scale, i};
        }
    }
    sy__chart chart = chart_of(spec, spec->title);
    SY_TRY(sy__page_chart(page, &chart, line, n));
    for (int32_t i = 0; i < KEYS && spec->line[i].key != NULL && page->n_runs > 1; i++) {
        char title[TITLE_BYTES];
        snprintf(title, sizeof title, spec->line[1].key != NULL ? "%s: %s" : "%s", spec->title,
                 spec->line[i].label);
        chart = chart_of(spec, title);
        n = lines_of_runs(page, spec->line[i].key, spec->scale, line);
        SY_TRY(sy__page_chart(page, &chart, line, n));
    }
cleanup:
    return st;
}

/* Does any run have any of these? */
static bool is_there(const sy__page *page, const chart_spec *spec, size_t n)
{
    sy__line_of line[SY__LINES_MAX];
    for (size_t i = 0; i < n; i++) {
        for (int32_t k = 0; k < KEYS && spec[i].line[k].key != NULL; k++) {
            if (lines_of_runs(page, spec[i].line[k].key, 1, line) > 0) {
                return true;
            }
        }
    }
    return false;
}

static sy_status write_group(const sy__page *page, const char *name, const chart_spec *spec,
                             size_t n)
{
    sy_status st = SY_OK;
    if (is_there(page, spec, n)) {
        sy_text_printf(page->out, "<section>\n<h2>%s</h2>\n<div class=\"grid2\">\n", name);
        for (size_t i = 0; i < n; i++) {
            SY_TRY(write_spec(page, &spec[i]));
        }
        sy_text_puts(page->out, "</div>\n</section>\n");
    }
cleanup:
    return st;
}

/* ---- losses ---- */

static sy__chart loss_chart(const char *title)
{
    return (sy__chart){
        .title = title, .unit = "nats per token", .is_wide = true, .is_loss = true, .even = NAN};
}

/* Training loss and every validation loss of a run in one figure. */
static int32_t losses_of(const sy_metrics_log *log, sy__line_of line[SY__LINES_MAX])
{
    int32_t n = 0;
    const sy_series *train = sy_metrics_log_find(log, "train/loss");
    if (has_numbers(train)) {
        line[n++] = (sy__line_of){train, "train", -1, 1, 0};
    }
    for (int32_t i = 0; i < log->n && n < SY__LINES_MAX; i++) {
        const sy_series *series = &log->series[i];
        const char *name;
        int32_t name_bytes;
        if (has_numbers(series) && sy__is_valid_loss(series->key, &name, &name_bytes)) {
            line[n] = (sy__line_of){series, name, name_bytes, 1, n > 0 ? n : 1};
            n++;
        }
    }
    return n;
}

/* The steep start presses what comes after it into a line: the second half once more. */
static sy_status write_losses(const sy__page *page, const char *title, const sy__line_of *line,
                              int32_t n)
{
    sy_status st = SY_OK;
    char zoom[TITLE_BYTES];
    sy__chart chart = loss_chart(title);
    SY_TRY(sy__page_chart(page, &chart, line, n));
    if (n > 0 && line[0].series->n_values >= ZOOM_FROM) {
        snprintf(zoom, sizeof zoom, "%s, second half", title);
        chart = loss_chart(zoom);
        chart.x_lo = floor((page->x_lo + page->x_hi) / 2);
        SY_TRY(sy__page_chart(page, &chart, line, n));
    }
cleanup:
    return st;
}

/* Each data set with a line per run. The sets are those of all runs, in the order in which they
 * turn up. */
static sy_status write_sets(const sy__page *page)
{
    sy_status st = SY_OK;
    sy__line_of line[SY__LINES_MAX];
    int32_t n = lines_of_runs(page, "train/loss", 1, line);
    SY_TRY(write_losses(page, "Training loss", line, n));
    for (int32_t r = 0; r < page->n_runs; r++) {
        for (int32_t i = 0; i < page->run[r].log->n; i++) {
            const char *key = page->run[r].log->series[i].key, *name;
            int32_t name_bytes;
            char title[TITLE_BYTES];
            bool is_seen = false;
            for (int32_t before = 0; before < r; before++) {
                is_seen = is_seen || has_numbers(sy_metrics_log_find(page->run[before].log, key));
            }
            if (!is_seen && sy__is_valid_loss(key, &name, &name_bytes)) {
                n = lines_of_runs(page, key, 1, line);
                snprintf(title, sizeof title, "Loss on %.*s", name_bytes, name);
                SY_TRY(write_losses(page, title, line, n));
            }
        }
    }
cleanup:
    return st;
}

sy_status sy__page_losses(const sy__page *page)
{
    sy_status st = SY_OK;
    sy__line_of line[SY__LINES_MAX];
    sy_text_puts(page->out, "<section>\n<h2>Loss</h2>\n<p class=\"note\">Lines of many points are "
                            "moving medians; faint: as logged.</p>\n");
    if (page->n_runs > 1) {
        SY_TRY(write_sets(page));
    } else {
        int32_t n = losses_of(page->log, line);
        SY_TRY(write_losses(page, "Loss", line, n));
        if (n == 0) {
            sy_text_puts(page->out, "<p class=\"empty\">No loss has been logged.</p>\n");
        }
    }
    sy_text_puts(page->out, "</section>\n");
cleanup:
    return st;
}

sy_status sy__page_routing(const sy__page *page)
{
    return write_group(page, "Routing", routing, sizeof routing / sizeof routing[0]);
}

sy_status sy__page_optimization(const sy__page *page)
{
    return write_group(page, "Optimization", optimization,
                       sizeof optimization / sizeof optimization[0]);
}

sy_status sy__page_speed(const sy__page *page)
{
    return write_group(page, "Speed", speed, sizeof speed / sizeof speed[0]);
}

sy_status sy__page_shares(const sy__page *page, const char *title, const sy_series *const *series,
                          const char *const *label, int32_t n, double even)
{
    sy__line_of line[SY__LINES_MAX];
    n = n < SY__LINES_MAX ? n : SY__LINES_MAX;
    for (int32_t i = 0; i < n; i++) {
        line[i] = (sy__line_of){series[i], label[i], -1, 100, i};
    }
    sy__chart chart = {
        .title = title, .unit = "% of the choices", .from_zero = true, .even = 100 * even};
    return sy__page_chart(page, &chart, line, n);
}

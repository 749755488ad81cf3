/* The curves: loss above all, then whatever else the log holds. Long series are drawn as a mean
 * within its range. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "report/html_impl.h"
#include "report/svg.h"

enum { LINES_MAX = 6, DRAWN_MAX = 400, DOTS_MAX = 60, HITS = 72, VALUE_BYTES = 48 };

/* A series as it is drawn: at most DRAWN_MAX points. */
typedef struct curve {
    const sy_series *series;
    const char *label;
    int32_t label_bytes; /* -1: all of label */
    double scale;
    int32_t n;
    double x[DRAWN_MAX], mean[DRAWN_MAX], min[DRAWN_MAX], max[DRAWN_MAX];
    bool is_merged;
} curve;

typedef struct chart_line {
    const char *key, *label;
} chart_line;

typedef struct chart_spec {
    const char *title, *unit;
    double scale;
    sy__unit format;
    bool from_zero;
    chart_line line[LINES_MAX];
} chart_spec;

static const chart_spec charts[] = {
    {"Expert load",
     "fullest expert over the mean; dashed: even",
     1,
     SY__PLAIN,
     false,
     {{"moe/load_max_over_mean", "max / mean"}}},
    {"Dropped rows", "% of routed rows", 100, SY__PLAIN, true, {{"moe/drop_fraction", "dropped"}}},
    {"Router entropy", "nats per token", 1, SY__PLAIN, false, {{"moe/router_entropy", "entropy"}}},
    {"Experts without a token",
     "count per step, all layers",
     1,
     SY__PLAIN,
     true,
     {{"moe/dead_experts", "experts"}}},
    {"Auxiliary losses",
     "",
     1,
     SY__PLAIN,
     false,
     {{"moe/aux_loss", "load balance"}, {"moe/z_loss", "router z"}}},
    {"Gradient norm", "before clipping", 1, SY__PLAIN, false, {{"train/grad_norm", "norm"}}},
    {"Learning rate", "", 1, SY__PLAIN, true, {{"train/lr", "rate"}}},
    {"Throughput", "tokens per second", 1, SY__COUNT, true, {{"perf/tokens_per_s", "tokens/s"}}},
    {"Step time",
     "ms",
     1,
     SY__PLAIN,
     true,
     {{"perf/step_ms", "step"},
      {"perf/experts_ms", "experts"},
      {"perf/dispatch_ms", "dispatch"},
      {"perf/combine_ms", "combine"},
      {"perf/checkpoint_stall_ms", "checkpoint"}}},
    {"Model FLOPs utilisation",
     "% of the measured matrix-product peak",
     100,
     SY__PLAIN,
     true,
     {{"perf/mfu", "utilisation"}}},
    {"Peak memory", "GiB", 1.0 / (1 << 30), SY__PLAIN, true, {{"mem/peak_bytes", "peak"}}},
};

/* Fill a curve: runs of neighbouring points are merged by the number of values behind them. */
static void draw_in(curve *c, const sy_series *series, double scale)
{
    int32_t stride = (series->n + DRAWN_MAX - 1) / DRAWN_MAX;
    c->series = series;
    c->scale = scale;
    c->n = 0;
    for (int32_t i = 0; i < series->n; i += stride) {
        double weight = 0, mean = 0, min = INFINITY, max = -INFINITY;
        int32_t end = i + stride < series->n ? i + stride : series->n;
        for (int32_t j = i; j < end; j++) {
            const sy_series_point *p = &series->point[j];
            mean += (double)p->n * p->mean;
            weight += (double)p->n;
            min = fmin(min, p->min);
            max = fmax(max, p->max);
        }
        sy_series_point span = {.first = series->point[i].first,
                                .last = series->point[end - 1].last};
        c->x[c->n] = sy_series_step(&span);
        c->mean[c->n] = scale * mean / weight;
        c->min[c->n] = scale * min;
        c->max[c->n] = scale * max;
        c->is_merged = c->is_merged || weight > 1;
        c->n++;
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The height of the figure: all values, unless a few outliers would press the rest into a line.
   Returns whether some lie outside. */
static bool fit_y(const curve *line, int32_t n_lines, bool from_zero, double *lo, double *hi)
{
    double sorted[LINES_MAX * DRAWN_MAX];
    int32_t n = 0;
    double top = -INFINITY, bottom = from_zero ? 0 : INFINITY;
    for (int32_t l = 0; l < n_lines; l++) {
        for (int32_t i = 0; i < line[l].n; i++) {
            sorted[n++] = line[l].mean[i];
            top = fmax(top, line[l].max[i]);
            bottom = fmin(bottom, line[l].min[i]);
        }
    }
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    double usual = sorted[(int32_t)(0.98 * (n - 1))] - bottom;
    bool is_cut = n >= 20 && usual > 0 && top - bottom > 5 * usual;
    *lo = bottom;
    *hi = is_cut ? bottom + 2 * usual : top;
    return is_cut;
}

static void write_name(sy_text *out, const curve *c)
{
    char name[128];
    snprintf(name, sizeof name, "%.*s", c->label_bytes < 0 ? 127 : c->label_bytes, c->label);
    sy_text_html(out, name);
}

static void write_head(sy_text *out, const char *title, const char *unit, const curve *line,
                       int32_t n_lines)
{
    sy_text_puts(out, "<div class=\"head\"><h3>");
    sy_text_html(out, title);
    sy_text_puts(out, "</h3><span class=\"unit\">");
    sy_text_html(out, unit);
    sy_text_puts(out, "</span>");
    if (n_lines > 1) {
        sy_text_puts(out, "<span class=\"legend\">");
        for (int32_t l = 0; l < n_lines; l++) {
            sy_text_printf(out, "<span><i class=\"c%d\"></i>", l);
            write_name(out, &line[l]);
            sy_text_puts(out, "</span>");
        }
        sy_text_puts(out, "</span>");
    }
    sy_text_puts(out, "</div>\n");
}

/* The value of a curve nearest to a step, if it has one within reach. */
static int32_t nearest(const curve *c, double x, double reach)
{
    int32_t best = -1;
    for (int32_t i = 0; i < c->n; i++) {
        if (fabs(c->x[i] - x) <= reach && (best < 0 || fabs(c->x[i] - x) < fabs(c->x[best] - x))) {
            best = i;
        }
    }
    return best;
}

/* Strips that show their figures when the pointer rests on them. */
static void write_hits(sy_text *out, const sy_svg_plot *plot, const curve *line, int32_t n_lines,
                       sy__unit format)
{
    char value[VALUE_BYTES];
    double width = (plot->x.to - plot->x.from) / HITS, reach = (plot->x.hi - plot->x.lo) / HITS / 2;
    for (int32_t h = 0; h < HITS; h++) {
        double x = plot->x.lo + (h + 0.5) * 2 * reach;
        bool is_open = false;
        for (int32_t l = 0; l < n_lines; l++) {
            int32_t i = nearest(&line[l], x, reach);
            if (i < 0) {
                continue;
            }
            if (!is_open) {
                sy_text_printf(out,
                               "<rect class=\"hit\" x=\"%.1f\" y=\"%.0f\" width=\"%.1f\" "
                               "height=\"%.0f\"><title>step %.0f",
                               plot->x.from + h * width, plot->y.to, width,
                               plot->y.from - plot->y.to, line[l].x[i]);
                is_open = true;
            }
            sy_text_puts(out, "\n");
            write_name(out, &line[l]);
            sy_text_printf(out, " %s",
                           sy__format_value(line[l].mean[i], format, value, sizeof value));
        }
        sy_text_puts(out, is_open ? "</title></rect>\n" : "");
    }
}

/* A moving median over about a fiftieth of the points on either side, fewer near the ends: it
   neither lags behind a steep start nor follows a spike. */
static void smooth(const curve *c, double *out)
{
    double sorted[DRAWN_MAX];
    for (int32_t i = 0; i < c->n; i++) {
        int32_t room = i < c->n - 1 - i ? i : c->n - 1 - i;
        int32_t reach = c->n / 50 < room ? c->n / 50 : room;
        memcpy(sorted, &c->mean[i - reach], (size_t)(2 * reach + 1) * sizeof *sorted);
        qsort(sorted, (size_t)(2 * reach + 1), sizeof *sorted, by_value);
        out[i] = sorted[reach];
    }
}

static void write_curve(sy_text *out, const sy_svg_plot *plot, const curve *c, int32_t colour,
                        bool is_smooth)
{
    char css[24];
    double soft[DRAWN_MAX];
    snprintf(css, sizeof css, "c%d", colour);
    if (c->is_merged) {
        sy_svg_band(out, plot, c->x, c->min, c->max, c->n, css);
    }
    sy_svg_line(out, plot, c->x, c->mean, c->n, is_smooth ? "c0 faint" : css);
    if (is_smooth) {
        smooth(c, soft);
        sy_svg_line(out, plot, c->x, soft, c->n, css);
    }
    /* A value every pixel needs no mark; a few values, far apart, are points first and a line
     * second. */
    if (c->n <= DOTS_MAX && c->series->n_values <= DOTS_MAX) {
        sy_svg_dots(out, plot, c->x, c->mean, c->n, css);
    }
}

typedef struct chart {
    const char *title, *unit, *css;
    double width, height;
    sy__unit format;
    bool from_zero, is_loss;
    double even; /* a dashed line for comparison; NaN: none */
    const curve *line;
    int32_t n_lines;
} chart;

static void write_outside(const sy__page *page, const chart *c)
{
    char value[VALUE_BYTES], step[VALUE_BYTES];
    const curve *line = c->line;
    int32_t best_l = 0, best_i = 0;
    for (int32_t l = 0; l < c->n_lines; l++) {
        for (int32_t i = 0; i < line[l].n; i++) {
            if (line[l].max[i] > line[best_l].max[best_i]) {
                best_l = l;
                best_i = i;
            }
        }
    }
    sy_text_printf(page->out,
                   "<p class=\"foot\">Some values lie above the figure: the highest, %s, near "
                   "step %s.</p>\n",
                   sy__format_value(line[best_l].max[best_i], c->format, value, sizeof value),
                   sy__format_step((int64_t)line[best_l].x[best_i], step, sizeof step));
}

static void write_chart(const sy__page *page, const chart *c)
{
    sy_text *out = page->out;
    double lo, hi;
    bool is_cut = fit_y(c->line, c->n_lines, c->from_zero, &lo, &hi);
    if (!isnan(c->even)) {
        hi = fmax(hi, c->even);
        lo = fmin(lo, c->even);
    }
    bool is_log = !c->from_zero && !c->is_loss && lo > 0 && hi / lo > 100;
    if (!is_log) {
        double pad = 0.06 * (hi - lo);
        hi = c->from_zero && hi <= 0 ? 1 : hi + pad;
        lo = c->from_zero ? lo : lo - pad;
    }
    sy_svg_plot plot =
        sy_svg_plot_make(c->width, c->height, page->x_lo, page->x_hi, lo, hi, is_log);
    plot.name = c->title;
    sy_text_printf(out, "<div class=\"%s\">\n", c->css);
    write_head(out, c->title, c->unit, c->line, c->n_lines);
    sy_svg_open(out, &plot);
    if (!isnan(c->even)) {
        sy_text_printf(out, "<path class=\"even\" d=\"M%.0f %.1fH%.0f\"/>\n", plot.x.from,
                       sy_svg_place(&plot.y, c->even), plot.x.to);
    }
    for (int32_t l = 0; l < c->n_lines; l++) {
        write_curve(out, &plot, &c->line[l], l, c->is_loss && l == 0 && c->line[l].n >= 100);
    }
    write_hits(out, &plot, c->line, c->n_lines, c->format);
    sy_svg_close(out);
    if (is_cut) {
        write_outside(page, c);
    }
    sy_text_puts(out, "</div>\n");
}

/* Training loss and every validation loss in one figure. */
static void write_losses(const sy__page *page, curve *line)
{
    int32_t n = 0;
    const sy_series *train = sy_metrics_log_find(page->log, "train/loss");
    if (train != NULL && train->width == 0 && train->n > 0) {
        line[n].label = "train";
        line[n].label_bytes = -1;
        draw_in(&line[n++], train, 1);
    }
    bool has_train = n > 0;
    for (int32_t i = 0; i < page->log->n && n < LINES_MAX; i++) {
        const sy_series *series = &page->log->series[i];
        if (series->width == 0 && series->n > 0 &&
            sy__is_valid_loss(series->key, &line[n].label, &line[n].label_bytes)) {
            draw_in(&line[n++], series, 1);
        }
    }
    if (n == 0) {
        sy_text_puts(page->out, "<p class=\"empty\">No loss has been logged.</p>\n");
        return;
    }
    bool is_smooth = has_train && line[0].n >= 100;
    chart c = {.title = "Loss",
               .unit = is_smooth ? "nats per token; training: moving median, faint: as logged"
                                 : "nats per token",
               .css = "card wide",
               .width = 1056,
               .height = 330,
               .is_loss = has_train,
               .even = NAN,
               .line = line,
               .n_lines = n};
    write_chart(page, &c);
}

static void write_one(const sy__page *page, const chart_spec *spec, curve *line)
{
    int32_t n = 0;
    for (int32_t i = 0; i < LINES_MAX && spec->line[i].key != NULL; i++) {
        const sy_series *series = sy_metrics_log_find(page->log, spec->line[i].key);
        if (series != NULL && series->width == 0 && series->n > 0) {
            line[n].label = spec->line[i].label;
            line[n].label_bytes = -1;
            draw_in(&line[n++], series, spec->scale);
        }
    }
    if (n == 0) {
        return;
    }
    chart c = {.title = spec->title,
               .unit = spec->unit,
               .css = "card",
               .width = 520,
               .height = 220,
               .format = spec->format,
               .from_zero = spec->from_zero,
               .even = NAN,
               .line = line,
               .n_lines = n};
    if (strcmp(spec->line[0].key, "moe/load_max_over_mean") == 0) {
        c.even = 1;
    }
    write_chart(page, &c);
}

sy_status sy__page_charts(const sy__page *page)
{
    sy_status st = SY_OK;
    curve *line = NULL;
    SY_TRY(sy_alloc(LINES_MAX, sizeof *line, (void **)&line));
    if (page->log->n_lines > 0) {
        sy_text_puts(page->out, "<section>\n<h2>Curves</h2>\n");
        write_losses(page, line);
        sy_text_puts(page->out, "<div class=\"grid2\">\n");
        for (size_t i = 0; i < sizeof charts / sizeof charts[0]; i++) {
            memset(line, 0, LINES_MAX * sizeof *line);
            write_one(page, &charts[i], line);
        }
        sy_text_puts(page->out, "</div>\n</section>\n");
    }
cleanup:
    sy_free(&line);
    return st;
}

sy_status sy__page_shares(const sy__page *page, const char *title, const sy_series *const *series,
                          const char *const *label, int32_t n, double even)
{
    sy_status st = SY_OK;
    curve *line = NULL;
    SY_TRY(sy_alloc(LINES_MAX, sizeof *line, (void **)&line));
    n = n < LINES_MAX ? n : LINES_MAX;
    for (int32_t i = 0; i < n; i++) {
        line[i].label = label[i];
        line[i].label_bytes = -1;
        draw_in(&line[i], series[i], 100);
    }
    write_chart(page, &(chart){.title = title,
                               .unit = "% of the choices",
                               .css = "card",
                               .width = 520,
                               .height = 220,
                               .from_zero = true,
                               .even = 100 * even,
                               .line = line,
                               .n_lines = n});
cleanup:
    sy_free(&line);
    return st;
}

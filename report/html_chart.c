/* One figure: lines over steps, smoothed where they are long, their values under the pointer. Long
   series are drawn as a mean within its range. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "report/html_impl.h"
#include "report/svg.h"

enum { DRAWN_MAX = 400, DOTS_MAX = 60, SMOOTH_FROM = 100, HITS = 72, VALUE_BYTES = 48 };

/* A line as it is drawn: at most DRAWN_MAX points. */
typedef struct curve {
    const sy__line_of *line;
    int32_t n;
    double x[DRAWN_MAX], mean[DRAWN_MAX], min[DRAWN_MAX], max[DRAWN_MAX];
    bool is_merged;
} curve;

/* Fill a curve with the points from step x_lo on: runs of neighbouring points are merged by the
   number of values behind them. */
static void draw_in(curve *c, const sy__line_of *line, double x_lo)
{
    const sy_series *series = line->series;
    const double scale = line->scale;
    int32_t first = 0;
    while (first < series->n && (double)series->point[first].last < x_lo) {
        first++;
    }
    int32_t stride = (series->n - first + DRAWN_MAX - 1) / DRAWN_MAX;
    c->line = line;
    for (int32_t i = first; i < series->n; i += stride) {
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
    double sorted[SY__LINES_MAX * DRAWN_MAX];
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
    snprintf(name, sizeof name, "%.*s", c->line->label_bytes < 0 ? 127 : c->line->label_bytes,
             c->line->label);
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
            sy_text_printf(out, "<span><i class=\"c%d\"></i>", line[l].line->colour);
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

/* "step 120" and a line per curve, beside the pointer. */
static void write_tip(sy_text *out, const sy_svg_plot *plot, const curve *line, int32_t n_lines,
                      const int32_t *at, sy__unit format)
{
    char value[VALUE_BYTES];
    double x = 0;
    for (int32_t l = 0; l < n_lines; l++) {
        x = at[l] >= 0 ? line[l].x[at[l]] : x;
    }
    double px = sy_svg_place(&plot->x, x);
    bool is_right = px > (plot->x.from + plot->x.to) / 2;
    sy_text_printf(out, "<path d=\"M%.1f %.0fV%.0f\"/>", px, plot->y.to, plot->y.from);
    for (int32_t l = 0; l < n_lines; l++) {
        if (at[l] >= 0) {
            sy_text_printf(out, "<circle class=\"c%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>",
                           line[l].line->colour, sy_svg_place(&plot->x, line[l].x[at[l]]),
                           sy_svg_place(&plot->y, line[l].mean[at[l]]));
        }
    }
    double text_x = px + (is_right ? -7 : 7);
    sy_text_printf(out, "<text x=\"%.1f\" y=\"%.0f\"%s>step %s", text_x, plot->y.to + 9,
                   is_right ? " text-anchor=\"end\"" : "",
                   sy__format_step((int64_t)x, value, sizeof value));
    for (int32_t l = 0; l < n_lines; l++) {
        if (at[l] >= 0) {
            sy_text_printf(out, "<tspan x=\"%.1f\" dy=\"14\">", text_x);
            write_name(out, &line[l]);
            sy_text_printf(out, " %s</tspan>",
                           sy__format_value(line[l].mean[at[l]], format, value, sizeof value));
        }
    }
    sy_text_puts(out, "</text>");
}

/* Strips that show their figures while the pointer, or a finger, is on them. */
static void write_hits(sy_text *out, const sy_svg_plot *plot, const curve *line, int32_t n_lines,
                       sy__unit format)
{
    double width = (plot->x.to - plot->x.from) / HITS, reach = (plot->x.hi - plot->x.lo) / HITS / 2;
    int32_t at[SY__LINES_MAX];
    for (int32_t h = 0; h < HITS; h++) {
        double x = plot->x.lo + (h + 0.5) * 2 * reach;
        bool is_any = false;
        for (int32_t l = 0; l < n_lines; l++) {
            at[l] = nearest(&line[l], x, reach);
            is_any = is_any || at[l] >= 0;
        }
        if (is_any) {
            sy_text_printf(out,
                           "<g class=\"h\"><rect x=\"%.1f\" y=\"%.0f\" width=\"%.1f\" "
                           "height=\"%.0f\"/>",
                           plot->x.from + h * width, plot->y.to, width, plot->y.from - plot->y.to);
            write_tip(out, plot, line, n_lines, at, format);
            sy_text_puts(out, "</g>\n");
        }
    }
}

/* The points around i that smoothing looks at, about a fiftieth of all on either side: fewer behind
   than there are before i, for a start is steep; fewer before at the end, where little changes. */
static int32_t window(int32_t n, int32_t i, int32_t *first)
{
    int32_t reach = n / 50 < i ? n / 50 : i;
    int32_t last = i + reach < n ? i + reach : n - 1;
    *first = i - reach;
    return last - *first + 1;
}

/* A moving median, and a moving mean of those: it neither lags behind a steep start nor follows a
   spike. */
static void smooth(const curve *c, double *out)
{
    double sorted[DRAWN_MAX], median[DRAWN_MAX];
    int32_t first;
    for (int32_t i = 0; i < c->n; i++) {
        int32_t n = window(c->n, i, &first);
        memcpy(sorted, &c->mean[first], (size_t)n * sizeof *sorted);
        qsort(sorted, (size_t)n, sizeof *sorted, by_value);
        median[i] = sorted[n / 2];
    }
    for (int32_t i = 0; i < c->n; i++) {
        int32_t n = window(c->n, i, &first);
        out[i] = 0;
        for (int32_t k = 0; k < n; k++) {
            out[i] += median[first + k] / n;
        }
    }
}

static void write_curve(sy_text *out, const sy_svg_plot *plot, const curve *c, bool is_smooth)
{
    char css[24];
    double soft[DRAWN_MAX];
    is_smooth = is_smooth && c->n >= SMOOTH_FROM;
    snprintf(css, sizeof css, "c%d%s", c->line->colour, is_smooth ? " faint" : "");
    if (c->is_merged) {
        sy_svg_band(out, plot, c->x, c->min, c->max, c->n, css);
    }
    sy_svg_line(out, plot, c->x, c->mean, c->n, css);
    if (is_smooth) {
        snprintf(css, sizeof css, "c%d", c->line->colour);
        smooth(c, soft);
        sy_svg_line(out, plot, c->x, soft, c->n, css);
    }
    /* A value every pixel needs no mark; a few values, far apart, are points first and a line
     * second. */
    if (c->n <= DOTS_MAX && c->line->series->n_values <= DOTS_MAX) {
        sy_svg_dots(out, plot, c->x, c->mean, c->n, css);
    }
}

static void write_outside(const sy__page *page, const sy__chart *c, const curve *line,
                          int32_t n_lines)
{
    char value[VALUE_BYTES], step[VALUE_BYTES];
    int32_t best_l = 0, best_i = 0;
    for (int32_t l = 0; l < n_lines; l++) {
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

/* The vertical axis: from and to, and whether it is in powers of ten. Returns whether some values
   lie outside. */
static bool scale_y(const sy__chart *c, const curve *line, int32_t n_lines, double *lo, double *hi,
                    bool *is_log)
{
    bool is_cut = fit_y(line, n_lines, c->from_zero, lo, hi);
    if (!isnan(c->even)) {
        *hi = fmax(*hi, c->even);
        *lo = fmin(*lo, c->even);
    }
    *is_log = !c->from_zero && !c->is_loss && *lo > 0 && *hi / *lo > 100;
    if (!*is_log) {
        double pad = 0.06 * (*hi - *lo);
        *hi = c->from_zero && *hi <= 0 ? 1 : *hi + pad;
        *lo = c->from_zero ? *lo : *lo - pad;
    }
    return is_cut;
}

/* The figure itself, so many pixels wide. Returns whether some values lie outside. */
static bool write_figure(const sy__page *page, const sy__chart *c, const curve *line,
                         int32_t n_lines, double width, double height)
{
    sy_text *out = page->out;
    double lo, hi;
    bool is_log, is_cut = scale_y(c, line, n_lines, &lo, &hi, &is_log);
    sy_svg_plot plot =
        sy_svg_plot_make(width, height, fmax(page->x_lo, c->x_lo), page->x_hi, lo, hi, is_log);
    plot.name = c->title;
    sy_svg_open(out, &plot);
    if (!isnan(c->even)) {
        sy_text_printf(out, "<path class=\"even\" d=\"M%.0f %.1fH%.0f\"/>\n", plot.x.from,
                       sy_svg_place(&plot.y, c->even), plot.x.to);
    }
    for (int32_t l = 0; l < n_lines; l++) {
        write_curve(out, &plot, &line[l], !c->is_exact);
    }
    write_hits(out, &plot, line, n_lines, c->format);
    sy_svg_close(out);
    return is_cut;
}

/* A wide figure is drawn a second time for narrow screens: shrunk, nobody could read it. */
static void write_chart(const sy__page *page, const sy__chart *c, const curve *line,
                        int32_t n_lines)
{
    sy_text *out = page->out;
    bool is_cut;
    sy_text_printf(out, "<div class=\"card%s\">\n", c->is_wide ? " wide" : "");
    write_head(out, c->title, c->unit, line, n_lines);
    is_cut = write_figure(page, c, line, n_lines, 520, c->is_wide ? 260 : 220);
    if (c->is_wide) {
        write_figure(page, c, line, n_lines, 1056, 300);
    }
    if (is_cut) {
        write_outside(page, c, line, n_lines);
    }
    sy_text_puts(out, "</div>\n");
}

sy_status sy__page_chart(const sy__page *page, const sy__chart *chart, const sy__line_of *line,
                         int32_t n_lines)
{
    sy_status st = SY_OK;
    curve *drawn = NULL;
    int32_t n = 0;
    SY_TRY(sy_alloc(SY__LINES_MAX, sizeof *drawn, (void **)&drawn));
    for (int32_t l = 0; l < n_lines && n < SY__LINES_MAX; l++) {
        draw_in(&drawn[n], &line[l], chart->x_lo);
        n += drawn[n].n > 0;
    }
    if (n > 0) {
        write_chart(page, chart, drawn, n);
    }
cleanup:
    sy_free(&drawn);
    return st;
}

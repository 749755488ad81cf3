/* Maps over steps: a path per colour, of horizontal strokes, so that hundreds of rows stay small.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "report/html_impl.h"
#include "report/svg.h"

enum { MAP_WIDTH = 520, LABEL_BYTES = 32 };

/* The column of a step on the common axis; a step fills the span that ends with it. */
int32_t sy__column_of(const sy__page *page, int32_t n_columns, double step)
{
    double share = page->x_hi > page->x_lo ? (step - page->x_lo) / (page->x_hi - page->x_lo) : 0;
    int32_t column = (int32_t)ceil(share * n_columns - 1e-9) - 1;
    return column < 0 ? 0 : column;
}

void sy__bin(const sy__page *page, const sy_series *series, int32_t place, int32_t n_columns,
             double *out)
{
    double n_in = 0;
    int32_t at = -1;
    for (int32_t c = 0; c < n_columns; c++) {
        out[c] = NAN;
    }
    for (int32_t i = 0; i < series->n; i++) {
        const sy_series_point *p = &series->point[i];
        int32_t column = sy__column_of(page, n_columns, sy_series_step(p));
        double value =
            series->width > 0 ? series->row[(int64_t)i * series->width + place] : p->mean;
        if (column != at) {
            at = column;
            n_in = 0;
            out[at] = 0;
        }
        out[at] += ((double)p->n * (value - out[at])) / (n_in + (double)p->n);
        n_in += (double)p->n;
    }
    for (int32_t c = 1; c <= at; c++) {
        out[c] = isnan(out[c]) ? out[c - 1] : out[c];
    }
}

/* All cells of one colour: a stroke per run of equal cells in an expert's row. */
static void write_colour(sy_text *out, const sy__map *map, int32_t colour)
{
    bool is_open = false;
    for (int32_t e = 0; e < map->n_rows; e++) {
        for (int32_t c = 0; c < map->n_columns; c++) {
            int32_t first = c;
            while (c < map->n_columns && map->colour[(int64_t)c * map->n_rows + e] == colour) {
                c++;
            }
            if (c > first) {
                if (!is_open) {
                    sy_text_printf(out, "<path class=\"%c%d\" d=\"", map->prefix, colour);
                    is_open = true;
                }
                sy_text_printf(out, "M%d %d.5h%d", first, e, c - first);
            }
        }
    }
    sy_text_puts(out, is_open ? "\"/>\n" : "");
}

static void write_row_ticks(sy_text *out, const sy_svg_plot *plot, const sy__map *map)
{
    const int32_t n_rows = map->n_rows;
    sy_svg_scale scale = {.lo = 0, .hi = n_rows - 1, .from = 0, .to = 1};
    double tick[SY_SVG_TICKS];
    int32_t n = 1;
    tick[0] = 0;
    if (n_rows > 1) {
        n = sy_svg_ticks(&scale, (int32_t)fmin((plot->y.from - plot->y.to) / 20, 6), tick);
    }
    double cell = (plot->y.from - plot->y.to) / n_rows;
    for (int32_t i = 0; i < n; i++) {
        if (tick[i] == floor(tick[i])) {
            sy_text_printf(out,
                           "<text class=\"tick\" text-anchor=\"end\" x=\"%.0f\" y=\"%.1f\">"
                           "%d</text>\n",
                           plot->x.from - 7, plot->y.to + (tick[i] + 0.5) * cell + 3.5,
                           map->row_name != NULL ? map->row_name[(int32_t)tick[i]]
                                                 : (int32_t)tick[i]);
        }
    }
}

static void write_step_ticks(sy_text *out, const sy_svg_plot *plot)
{
    char label[LABEL_BYTES];
    double tick[SY_SVG_TICKS];
    int32_t n = sy_svg_ticks(&plot->x, 6, tick);
    for (int32_t i = 0; i < n; i++) {
        double x = sy_svg_place(&plot->x, tick[i]);
        if (x < plot->x.to - 44 && tick[i] == floor(tick[i])) {
            sy_svg_label(tick[i], n > 1 ? fmax(tick[1] - tick[0], 1) : 1, label, sizeof label);
            sy_text_printf(out,
                           "<path class=\"axis\" d=\"M%.1f %.1fv4\"/><text class=\"tick\" "
                           "text-anchor=\"middle\" x=\"%.1f\" y=\"%.1f\">%s</text>\n",
                           x, plot->y.from, x, plot->y.from + 17, label);
        }
    }
    sy_text_printf(out,
                   "<text class=\"name\" text-anchor=\"end\" x=\"%.0f\" y=\"%.1f\">step</text>\n",
                   plot->x.to, plot->y.from + 17);
}

/* Whole pixels per row, and a figure that is neither a ribbon nor a tower. */
static double map_height(int32_t n_rows)
{
    double cell = n_rows <= 8 ? 16 : n_rows <= 16 ? 10 : n_rows <= 64 ? 4 : 2;
    return fmin(fmax(n_rows * cell, 48), 640);
}

void sy__page_map(const sy__page *page, const sy__map *map)
{
    sy_text *out = page->out;
    double inner = map_height(map->n_rows), height = inner + 36;
    sy_svg_plot plot =
        sy_svg_plot_make(MAP_WIDTH, height, page->x_lo, page->x_hi, 0, map->n_rows, false);
    sy_text_puts(out, "<div class=\"card\">\n<div class=\"head\"><h3>");
    sy_text_html(out, map->title);
    sy_text_puts(out, "</h3><span class=\"unit\">");
    sy_text_html(out, map->unit);
    sy_text_printf(out, "</span></div>\n<svg viewBox=\"0 0 %d %.0f\" role=\"img\" aria-label=\"",
                   MAP_WIDTH, height);
    sy_text_html(out, map->title);
    sy_text_printf(
        out, "\">\n<g class=\"map\" transform=\"translate(%.0f %.0f) scale(%.5f %.5f)\">\n",
        plot.x.from, plot.y.to, (plot.x.to - plot.x.from) / map->n_columns, inner / map->n_rows);
    for (int32_t c = 0; c < map->n_colours; c++) {
        write_colour(out, map, c);
    }
    sy_text_puts(out, "</g>\n");
    write_row_ticks(out, &plot, map);
    write_step_ticks(out, &plot);
    sy_text_puts(out, "</svg>\n</div>\n");
}

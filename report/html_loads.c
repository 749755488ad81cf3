/* Expert load over time, one map per layer: x is the step, y the expert, the colour its share
   against an even share. A map is one path per colour, of horizontal strokes, so that hundreds of
   experts stay small. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "report/html_impl.h"
#include "report/svg.h"

enum { COLUMNS = 110, SHOWN_LAYERS = 8, MAP_WIDTH = 520, LABEL_BYTES = 32 };

/* COLUMNS x E cells; -1: nothing was logged there. */
typedef struct load_map {
    int32_t n_experts, n_columns;
    double *sum;    /* [columns, E] */
    int8_t *colour; /* [columns, E] */
} load_map;

/* Colour 0: no token. Colours 1 .. SY__LOAD_COLOURS-1: a quarter, to four times, an even share, in
 * equal ratios. */
static int8_t colour_of(double relative)
{
    int32_t middle = SY__LOAD_COLOURS / 2;
    double steps = (middle - 1) / 2.0 * log2(relative);
    double c = round(middle + steps);
    return relative > 0 ? (int8_t)fmin(fmax(c, 1), SY__LOAD_COLOURS - 1) : 0;
}

/* The column of a step on the common axis; a step fills the span that ends with it. */
static int32_t column_of(const sy__page *page, int32_t n_columns, double step)
{
    double share = page->x_hi > page->x_lo ? (step - page->x_lo) / (page->x_hi - page->x_lo) : 0;
    int32_t column = (int32_t)ceil(share * n_columns - 1e-9) - 1;
    return column < 0 ? 0 : column;
}

/* A column nothing fell into repeats the one before it: the log has a line every few steps only. */
static void colour_columns(load_map *map)
{
    int32_t E = map->n_experts;
    for (int32_t column = 0; column < map->n_columns; column++) {
        const double *sum = map->sum + (int64_t)column * E;
        int8_t *colour = map->colour + (int64_t)column * E;
        double total = 0;
        for (int32_t e = 0; e < E; e++) {
            total += sum[e];
        }
        for (int32_t e = 0; e < E; e++) {
            int8_t before = column > 0 ? colour[e - E] : -1;
            colour[e] = total > 0 ? colour_of(sum[e] * E / total) : before;
        }
    }
}

static sy_status map_make(const sy__page *page, const sy_series *series, load_map *out)
{
    sy_status st = SY_OK;
    load_map map = {.n_experts = series->width};
    int32_t E = series->width;
    map.n_columns = series->n < COLUMNS ? series->n : COLUMNS;
    SY_TRY(sy_alloc((int64_t)map.n_columns * E, sizeof *map.sum, (void **)&map.sum));
    SY_TRY(sy_alloc((int64_t)map.n_columns * E, sizeof *map.colour, (void **)&map.colour));
    for (int32_t i = 0; i < series->n; i++) {
        int32_t column = column_of(page, map.n_columns, sy_series_step(&series->point[i]));
        const double *row = series->row + (int64_t)i * E;
        for (int32_t e = 0; e < E; e++) {
            map.sum[(int64_t)column * E + e] += (double)series->point[i].n * row[e];
        }
    }
    colour_columns(&map);
    *out = map;
    memset(&map, 0, sizeof map);
cleanup:
    sy_free(&map.colour);
    sy_free(&map.sum);
    return st;
}

/* All cells of one colour: a stroke per run of equal cells in an expert's row. */
static void write_colour(sy_text *out, const load_map *map, int32_t colour)
{
    bool is_open = false;
    for (int32_t e = 0; e < map->n_experts; e++) {
        for (int32_t c = 0; c < map->n_columns; c++) {
            int32_t first = c;
            while (c < map->n_columns && map->colour[(int64_t)c * map->n_experts + e] == colour) {
                c++;
            }
            if (c > first) {
                if (!is_open) {
                    sy_text_printf(out, "<path class=\"m%d\" d=\"", colour);
                    is_open = true;
                }
                sy_text_printf(out, "M%d %d.5h%d", first, e, c - first);
            }
        }
    }
    sy_text_puts(out, is_open ? "\"/>\n" : "");
}

static void write_expert_ticks(sy_text *out, const sy_svg_plot *plot, int32_t n_experts)
{
    sy_svg_scale scale = {.lo = 0, .hi = n_experts - 1, .from = 0, .to = 1};
    double tick[SY_SVG_TICKS];
    int32_t n = 1;
    tick[0] = 0;
    if (n_experts > 1) {
        n = sy_svg_ticks(&scale, 6, tick);
    }
    double cell = (plot->y.from - plot->y.to) / n_experts;
    for (int32_t i = 0; i < n; i++) {
        if (tick[i] == floor(tick[i])) {
            sy_text_printf(out,
                           "<text class=\"tick\" text-anchor=\"end\" x=\"%.0f\" y=\"%.1f\">"
                           "%.0f</text>\n",
                           plot->x.from - 7, plot->y.to + (tick[i] + 0.5) * cell + 3.5, tick[i]);
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

/* Whole pixels per expert, and a figure that is neither a ribbon nor a tower. */
static double map_height(int32_t n_experts)
{
    double cell = n_experts <= 8 ? 16 : n_experts <= 16 ? 10 : n_experts <= 64 ? 4 : 2;
    return fmin(fmax(n_experts * cell, 48), 640);
}

static sy_status write_layer(const sy__page *page, const sy__layer_load *layer)
{
    sy_status st = SY_OK;
    sy_text *out = page->out;
    load_map map = {0};
    int32_t E = layer->series->width;
    SY_TRY(map_make(page, layer->series, &map));
    double inner = map_height(E), height = inner + 36;
    sy_svg_plot plot = sy_svg_plot_make(MAP_WIDTH, height, page->x_lo, page->x_hi, 0, E, false);
    double width = plot.x.to - plot.x.from;
    sy_text_printf(out,
                   "<div class=\"card\">\n<div class=\"head\"><h3>Layer %d</h3>"
                   "<span class=\"unit\">expert 0 to %d, top to bottom</span></div>\n"
                   "<svg viewBox=\"0 0 %d %.0f\" role=\"img\" aria-label=\"Expert load over time, "
                   "layer %d\">\n<g class=\"map\" transform=\"translate(%.0f %.0f) "
                   "scale(%.5f %.5f)\">\n",
                   layer->layer, E - 1, MAP_WIDTH, height, layer->layer, plot.x.from, plot.y.to,
                   width / map.n_columns, inner / E);
    for (int32_t c = 0; c < SY__LOAD_COLOURS; c++) {
        write_colour(out, &map, c);
    }
    sy_text_puts(out, "</g>\n");
    write_expert_ticks(out, &plot, E);
    write_step_ticks(out, &plot);
    sy_text_puts(out, "</svg>\n</div>\n");
cleanup:
    sy_free(&map.colour);
    sy_free(&map.sum);
    return st;
}

/* The colours in a row, with what they stand for below. */
static void write_scale(sy_text *out)
{
    static const char *const label[] = {"1/4 or less", "1/2", "even", "2", "4 or more"};
    double cell = 20, left = 92, width = left + cell * (SY__LOAD_COLOURS - 1);
    sy_text_printf(out,
                   "<p class=\"note\">Share of the rows that each expert got, in units of an even "
                   "share.</p>\n<svg class=\"key\" viewBox=\"0 0 %.0f 34\" role=\"img\" "
                   "aria-label=\"Colour scale\">\n<g class=\"map\">"
                   "<path class=\"m0\" style=\"stroke-width:14\" d=\"M8 7h24\"/>",
                   width + 40);
    for (int32_t c = 1; c < SY__LOAD_COLOURS; c++) {
        sy_text_printf(out, "<path class=\"m%d\" style=\"stroke-width:14\" d=\"M%.0f 7h%.0f\"/>", c,
                       left + (c - 1) * cell, cell);
    }
    sy_text_puts(out, "</g>\n<text class=\"tick\" text-anchor=\"middle\" x=\"20\" y=\"29\">none"
                      "</text>\n");
    for (int32_t i = 0; i < 5; i++) {
        sy_text_printf(
            out, "<text class=\"tick\" text-anchor=\"middle\" x=\"%.1f\" y=\"29\">%s</text>\n",
            left + cell * (0.5 + i * (SY__LOAD_COLOURS - 2) / 4.0), label[i]);
    }
    sy_text_puts(out, "</svg>\n");
}

sy_status sy__page_loads(const sy__page *page)
{
    sy_status st = SY_OK;
    sy_text *out = page->out;
    if (page->n_loads == 0) {
        return SY_OK;
    }
    sy_text_puts(out, "<section>\n<h2>Expert load over time</h2>\n");
    write_scale(out);
    sy_text_puts(out, "<div class=\"grid2\">\n");
    for (int32_t i = 0; i < page->n_loads; i++) {
        if (i == SHOWN_LAYERS) {
            sy_text_printf(out,
                           "</div>\n<details class=\"more\"><summary>%d more layers</summary>\n"
                           "<div class=\"grid2\">\n",
                           page->n_loads - SHOWN_LAYERS);
        }
        SY_TRY(write_layer(page, &page->load[i]));
    }
    sy_text_puts(out, "</div>\n");
    sy_text_puts(out, page->n_loads > SHOWN_LAYERS ? "</details>\n" : "");
    sy_text_puts(out, "</section>\n");
cleanup:
    return st;
}

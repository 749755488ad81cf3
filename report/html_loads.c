/* Expert load over time, one map per layer: x is the step, y the expert, the colour its share
   against an even share. Where layers and experts are many, columns are fewer, and then a row is
   several experts, so that the page stays small. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "report/html_impl.h"

enum { COLUMNS = 110, COLUMNS_MIN = 40, CELLS_MAX = 250000, SHOWN_LAYERS = 8 };

/* -1: nothing was logged there. */
typedef struct load_map {
    int32_t n_experts, per_row; /* experts; neighbours that share a row */
    int32_t n_rows, n_columns;
    double *sum;    /* [columns, rows] mean over the experts of a row */
    int8_t *colour; /* [columns, rows] */
} load_map;

/* All maps together have CELLS_MAX cells at most, or one row each. */
static void set_size(load_map *map, int32_t n_points, int32_t n_maps)
{
    const int32_t cells = CELLS_MAX / n_maps, E = map->n_experts;
    const int32_t fitting = cells / E < COLUMNS_MIN ? COLUMNS_MIN : cells / E;
    map->n_columns = fitting < COLUMNS ? fitting : COLUMNS;
    map->n_columns = n_points < map->n_columns ? n_points : map->n_columns;
    const int32_t rows = cells / map->n_columns > 0 ? cells / map->n_columns : 1;
    map->per_row = (E + rows - 1) / rows;
    map->n_rows = (E + map->per_row - 1) / map->per_row;
}

static int32_t experts_in(const load_map *map, int32_t row)
{
    const int32_t rest = map->n_experts - row * map->per_row;
    return rest < map->per_row ? rest : map->per_row;
}

/* Colour 0: no token. Colours 1 .. SY__LOAD_COLOURS-1: a quarter, to four times, an even share, in
 * equal ratios. */
static int8_t colour_of(double relative)
{
    int32_t middle = SY__LOAD_COLOURS / 2;
    double steps = (middle - 1) / 2.0 * log2(relative);
    double c = round(middle + steps);
    return relative > 0 ? (int8_t)fmin(fmax(c, 1), SY__LOAD_COLOURS - 1) : 0;
}

/* A column nothing fell into repeats the one before it: the log has a line every few steps only. */
static void colour_columns(load_map *map)
{
    const int32_t n = map->n_rows;
    for (int32_t column = 0; column < map->n_columns; column++) {
        const double *sum = map->sum + (int64_t)column * n;
        int8_t *colour = map->colour + (int64_t)column * n;
        double total = 0;
        for (int32_t r = 0; r < n; r++) {
            total += sum[r] * experts_in(map, r);
        }
        for (int32_t r = 0; r < n; r++) {
            int8_t before = column > 0 ? colour[r - n] : -1;
            colour[r] = total > 0 ? colour_of(sum[r] * map->n_experts / total) : before;
        }
    }
}

static sy_status map_make(const sy__page *page, const sy_series *series, load_map *out)
{
    sy_status st = SY_OK;
    load_map map = {.n_experts = series->width};
    set_size(&map, series->n, page->n_loads);
    SY_TRY(sy_alloc((int64_t)map.n_columns * map.n_rows, sizeof *map.sum, (void **)&map.sum));
    SY_TRY(sy_alloc((int64_t)map.n_columns * map.n_rows, sizeof *map.colour, (void **)&map.colour));
    for (int32_t i = 0; i < series->n; i++) {
        int32_t column = sy__column_of(page, map.n_columns, sy_series_step(&series->point[i]));
        const double *load = series->row + (int64_t)i * series->width;
        for (int32_t e = 0; e < series->width; e++) {
            const int32_t r = e / map.per_row;
            map.sum[(int64_t)column * map.n_rows + r] +=
                (double)series->point[i].n * load[e] / experts_in(&map, r);
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

static sy_status write_layer(const sy__page *page, const sy__layer_load *layer)
{
    sy_status st = SY_OK;
    load_map map = {0};
    char title[32], unit[96];
    int32_t *first = NULL;
    SY_TRY(map_make(page, layer->series, &map));
    SY_TRY(sy_alloc(map.n_rows, sizeof *first, (void **)&first));
    for (int32_t r = 0; r < map.n_rows; r++) {
        first[r] = r * map.per_row;
    }
    snprintf(title, sizeof title, "Layer %d", layer->layer);
    snprintf(unit, sizeof unit, "expert 0 to %d, top to bottom%s", map.n_experts - 1,
             map.per_row > 1 ? ", means of neighbours" : "");
    sy__page_map(page, &(sy__map){.title = title,
                                  .unit = unit,
                                  .n_rows = map.n_rows,
                                  .n_columns = map.n_columns,
                                  .colour = map.colour,
                                  .prefix = 'm',
                                  .n_colours = SY__LOAD_COLOURS,
                                  .row_name = first});
cleanup:
    sy_free(&first);
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

/* What differs from place to place: where in the sequence rows are dropped, and figures of each
   layer over time. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "report/html_impl.h"

enum { COLUMNS = 110, LAYERS_MAX = 512, KEY_BYTES = 64, UNIT_BYTES = 128 };

static const struct {
    const char *name, *title;
    double scale;
    const char *unit;
} figures[] = {
    {"load_max_over_mean", "Expert load, max / mean", 1, ""},
    {"router_entropy", "Router entropy", 1, " nats"},
    {"router_confidence", "Router confidence", 100, " %"},
    {"routing_overlap", "Overlap with earlier routing", 100, " %"},
    {"output_rms", "Experts' output, RMS", 1, ""},
    {"dropped", "Dropped rows", 1, ""},
    {"dead_experts", "Experts without a token", 1, ""},
};

/* Values of a map, [rows, columns]; NaN where nothing was logged. */
typedef struct grid {
    double *value;
    int32_t n_rows;
    int32_t layer[LAYERS_MAX];
} grid;

/* From 0 to SY__TONES - 1 between lo and hi. */
static int8_t tone(double value, double lo, double hi)
{
    double share = hi > lo ? (value - lo) / (hi - lo) : 0;
    return isnan(value) ? -1 : (int8_t)fmin(floor(fmax(share, 0) * SY__TONES), SY__TONES - 1);
}

static void span_of(const grid *g, double *lo, double *hi)
{
    *lo = INFINITY;
    *hi = -INFINITY;
    for (int64_t i = 0; i < (int64_t)g->n_rows * COLUMNS; i++) {
        if (!isnan(g->value[i])) {
            *lo = fmin(*lo, g->value[i]);
            *hi = fmax(*hi, g->value[i]);
        }
    }
}

/* The map of a grid, its tones from lo to hi. */
static sy_status write_grid(const sy__page *page, const grid *g, const char *title,
                            const char *unit, double lo, double hi, bool has_layers)
{
    sy_status st = SY_OK;
    int8_t *colour = NULL;
    SY_TRY(sy_alloc((int64_t)g->n_rows * COLUMNS, sizeof *colour, (void **)&colour));
    for (int32_t c = 0; c < COLUMNS; c++) {
        for (int32_t r = 0; r < g->n_rows; r++) {
            colour[(int64_t)c * g->n_rows + r] = tone(g->value[(int64_t)r * COLUMNS + c], lo, hi);
        }
    }
    sy__page_map(page, &(sy__map){.title = title,
                                  .unit = unit,
                                  .n_rows = g->n_rows,
                                  .n_columns = COLUMNS,
                                  .colour = colour,
                                  .prefix = 's',
                                  .n_colours = SY__TONES,
                                  .row_name = has_layers ? g->layer : NULL});
cleanup:
    sy_free(&colour);
    return st;
}

/* "moe/layer_<i>/<name>" of a layer that routes. */
static const sy_series *series_of(const sy__page *page, int32_t i, const char *name)
{
    char key[KEY_BYTES];
    snprintf(key, sizeof key, "moe/layer_%d/%s", page->load[i].layer, name);
    const sy_series *series = sy_metrics_log_find(page->log, key);
    return series != NULL && series->n > 0 ? series : NULL;
}

static int32_t n_layers(const sy__page *page)
{
    return page->n_loads < LAYERS_MAX ? page->n_loads : LAYERS_MAX;
}

static sy_status write_figure(const sy__page *page, size_t f, grid *g)
{
    sy_status st = SY_OK;
    double lo = 0, hi = 0;
    char unit[UNIT_BYTES];
    g->n_rows = 0;
    for (int32_t i = 0; i < n_layers(page); i++) {
        const sy_series *series = series_of(page, i, figures[f].name);
        if (series != NULL && series->width == 0) {
            g->layer[g->n_rows] = page->load[i].layer;
            sy__bin(page, series, 0, COLUMNS, g->value + (int64_t)g->n_rows++ * COLUMNS);
        }
    }
    if (g->n_rows >= 2) {
        span_of(g, &lo, &hi);
    }
    if (g->n_rows >= 2 && hi != 0) { /* none dropped, none dead: no map */
        snprintf(unit, sizeof unit, "by layer; faint %.3g, strong %.3g%s", figures[f].scale * lo,
                 figures[f].scale * hi, figures[f].unit);
        SY_TRY(write_grid(page, g, figures[f].title, unit, lo, hi, true));
    }
cleanup:
    return st;
}

/* Shares of the drops by place in the sequence, mean over the layers that drop. */
static sy_status write_drops(const sy__page *page, grid *g)
{
    sy_status st = SY_OK;
    double column[COLUMNS], n_in[COLUMNS] = {0}, lo, hi;
    char unit[UNIT_BYTES];
    g->n_rows = 0;
    for (int32_t i = 0; i < n_layers(page); i++) {
        const sy_series *series = series_of(page, i, "drop_position");
        if (series == NULL || (g->n_rows > 0 && series->width != g->n_rows) || series->width == 0 ||
            series->width > LAYERS_MAX) {
            continue;
        }
        for (int32_t place = 0; place < series->width; place++) {
            double *sum = g->value + (int64_t)place * COLUMNS;
            sy__bin(page, series, place, COLUMNS, column);
            for (int32_t c = 0; c < COLUMNS; c++) {
                sum[c] = g->n_rows == 0 ? 0 : sum[c];
                sum[c] += isnan(column[c]) ? 0 : column[c];
                n_in[c] += place == 0 && !isnan(column[c]);
            }
        }
        g->n_rows = series->width;
    }
    if (g->n_rows == 0) {
        goto cleanup;
    }
    for (int64_t i = 0; i < (int64_t)g->n_rows * COLUMNS; i++) {
        g->value[i] = n_in[i % COLUMNS] > 0 ? g->value[i] / n_in[i % COLUMNS] : NAN;
    }
    span_of(g, &lo, &hi);
    if (hi > 0) {
        snprintf(unit, sizeof unit,
                 "shares of the drops, first to last part of the sequence; faint 0, strong %.3g %%",
                 100 * hi);
        SY_TRY(write_grid(page, g, "Where rows are dropped", unit, 0, hi, false));
    }
cleanup:
    return st;
}

sy_status sy__page_layers(const sy__page *page)
{
    sy_status st = SY_OK;
    grid *g = NULL;
    if (page->n_loads == 0) {
        return SY_OK;
    }
    SY_TRY(sy_alloc(1, sizeof *g, (void **)&g));
    SY_TRY(sy_alloc(LAYERS_MAX * COLUMNS, sizeof *g->value, (void **)&g->value));
    sy_text_puts(page->out, "<section>\n<h2>Layer by layer</h2>\n<div class=\"grid2\">\n");
    SY_TRY(write_drops(page, g));
    for (size_t f = 0; f < sizeof figures / sizeof figures[0]; f++) {
        SY_TRY(write_figure(page, f, g));
    }
    sy_text_puts(page->out, "</div>\n</section>\n");
cleanup:
    if (g != NULL) {
        sy_free(&g->value);
    }
    sy_free(&g);
    return st;
}

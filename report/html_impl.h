/* The parts of the page, each in a file of its own. */
#ifndef SY_REPORT_HTML_IMPL_H
#define SY_REPORT_HTML_IMPL_H

#include "report/flat_config.h"
#include "report/html.h"
#include "report/text.h"

/* Arrays of one layer: "moe/layer_<i>/<name>". */
typedef struct sy__layer_load {
    int32_t layer;
    const sy_series *series; /* rows per expert; its width is the number of experts */
} sy__layer_load;

typedef struct sy__page {
    sy_text *out;
    const sy_report_run *run; /* [n_runs] */
    int32_t n_runs;
    sy_flat_config *flat;      /* [n_runs] their configurations */
    const sy_metrics_log *log; /* of the first run */
    sy__layer_load *load;      /* [n_loads] by layer, of the first run */
    int32_t n_loads;
    double x_lo, x_hi; /* the step axis of every figure */
} sy__page;

/* How a metric is written for a person. */
typedef enum sy__unit {
    SY__PLAIN,
    SY__STEPS,
    SY__COUNT,
    SY__PERCENT,
    SY__DURATION,
    SY__BYTES
} sy__unit;
const char *sy__format_value(double value, sy__unit unit, char *buf, size_t buf_bytes);
/* "12,345": a step, with thousands apart. */
const char *sy__format_step(int64_t step, char *buf, size_t buf_bytes);

/* "valid/<name>/loss": the name's place and length; false for every other key. */
bool sy__is_valid_loss(const char *key, const char **name, int32_t *name_bytes);
/* A series of numbers with at least one value; NULL if there is none. */
const sy_series *sy__find_numbers(const sy_metrics_log *log, const char *key);
/* First step of the last tenth of a run. */
int64_t sy__late_from(const sy_metrics_log *log);
/* Mean of the points that lie in the last tenth of the run; NaN if there are none. */
double sy__late_mean(const sy_metrics_log *log, const sy_series *series);
/* The same of a key; NaN where the run has no such numbers. */
double sy__late(const sy_metrics_log *log, const char *key);
int32_t sy__count_zeros(const double *sum, int32_t n);
/* Load of each expert summed over the last tenth of the run into sum [width]; returns the first
 * step of that span. */
int64_t sy__late_load(const sy__page *page, const sy_series *series, double *sum);

/* ---- figures ---- */

enum { SY__LINES_MAX = SY_REPORT_RUNS_MAX };

typedef struct sy__line_of {
    const sy_series *series;
    const char *label;
    int32_t label_bytes; /* -1: all of label */
    double scale;
    int32_t colour;
} sy__line_of;

typedef struct sy__chart {
    const char *title, *unit;
    sy__unit format;
    bool is_wide, from_zero, is_loss, is_exact; /* exact: never smoothed */
    double even;                                /* a dashed line for comparison; NaN: none */
    double x_lo;                                /* from this step on */
} sy__chart;

/* A card with lines [n_lines]; nothing where no line has a point. */
sy_status sy__page_chart(const sy__page *page, const sy__chart *chart, const sy__line_of *line,
                         int32_t n_lines);

enum {
    SY__LOAD_COLOURS = 18, /* classes m0 ..: none, then 17 from starved to crowded */
    SY__TONES = 12         /* classes s0 ..: from little to much */
};

/* A map: x is the step, y the row, the colour a class. */
typedef struct sy__map {
    const char *title, *unit;
    int32_t n_rows, n_columns;
    const int8_t *colour; /* [columns, rows]; -1: nothing was logged there */
    char prefix;          /* of the classes: 'm' or 's' */
    int32_t n_colours;
    const int32_t *row_name; /* [rows] NULL: 0 .. */
} sy__map;
void sy__page_map(const sy__page *page, const sy__map *map);

/* The column of a step on the common axis; a step fills the span that ends with it. */
int32_t sy__column_of(const sy__page *page, int32_t n_columns, double step);
/* Mean of a series, or of one place of its arrays, per column of the step axis: out [n_columns],
   NaN where nothing was logged. A column nothing fell into repeats the one before it. */
void sy__bin(const sy__page *page, const sy_series *series, int32_t place, int32_t n_columns,
             double *out);

/* ---- parts ---- */

void sy__page_style(sy_text *out);
/* Where a run stands, in a sentence: "Running: step 120 of 300 (40 %), about 1:10 to go." */
void sy__page_state(const sy__page *page, int32_t run);
void sy__page_tiles(const sy__page *page);
sy_status sy__page_warnings(const sy__page *page);
sy_status sy__page_losses(const sy__page *page);
sy_status sy__page_routing(const sy__page *page);
sy_status sy__page_optimization(const sy__page *page);
sy_status sy__page_speed(const sy__page *page);
sy_status sy__page_loads(const sy__page *page);
/* Where in the sequence rows are dropped; what differs from layer to layer. */
sy_status sy__page_layers(const sy__page *page);
/* Which validation set goes to which label's experts. */
sy_status sy__page_routed(const sy__page *page);
/* A card with the course of n series, the first few of them, in percent; `even` is dashed. */
sy_status sy__page_shares(const sy__page *page, const char *title, const sy_series *const *series,
                          const char *const *label, int32_t n, double even);
/* Time by phase, memory by purpose. */
sy_status sy__page_phases(const sy__page *page);
void sy__page_memory(const sy__page *page);
void sy__page_tables(const sy__page *page);
/* Several runs beside each other: figures of each, and where their configurations differ. */
void sy__page_compare(const sy__page *page);
void sy__page_diff(const sy__page *page);

#endif

/* The parts of the page, each in a file of its own. */
#ifndef SY_REPORT_HTML_IMPL_H
#define SY_REPORT_HTML_IMPL_H

#include "report/metrics_log.h"
#include "report/text.h"

/* Expert load of one layer. */
typedef struct sy__layer_load {
    int32_t layer;
    const sy_series *series; /* rows per expert; its width is the number of experts */
} sy__layer_load;

typedef struct sy__page {
    sy_text *out;
    const sy_metrics_log *log;
    const char *name, *config; /* config may be NULL */
    sy__layer_load *load;      /* [n_loads] by layer */
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
/* Mean of the points that lie in the last tenth of the run; NaN if there are none. */
double sy__late_mean(const sy__page *page, const sy_series *series);
/* Load of each expert summed over the last tenth of the run into sum [width]; returns the first
 * step of that span. */
int64_t sy__late_load(const sy__page *page, const sy_series *series, double *sum);

enum {
    SY__LOAD_COLOURS = 18
}; /* classes m0 .. of the load maps: none, then 17 from starved to crowded */
void sy__page_style(sy_text *out);
void sy__page_tiles(const sy__page *page);
sy_status sy__page_warnings(const sy__page *page);
sy_status sy__page_charts(const sy__page *page);
sy_status sy__page_loads(const sy__page *page);
/* Which validation set goes to which label's experts. */
sy_status sy__page_routed(const sy__page *page);
/* A card with the course of n series, the first few of them, in percent; `even` is dashed. */
sy_status sy__page_shares(const sy__page *page, const char *title, const sy_series *const *series,
                          const char *const *label, int32_t n, double even);
void sy__page_tables(const sy__page *page);

#endif

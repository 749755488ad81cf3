/* The inside of a record, for whoever writes it out. */
#ifndef SY_REPORT_METRICS_IMPL_H
#define SY_REPORT_METRICS_IMPL_H

#include "report/metrics.h"
#include "report/text.h"

typedef enum sy__metric_kind {
    SY__METRIC_UNSET,
    SY__METRIC_F64,
    SY__METRIC_I64,
    SY__METRIC_ARRAY
} sy__metric_kind;

typedef struct sy__metric {
    char *key;
    sy__metric_kind kind;
    double f64;
    int64_t i64;
    double *array; /* [n] of n_max */
    int64_t n, n_max;
} sy__metric;

struct sy_metrics {
    sy__metric *item;
    int32_t n, n_max;
    int32_t
        next; /* where the next key is looked for first: keys come in the same order every step */
};

/* One JSON object with "step" first, and a line break. */
void sy__metrics_line(sy_text *text, int64_t step, const sy_metrics *metrics);

#endif

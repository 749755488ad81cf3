/* metrics.jsonl read back: one series per key, in bounded memory however long the run was. A series
   that grows too long merges neighbouring points; mean, minimum and maximum survive, so a spike is
   never lost. */
#ifndef SY_REPORT_METRICS_LOG_H
#define SY_REPORT_METRICS_LOG_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    SY_SERIES_POINTS = 2048,
    SY_SERIES_ROWS = 512
}; /* most points of a series of numbers, of arrays */

#define SY_METRICS_STEP_MAX ((int64_t)1 << 40) /* no run has more steps */

/* One or more logged values of neighbouring steps. */
typedef struct sy_series_point {
    int64_t first, last;   /* steps */
    int64_t n;             /* values merged */
    double mean, min, max; /* numbers only */
} sy_series_point;

typedef struct sy_series {
    char *key;
    int32_t width; /* 0: numbers; else length of the arrays */
    int32_t n;
    sy_series_point *point; /* [n] */
    double *row;            /* [n, width] means over the merged lines; NULL for numbers */
    int64_t n_per_point;
    int64_t n_values;           /* numbers (or arrays) read */
    int64_t n_null, null_first; /* values that were not finite, and the step of the first of them */
    int64_t last_step, min_step;
    double last, min; /* numbers only: the last value and the smallest, with their steps */
} sy_series;

typedef struct sy_metrics_log {
    sy_series *series; /* [n] in the order of first appearance */
    int32_t n;
    int64_t n_lines;   /* records read */
    int64_t n_bad;     /* lines that were no record, or whose step does not fit those around it */
    int64_t bad_first; /* the number, from 1, of the first of them */
    bool is_cut;       /* the last line has no end */
    int64_t first_step, last_step;
} sy_metrics_log;

/* Read the file. A last line without an end is ignored (a run may be writing it); other lines that
   are no record, or whose step is not above those before it and below that of the next, are
   counted. Not collective. SY_ERR_USAGE if the file is missing, SY_ERR_IO, SY_ERR_MEMORY. */
sy_status sy_metrics_log_read(const char *path, sy_metrics_log *out);
void sy_metrics_log_free(sy_metrics_log *log);

/* NULL if the key never appeared.
   Not collective. */
const sy_series *sy_metrics_log_find(const sy_metrics_log *log, const char *key);

/* The middle of a point on the step axis.
   Not collective. */
double sy_series_step(const sy_series_point *point);

#ifdef __cplusplus
}
#endif
#endif

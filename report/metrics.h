/* Metrics: the record of one step, and the file metrics.jsonl that takes one line per logged step
   (docs/INTERFACES.md section 4). Keys are "section/name" with the words of the contract; the file
   is append-only, and a resumed run cuts it back to its checkpoint and continues it without gaps or
   repeats. */
#ifndef SY_REPORT_METRICS_H
#define SY_REPORT_METRICS_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_metrics sy_metrics;

/* An empty record.
   Not collective. */
sy_status sy_metrics_create(sy_metrics **out);
void sy_metrics_destroy(sy_metrics **metrics);

/* Start the next step's record.
   Not collective. The memory is kept: a record that is filled with the same keys each step
   allocates in its first step only. */
void sy_metrics_clear(sy_metrics *metrics);

/* Set a value; a second call for a key replaces its value. Order in the line: in which the keys
   were first set. Not collective. NaN and infinities are legal and written as null. "step" is set
   by the file. SY_ERR_MEMORY. */
sy_status sy_metrics_set_f64(sy_metrics *metrics, const char *key, double value);
sy_status sy_metrics_set_i64(sy_metrics *metrics, const char *key, int64_t value);
/* values [n] are copied. */
sy_status sy_metrics_set_array(sy_metrics *metrics, const char *key, const double *values,
                               int64_t n);

typedef struct sy_metrics_file sy_metrics_file;

/* What stands at the end of the file after it was cut. */
typedef struct sy_metrics_tail {
    int64_t step;      /* of the last line; -1: the file is empty */
    double time_s;     /* its "time_s"; 0 if it has none */
    int64_t n_bytes;   /* of the file */
    int64_t n_dropped; /* bytes that were cut off */
    bool torn;         /* they ended within a line, as a crash leaves it */
} sy_metrics_tail;

/* Open metrics.jsonl for appending, creating it if need be, and cut off what a resumed run must not
   keep: lines of steps beyond keep_step, and a last line that has no end. Not collective. Rank 0
   only, as owner of the run directory. keep_step -1: start with an empty file. tail may be NULL.
   SY_ERR_USAGE if it cannot be written, SY_ERR_IO if it cannot be read. */
sy_status sy_metrics_file_open(const char *path, int64_t keep_step, sy_metrics_tail *tail,
                               sy_metrics_file **out);

/* Append one line for `step` and hand it to the system in one piece.
   Not collective. Rank 0 only. Requires a step beyond every step in the file: SY_ERR_INTERNAL. A
   write that fails (SY_ERR_IO) leaves the file as it was, so the caller may warn and go on.
   Allocates nothing once the longest line has been written. */
sy_status sy_metrics_file_append(sy_metrics_file *file, int64_t step, const sy_metrics *metrics);

/* Make the lines durable: called before a checkpoint is published, so that a machine that dies
   leaves no gap before it. Not collective. Rank 0 only. SY_ERR_IO. */
sy_status sy_metrics_file_sync(sy_metrics_file *file);

/* Not collective. Sets *file NULL; NULL is fine. */
void sy_metrics_file_close(sy_metrics_file **file);

#ifdef __cplusplus
}
#endif
#endif

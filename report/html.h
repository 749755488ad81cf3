/* The report of a run, or of several beside each other: one HTML page that needs nothing beside
   itself (inline SVG and CSS, no script, no outside resource), made from metrics.jsonl and
   config.yaml. */
#ifndef SY_REPORT_HTML_H
#define SY_REPORT_HTML_H

#include "core/status.h"
#include "report/metrics_log.h"
#include "report/run_lock.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SY_REPORT_RUNS_MAX = 6 };

typedef struct sy_report_run {
    const sy_metrics_log *log;
    const char *name, *config; /* config: the YAML text, or NULL */
    sy_run_holder holder;
    double quiet_s; /* since the last line was written; negative: not known */
} sy_report_run;

/* Write the page of run directories to out_path, whole or not at all. NULL: report.html in the
   directory; of several, compare.html in the first. Not collective. Rank 0 only; the runs may be
   going on. written (may be NULL) gets the page's path, to be freed with sy_free. A run without a
   step yet gives a page that says so. SY_ERR_USAGE: no such folder, no run in it, more than
   SY_REPORT_RUNS_MAX, or a place that cannot be written; SY_ERR_IO. */
sy_status sy_report_write(const char *const *run_dir, int32_t n_runs, const char *out_path,
                          char **written);

/* The page as text, to be freed with sy_free. Requires n_runs from 1 to SY_REPORT_RUNS_MAX.
   Not collective. */
sy_status sy_report_render(const sy_report_run *run, int32_t n_runs, char **out);

#ifdef __cplusplus
}
#endif
#endif

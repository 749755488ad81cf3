/* The report of a run: one HTML page that needs nothing beside itself (inline SVG and CSS, no
   script, no outside resource), made from metrics.jsonl and config.yaml. */
#ifndef SY_REPORT_HTML_H
#define SY_REPORT_HTML_H

#include "core/status.h"
#include "report/metrics_log.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Write the page of a run directory to out_path (NULL: RUN_DIR/report.html), whole or not at all.
   Not collective. Rank 0 only; the run may be going on. written (may be NULL) gets the page's path,
   to be freed with sy_free. A run without a step yet gives a page that says so. SY_ERR_USAGE: no
   such folder, no run in it, or a place that cannot be written; SY_ERR_IO. */
sy_status sy_report_write(const char *run_dir, const char *out_path, char **written);

/* The page as text, to be freed with sy_free.
   Not collective. config: the YAML text, or NULL. */
sy_status sy_report_render(const sy_metrics_log *log, const char *name, const char *config,
                           char **out);

#ifdef __cplusplus
}
#endif
#endif

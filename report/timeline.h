/* A timeline of some steps as ui.perfetto.dev and chrome://tracing read it (trace.json): times in
   microseconds, a process per rank, a thread per thread. */
#ifndef SY_REPORT_TIMELINE_H
#define SY_REPORT_TIMELINE_H

#include "core/span.h"
#include "report/text.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What one rank recorded, as lines of the file. shift_s is added to its clock. Not collective. A
   failure sticks in text->st. */
void sy_timeline_rank(sy_text *text, const sy_spans *spans, int32_t rank, double shift_s);

typedef struct sy_timeline_file sy_timeline_file;

/* Create the file under a hidden name; append each rank's lines; close gives it its name (keep) or
   removes it. Not collective. Rank 0 only. SY_ERR_IO. */
sy_status sy_timeline_open(const char *path, sy_timeline_file **out);
sy_status sy_timeline_append(sy_timeline_file *file, const char *lines, int64_t n_bytes);
sy_status sy_timeline_close(sy_timeline_file **file, bool keep);

#ifdef __cplusplus
}
#endif
#endif

/* The progress of long work on standard error: on a terminal one line that is redrawn at most ten
   times a second, in a log plain lines at an interval; with rate and time left. Its grammar: step
   120/2000 | loss 3.4121 | norm 0.94 | lr 3.0e-04 | drop 0.4 % | load max/mean 1.31 | 412 ms | 79 k
   tok/s | 12:10 left */
#ifndef SY_REPORT_PROGRESS_H
#define SY_REPORT_PROGRESS_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_progress sy_progress;

typedef struct sy_progress_spec {
    const char *what; /* "step", "tokenize": opens the line; must outlive the progress */
    int64_t
        start; /* done before this process began: a resumed run does not count its past as speed */
    int64_t total;                                  /* 0: unknown, no time left is shown */
    double (*work)(const void *self, int64_t done); /* how much lies in the first units, where they
                                                       are not alike; NULL: they are */
    const void *self;
    double plain_s; /* in a log: seconds between lines; 0: every update */
    int fd;         /* 0: standard error */
} sy_progress_spec;

/* Open a progress line; it makes room for log lines by itself (sy_log_on_line), so one exists at a
   time. Not collective. Rank 0 only. */
sy_status sy_progress_create(const sy_progress_spec *spec, sy_progress **out);

/* `done` units are done; facts (NULL: the rate alone) stand between count and time left.
   Not collective. Rank 0 only. Costs a clock reading when nothing is due. The update that reaches
   the total is always shown. */
void sy_progress_update(sy_progress *progress, int64_t done, const char *facts);

/* End the line. Sets *progress NULL; NULL is fine.
   Not collective. Rank 0 only. */
void sy_progress_destroy(sy_progress **progress);

/* What a step tells. NaN (or, for load and rate, 0 and below) leaves a fact out. */
typedef struct sy_step_facts {
    double loss, grad_norm, lr;
    double drop_fraction, load_max_over_mean; /* NaN in a dense model */
    int32_t sequences;                        /* of the step; 0: always as many */
    double step_ms, tokens_per_s;
} sy_step_facts;

/* "loss 3.4121 | norm 0.94 | ..." into buf; returns buf.
   Not collective. */
const char *sy_step_facts_format(const sy_step_facts *facts, char *buf, size_t buf_bytes);

/* "79 k", "1.3 M", "812": three digits at most.
   Not collective. Returns buf. */
const char *sy_format_count(double value, char *buf, size_t buf_bytes);

/* "0:07", "12:10", "3:05:59", "4 d 7 h".
   Not collective. Returns buf. */
const char *sy_format_duration(double seconds, char *buf, size_t buf_bytes);

#ifdef __cplusplus
}
#endif
#endif

/* The judgement of an observer: a function of a table of what was seen of each rank. It knows no
   clock and no wire, so every case can be laid before it. Nothing here is collective. */
#ifndef SY_PARALLEL_WATCH_JUDGE_H
#define SY_PARALLEL_WATCH_JUDGE_H

#include "core/pulse.h"
#include "parallel/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SY_WATCH_CALLS = 4 };

/* What a rank tells of itself: fixed size, no pointers. */
typedef struct sy_watch_beat {
    uint64_t host_id; /* ranks with the same can look at one another's processes */
    uint64_t started; /* when the process did, by its kernel: pid and this name it for ever */
    int64_t step;
    double wait_s;  /* waits so long in call[0], */
    double quiet_s; /* or shows no progress for so long; in time that its watchdog saw pass */
    double fast_s, median_s, slow_s; /* quartiles of the compute time of the last steps */
    int32_t n_steps;                 /* of which these are */
    int32_t pid, waits;
    sy_comm_call call[SY_WATCH_CALLS]; /* it waits for the first, or that is its last; then those
                                          before it, backwards */
    char phase[24], host[64];
} sy_watch_beat;

/* What an observer knows of a rank. */
typedef struct sy_watch_seen {
    bool heard, gone; /* ever; said goodbye */
    double silent_s;
    sy_watch_beat beat;
} sy_watch_seen;

typedef enum sy_watch_verdict {
    SY_WATCH_FINE,
    SY_WATCH_SILENT, /* a rank does not answer */
    SY_WATCH_STUCK,  /* others wait, and nobody makes progress */
    SY_WATCH_DESYNC  /* ranks made different calls */
} sy_watch_verdict;

typedef struct sy_watch_table {
    int32_t n;
    double timeout_s;
    sy_watch_seen *seen; /* [n] */
    int32_t *order;      /* [n * SY_WATCH_CALLS] scratch */
    double *figure;      /* [n] scratch */
    bool *blamed;        /* [n] out */
    int32_t odd, usual;  /* out: two calls that differ, as rank * SY_WATCH_CALLS + index */
} sy_watch_table;

/* Sets t->blamed. */
sy_watch_verdict sy_watch_judge(sy_watch_table *t);
/* The message: who is to blame, and what every rank does, in groups. */
void sy_watch_describe(const sy_watch_table *t, sy_watch_verdict verdict, char *buf,
                       size_t buf_bytes);
/* A rank that computes much longer than the others, beyond the spread of the times; else -1. The
   slowest rank and its ratio to the median of the others go to *slowest and *ratio (-1 and 1 where
   not known). */
int32_t sy_watch_straggler(const sy_watch_table *t, int32_t *slowest, double *ratio);

#ifdef __cplusplus
}
#endif
#endif

/* Spans: what this process does from when to when, by thread, nested. Recorded only between
   sy_span_start and sy_span_stop (train --profile); at all other times a span costs a call and a
   branch. The same two calls are where a CUDA build puts its NVTX spans. Nothing here is
   collective. */
#ifndef SY_CORE_SPAN_H
#define SY_CORE_SPAN_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_span_kind {
    SY_SPAN_STEP,  /* numbered: a step of training */
    SY_SPAN_PHASE, /* of a step: forward, backward, optimizer */
    SY_SPAN_LAYER, /* numbered: a block, one way */
    SY_SPAN_PART,  /* a sublayer, or part of one */
    SY_SPAN_OP,    /* of a backend */
    SY_SPAN_COMM,  /* a collective, with the bytes that this rank sends */
    SY_SPAN_FILE,  /* data read, checkpoints written */
    SY_N_SPAN_KINDS
} sy_span_kind;

/* Open a span inside the one that this thread opened last, and close that. name is static text;
   number: of the step or layer, -1 none; bytes -1: none. Any thread. */
void sy_span_begin(sy_span_kind kind, const char *name, int64_t number, int64_t bytes);
void sy_span_end(void);
/* Are spans recorded now? For whoever would have to reckon for one. */
bool sy_span_is_on(void);

/* One that has ended. */
typedef struct sy_span {
    const char *name;
    double begun_s, ended_s; /* sy_clock_s */
    int64_t number, bytes;
    int32_t thread, depth; /* from 0; thread 0 is the one that started the recording */
    sy_span_kind kind;
} sy_span;

enum { SY_SPAN_THREADS = 16, SY_SPAN_NAME = 16 };

/* What was recorded; valid until the next start or discard. */
typedef struct sy_spans {
    const sy_span *item; /* [n] in the order in which they ended */
    int64_t n, n_lost;   /* lost: there was no room for them */
    char thread[SY_SPAN_THREADS][SY_SPAN_NAME];
    int32_t n_threads;
} sy_spans;

/* Record from now on, up to n_max spans; those open already are not seen. SY_ERR_MEMORY. */
sy_status sy_span_start(int64_t n_max);
/* Record no more. */
void sy_span_stop(void);
/* After stop. */
sy_spans sy_span_recorded(void);
/* Stop, and give the memory back. */
void sy_span_discard(void);

#ifdef __cplusplus
}
#endif
#endif

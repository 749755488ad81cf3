/* The slot of a block: attention, dense MLP, MoE, and whatever else maps [T, H] to [T, H]. A
 * sublayer holds parameters only. */
#ifndef SY_MODEL_SUBLAYER_H
#define SY_MODEL_SUBLAYER_H

#include "model/pass.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What sublayers are told when a step has been decided. Sums over all ranks. */
typedef struct sy_step_end {
    const int64_t *h_load, *h_kept; /* [L, E] choices, and those not dropped; NULL: dense */
    int32_t L, E;
    const double *h_router; /* [L, n_router] what routers summed over the step's tokens */
    int64_t n_router;
    int64_t step, routed_tokens;
    int64_t vocab;       /* ids there are; set by the sublayer for its router */
    const double *share; /* [L] of the routed tokens that come to a layer; NULL: all */
    bool skipped;
    sy_value_sync *values; /* asked for trainable values first; NULL: all are there */
    sy_stream *stream;     /* has passed all of the step, and may be waited for */
} sy_step_end;

/* What sublayers are told of the training data before a run's first step, the same on all ranks. */
typedef struct sy_run_begin {
    const double *share; /* [vocab] of the tokens, by id */
    sy_stream *stream;   /* may be waited for */
} sy_run_begin;

typedef struct sy_sublayer_ops {
    const char *name;
    /* Declare parameters under prefix, e.g. "layers/003". Not collective. */
    sy_status (*declare)(void *self, const char *prefix, sy_params *params);
    /* Emit persistent state that is not a parameter. (optional) */
    sy_status (*walk)(void *self, const char *prefix, sy_emit *emit, void *to);
    /* y = f(x); x, y [T, H] compute dtype. x stays valid until backward. saved NULL: keep nothing
       (EVAL, DECODE). TRAIN sets *saved; RECOMPUTE gets the *saved of the TRAIN pass and fills in
       what was not kept. Collective over the groups the sublayer talks over, also with T = 0. */
    sy_status (*forward)(void *self, sy_pass *p, const sy_tensor *x, sy_tensor *y, void **saved);
    /* dx = df/dx^T dy (written, not added); parameters' gradients +=. dx absent: nothing below
     * trains. */
    sy_status (*backward)(void *self, sy_pass *p, void *saved, const sy_tensor *x,
                          const sy_tensor *dy, sy_tensor *dx);
    /* Before the first step of a run that begins anew. (optional) */
    sy_status (*begin)(void *self, const sy_run_begin *begin);
    /* After the step's decision. (optional) */
    sy_status (*end_step)(void *self, const sy_step_end *end);
    void (*destroy)(void *self);
} sy_sublayer_ops;

typedef struct sy_sublayer {
    const sy_sublayer_ops *ops;
    void *self;
} sy_sublayer;

#ifdef __cplusplus
}
#endif
#endif

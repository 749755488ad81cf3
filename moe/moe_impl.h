/* What moe.c (forward) and moe_backward.c share. */
#ifndef SY_MOE_MOE_IMPL_H
#define SY_MOE_MOE_IMPL_H

#include "moe/exchange.h"
#include "moe/experts.h"
#include "moe/moe.h"
#include "moe/shared.h"

typedef struct sy__moe {
    const sy_model_config *model;
    const sy_moe_config *config;
    const sy_router_ops *router;
    int32_t layer;
    sy_param *router_w, *bias; /* [E, H], [E] wide; bias NULL without bias_update_rate */
    sy_experts experts;
    sy_shared shared;
    bool has_shared;
    double *h_bias; /* [E], with h_raw [E] wide: where the bias is updated; NULL without it */
    void *h_raw;
} sy__moe;

/* Lives in p->host; its tensors in p->keep, rows and h in p->saved. */
typedef struct sy__moe_saved {
    sy_scores scores;
    sy_choices choices;
    sy_tensor count; /* [n_scopes, E] I64 for the balance loss */
    sy_plan plan;
    bool kept_rows; /* rows and h are there for backward */
    sy_tensor rows, h;
    void *shared;
} sy__moe_saved;

/* The router's input: x, widened and (training) jittered where that is asked for. Taken from
 * p->scratch; may be x itself. */
sy_status sy__moe_router_input(const sy__moe *moe, sy_pass *p, const sy_tensor *x, sy_tensor *out);
/* Multiply by the same jitter as the router's input, in place. */
sy_status sy__moe_jitter(const sy__moe *moe, sy_pass *p, sy_tensor *x);
/* rows and h of a pass, by dispatching x (again). */
sy_status sy__moe_fill_rows(const sy__moe *moe, sy_pass *p, const sy_plan *plan,
                            const sy_plan_pass *pass, const sy_tensor *x, sy_arena *arena,
                            sy_tensor *rows, sy_tensor *h);
sy_status sy__moe_backward(void *self, sy_pass *p, void *saved, const sy_tensor *x,
                           const sy_tensor *dy, sy_tensor *dx);

/* Where the host's time goes; streams that run at once only. */
typedef enum sy__moe_phase { SY__MOE_DISPATCH, SY__MOE_EXPERTS, SY__MOE_COMBINE } sy__moe_phase;
/* Book the time since `from` under a phase; returns now. */
double sy__moe_book(sy_pass *p, sy__moe_phase phase, double from);

#endif

/* What moe.c (forward) and moe_backward.c share. */
#ifndef SY_MOE_MOE_IMPL_H
#define SY_MOE_MOE_IMPL_H

#include "moe/exchange.h"
#include "moe/experts.h"
#include "moe/host_route.h"
#include "moe/mixed.h"
#include "moe/moe.h"
#include "moe/shared.h"

typedef struct sy__moe {
    const sy_model_config *model;
    const sy_moe_config *config;
    const sy_router_ops *router;
    int32_t layer;
    sy_param *router_w, *bias; /* [E, H], [E] wide; bias NULL without bias_update_rate */
    sy_experts experts;
    sy_mixed mixed; /* is_mixed: instead of experts */
    sy_base base;   /* has_base: every token passes it, and the experts change what it gives */
    bool is_mixed, has_base;
    sy_shared shared;
    bool has_shared;
    sy_router_layout layout;
    sy_param *own[SY_ROUTER_PARAMS], *state; /* of a router on the host; NULL: it has none */
    sy_param *vectors;                       /* [n_vectors, H] */
    int32_t *width;                          /* [E] units of each expert; NULL: all have as many */
    double *h_state; /* [E or n_state], with h_raw [the same] wide: where bias or state is updated;
                        NULL without them */
    double *h_own[SY_ROUTER_PARAMS]; /* own parameters, where the router changes them itself */
    void *h_raw;
} sy__moe;

/* Terms of the output that are computed where the token is; absent where there are none. In
 * p->keep. */
typedef struct sy__local {
    sy_tensor copy; /* [T] wide */
    sy_tensor mix;  /* [T, n_vectors] compute dtype; its gradient is wide */
    sy_tensor each; /* [T + 1] I32 0 .. T */
} sy__local;

/* Tokens that travel together: usually all of the micro-batch. */
typedef struct sy__moe_chunk {
    sy_plan plan;
    bool kept_rows; /* rows and h are there for backward */
    sy_tensor rows, h;
} sy__moe_chunk;

/* Lives in p->host; its tensors in p->keep, rows and h in p->saved. */
typedef struct sy__moe_saved {
    sy_scores scores;
    sy_host_route *host; /* NULL: the router is made of ops */
    sy_choices choices;
    sy__local local;
    sy_tensor count; /* [n_scopes, E] I64 for the balance loss */
    sy__moe_chunk *chunk;
    int32_t n_chunks;
    void *shared, *mixed;
    sy_tensor base_h, base_out; /* [T, 2F], [T, H] has_base */
} sy__moe_saved;

/* The router's input: x, widened and (training) jittered where that is asked for. Taken from
 * p->scratch; may be x itself. */
sy_status sy__moe_router_input(const sy__moe *moe, sy_pass *p, const sy_tensor *x, sy_tensor *out);
/* Multiply by the same jitter as the router's input, in place. */
sy_status sy__moe_jitter(const sy__moe *moe, sy_pass *p, sy_tensor *x);

/* What a rank computes while its rows travel, whatever they become: shared experts. */
typedef struct sy__beside {
    const sy__moe *moe;
    sy__moe_saved *s;
    const sy_tensor *x, *dy;
    sy_tensor *y;         /* forward: what they give */
    bool keep;            /* and backward will want what it needs */
    sy_shared_grad *grad; /* backward, and y is NULL */
} sy__beside;
/* NULL, or no shared experts: nothing. */
sy_status sy__moe_beside(sy_pass *p, const sy__beside *b);

/* Room for rows and h of a pass. */
sy_status sy__moe_rows_room(const sy__moe *moe, sy_pass *p, const sy_plan *plan,
                            const sy_plan_pass *pass, sy_arena *arena, sy_tensor *rows,
                            sy_tensor *h);
/* Rows of one pass from x [T, H] of the plan's tokens, extra riding along; `beside` (NULL: nothing)
 * is computed meanwhile. Collective over mesh->ep. */
sy_status sy__moe_dispatch(sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass,
                           const sy_tensor *x, const sy_tensor *extra, const sy_tensor *rows,
                           const sy_tensor *rows_extra, const sy__beside *beside);
/* rows and h of a pass, by dispatching x (again). Collective likewise. */
sy_status sy__moe_fill_rows(const sy__moe *moe, sy_pass *p, const sy_plan *plan,
                            const sy_plan_pass *pass, const sy_tensor *x, sy_arena *arena,
                            sy_tensor *rows, sy_tensor *h, const sy__beside *beside);
/* The tokens' outputs from their rows' [n_wire, H]; the gradients of their inputs and of their
 * choices' weights [T K] from those of the rows. */
sy_status sy__moe_sum_rows(sy_pass *p, const sy_plan *plan, const sy_tensor *wire,
                           const sy_tensor *y);
sy_status sy__moe_sum_grads(sy_pass *p, const sy_plan *plan, const sy_tensor *dwire,
                            const sy_tensor *g_wire, const sy_tensor *dx, const sy_tensor *g);
/* What the gradients of the experts are weighted with, [n_wire, 1]; from p->scratch where that is
 * not what their outputs are. */
sy_status sy__moe_row_weight(sy_pass *p, const sy__moe_saved *s, const sy_plan *plan,
                             sy_tensor *out);

/* All chunks of a micro-batch, where there are several (moe/chunks.c): as of one, but the rows of
 * one travel while those of another are computed. Collective over mesh->ep. */
sy_status sy__chunks_forward(const sy__moe *moe, sy_pass *p, sy__moe_saved *s, const sy_tensor *x,
                             const sy_tensor *y, const sy__beside *beside);
sy_status sy__chunks_backward(const sy__moe *moe, sy_pass *p, sy__moe_saved *s, const sy_tensor *x,
                              const sy_tensor *dy, const sy_tensor *dx, const sy_tensor *g,
                              const sy__beside *beside);

sy_status sy__moe_backward(void *self, sy_pass *p, void *saved, const sy_tensor *x,
                           const sy_tensor *dy, sy_tensor *dx);

/* Routers on the host (moe/host_route.c). From x to weighed choices within capacity. One host
 * wait. */
sy_status sy__host_route_forward(const sy__moe *moe, sy_pass *p, const sy_tensor *x,
                                 sy__moe_saved *s);
/* The loads that the router wants the balance loss to use. */
sy_status sy__host_route_count(sy_pass *p, const sy_host_route *r, const sy_tensor *count);
/* din [T, M] (from p->scratch) from g [T, K] and dz [T, E], the common losses' gradient; gradients
 * of the router's own parameters +=. One host wait. */
sy_status sy__host_route_backward(const sy__moe *moe, sy_pass *p, const sy__moe_saved *s,
                                  const sy_tensor *g, const sy_tensor *dz, const sy__local *dlocal,
                                  sy_tensor *din);
/* What depends on the model: rows per id, vocabulary. */
void sy__host_route_settle(const sy_model_config *model, sy_router_layout *layout);
/* `router` is the matrix as a router of ops has it. */
sy_status sy__host_route_declare(sy__moe *moe, const char *prefix, sy_param_spec *router,
                                 sy_params *params);
sy_status sy__host_route_begin(sy__moe *moe, const sy_run_begin *begin);
sy_status sy__host_route_end_step(sy__moe *moe, const sy_step_end *end);

/* Terms computed where the token is (moe/local.c): their parameters; room for the weights, that the
 * router fills; y += them; their gradients (from p->scratch) and dx += theirs. */
sy_status sy__local_declare(sy__moe *moe, const char *prefix, sy_params *params);
sy_status sy__local_allocate(const sy__moe *moe, sy_pass *p, sy__local *out);
sy_status sy__local_forward(const sy__moe *moe, sy_pass *p, const sy__local *l, const sy_tensor *x,
                            sy_tensor *y);
sy_status sy__local_backward(const sy__moe *moe, sy_pass *p, const sy__local *l, const sy_tensor *x,
                             const sy_tensor *dy, const sy_tensor *dx, sy__local *grad);

/* Where the host's time goes; streams that run at once only. */
typedef enum sy__moe_phase { SY__MOE_DISPATCH, SY__MOE_EXPERTS, SY__MOE_COMBINE } sy__moe_phase;
/* Book the time since `from` under a phase; returns now. */
double sy__moe_book(sy_pass *p, sy__moe_phase phase, double from);

#endif

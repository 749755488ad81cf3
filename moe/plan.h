/* The plan of a layer and micro-batch: which rows travel where. Built from choices once; forward
   and backward, dispatch and combine all use it. n rows are sent in wire order (owner rank, expert,
   token); R rows are computed in the order (expert, source rank, token). Usually there is one pass;
   where a rank would receive more rows than its buffer holds, the rows beyond travel in further
   passes, the same number on every rank of ep. Device memory unless h_. */
#ifndef SY_MOE_PLAN_H
#define SY_MOE_PLAN_H

#include "moe/router.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_plan_pass {
    int64_t n_send, n_arrive;     /* rows leaving and arriving in this pass */
    int64_t R;                    /* computed rows: arrivals plus alignment */
    int64_t n_each;               /* padded: rows per peer, and h_n_* are NULL */
    int64_t *h_n_send, *h_n_recv; /* [ep] */
    int64_t *h_first;             /* [ep] wire row where the block for each peer begins */
    sy_tensor expert_start;       /* [E_loc+1] I32 */
    sy_tensor computed_from;      /* [R] I32 arrival row of a computed row, -1: zero row */
    sy_tensor arrival_to;         /* [n_arrive] I32 */
} sy_plan_pass;

typedef struct sy_plan {
    int64_t first; /* token of the micro-batch that is its token 0 */
    int64_t T, N;  /* tokens; choice slots T*K */
    int32_t E, E_loc, ep;
    int64_t capacity; /* > 0: padded exchange, rows per expert and source */
    int64_t n_wire;   /* wire rows: N (exact; those behind the real ones are -1) or E * capacity */
    sy_tensor count;  /* [E] I32 rows by wire place */
    sy_tensor row_token, row_choice; /* [n_wire] I32, -1: empty */
    sy_tensor row_weight;            /* [n_wire, 1] wide */
    sy_tensor choice_row;            /* [N] I32 */
    sy_tensor token_start,
        token_row;  /* [T+1], [N] I32: the rows of a token, combined in this order */
    bool may_split; /* could more passes than one have been needed? */
    int32_t n_passes;
    sy_plan_pass *pass; /* [n_passes] */
} sy_plan;

typedef struct sy_plan_spec {
    int32_t E;
    int64_t capacity;  /* > 0: pad to it */
    int64_t recv_rows; /* exact: room for arriving rows, of each plan */
    int32_t n;         /* chunks that the tokens are cut into, with a plan each; 0: 1. Exact only */
} sy_plan_spec;

/* Tables from choices, then row counts between ranks: plan[0 .. n-1], of as many chunks of the
   tokens. Requires that choices->token names the token of its row. Collective over mesh->ep, also
   with T = 0. Everything is taken from p->keep and p->host. Exact counts cost one host wait; padded
   none. */
sy_status sy_plan_build(sy_pass *p, const sy_plan_spec *spec, const sy_choices *c, sy_plan *plan);

#ifdef __cplusplus
}
#endif
#endif

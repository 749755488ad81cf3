/* One micro-batch on its way through the model: whatever lives as long as it hangs here; layers
   keep nothing between calls. Memory: `keep` lives until the micro-batch's backward is over;
   `saved` too, unless the block is recomputed (then it is the block's arena); `scratch` is given
   back by whoever took from it before returning. */
#ifndef SY_MODEL_PASS_H
#define SY_MODEL_PASS_H

#include "backend/arena.h"
#include "backend/ops.h"
#include "core/batch.h"
#include "parallel/grad_sync.h"
#include "parallel/value_sync.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_pass_kind {
    SY_PASS_TRAIN,
    SY_PASS_RECOMPUTE, /* a second forward for backward's sake: same bits; counts, routes and
                          updates nothing */
    SY_PASS_EVAL,
    SY_PASS_DECODE /* with a key/value cache */
} sy_pass_kind;

typedef enum sy_recompute { SY_RECOMPUTE_NONE, SY_RECOMPUTE_MOE, SY_RECOMPUTE_BLOCK } sy_recompute;

/* A micro-batch in device memory; T = B*S rows, possibly 0. Optional ones are absent (data NULL) as
 * in sy_batch. */
typedef struct sy_device_batch {
    int32_t B, S;
    int64_t T;
    sy_tensor ids, targets, loss_weight, routed, pos, doc, token_glb; /* [T] */
} sy_device_batch;

/* Per-layer sums of a step on this rank; zeroed by the trainer when a step starts, reduced when it
 * ends. */
enum {
    SY_SUM_ENTROPY,
    SY_SUM_CONFIDENCE, /* largest score of each routed token */
    SY_SUM_AUX,
    SY_SUM_Z,
    SY_SUM_OUTPUT,      /* squares of what the sublayer gives, over routed tokens, */
    SY_SUM_INPUT,       /* and of what it gets */
    SY_SUM_ROUTER,      /* losses of the router's own, with their coefficients */
    SY_SUM_METRIC,      /* what the router wants to be seen, summed over routed tokens */
    SY_SUM_DEPTH,       /* loss of the predictor of depth, with its coefficient; */
    SY_SUM_DEPTH_RIGHT, /* routed tokens of which it says what the router does */
    SY_N_SUMS
};
/* And of a step for each module of multi-token prediction. */
enum {
    SY_MTP_NLL,
    SY_MTP_TARGETS, /* tokens that have one, */
    SY_MTP_ROUTED,  /* and that are no padding */
    SY_MTP_N_SUMS
};
enum { SY_DROP_PARTS = 8 }; /* a sequence is cut into, to say where drops are */
typedef struct sy_stats {
    sy_tensor load, kept; /* [L, E] I64: choices, and choices that were not dropped */
    sy_tensor dropped_at; /* [L, SY_DROP_PARTS] I64: dropped choices by place in the sequence */
    sy_tensor sums;       /* [L, SY_N_SUMS] F64 */
    sy_tensor nll_sum;    /* [1] F64: sum of nll over this rank's loss tokens */
    double dispatch_s, combine_s, experts_s; /* host time inside; streams that run at once only */
    int64_t n_extra_passes;
    sy_tensor output_z; /* [1] F64: sum of logsumexp(logits)^2 over them; model.output_z_loss_coeff
                           0: not touched */
    sy_tensor mtp;      /* [D, SY_MTP_N_SUMS] F64, as one row */
    double *h_router; /* [L, n] host: what routers sum over a step for themselves; NULL: nothing */
    /* Every choice of this rank, one layer after another, for whoever wants to see them: [n] I32
       expert or -1, [n] U8 not dropped. Usually absent. */
    sy_tensor chosen, chosen_kept;
    int64_t n_chosen;
} sy_stats;

/* Small host memory of a pass: chunks are kept and used again, so a warm step allocates nothing.
 * Not collective. */
typedef struct sy_host_arena {
    char **chunk;
    int64_t *chunk_bytes;
    int32_t n_chunks, chunk_idx;
    int64_t used;
    bool reused; /* it has been reset: chunks may hold something */
} sy_host_arena;
sy_status sy_host_arena_alloc(sy_host_arena *arena, int64_t bytes,
                              void **out); /* zeroed. Not collective. */
void sy_host_arena_reset(sy_host_arena *arena);
void sy_host_arena_free(sy_host_arena *arena);

typedef struct sy_pass {
    sy_pass_kind kind;
    int64_t step;
    int32_t micro_idx; /* in the step's global batch */
    uint64_t seed;
    sy_recompute recompute;
    sy_dtype compute, wide;
    const sy_device_batch *batch;
    const sy_batch *h_batch; /* what it is a copy of; TRAIN with model.mtp_layers reads it */
    /* [T of the whole micro-batch] I32 row in `batch` of each token, or batch->T: it is not there.
       Absent: all are, at their own places. */
    sy_tensor row_of;
    int64_t T_max;   /* the largest T any rank may have in this run: sizes of fixed buffers */
    int64_t T_round; /* tokens of all ranks' micro-batches; told where moe.capacity_scope is global
                      */
    const sy_mesh *mesh;
    sy_stream *stream, *comm; /* compute and communication */
    struct sy_travel *travel; /* rows go between ranks beside `stream` (moe/exchange.h); NULL: on it
                               */
    sy_arena *keep, *saved, *scratch, *block;
    sy_host_arena *host;
    double mtp_factor;                       /* of model.mtp_loss_coeff at this step */
    double per_loss_token, per_routed_token; /* 1 / count over the step's global batch, known before
                                                the first backward */
    sy_grad_sync *grads;   /* told how far backward is; NULL: nobody waits for gradients */
    sy_value_sync *values; /* asked by forward before it reads parameters; NULL: all are there */
    sy_tensor rope;        /* [P, D] wide, see sy_rope_args */
    sy_tensor nll;         /* [T] wide, written by the head */
    struct sy_kv *kv;      /* DECODE */
    int32_t layer;         /* the block that now runs */
    void *carry;           /* between layers of one family, its gradient on the way back */
    sy_stats *stats;       /* NULL: count nothing */
} sy_pass;

/* x = factor * x; nothing is enqueued where factor is 1. Not collective. */
sy_status sy_scale_in_place(sy_pass *p, double factor, const sy_tensor *x);

/* y = x W^T; dx = dy W (beta 0 or 1); dW += dy^T x. x [T, in], w [out, in], dy [T, out], dw [out,
 * in] wide, absent: frozen (nothing is done). Not collective. */
sy_status sy_linear_forward(sy_pass *p, const sy_tensor *x, const sy_tensor *w, sy_tensor *y);
sy_status sy_linear_dgrad(sy_pass *p, const sy_tensor *dy, const sy_tensor *w, sy_tensor *dx,
                          double beta);
sy_status sy_linear_wgrad(sy_pass *p, const sy_tensor *dy, const sy_tensor *x, const sy_tensor *dw);

#ifdef __cplusplus
}
#endif
#endif

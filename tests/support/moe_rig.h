/* One MoE sublayer by itself, without a model around it: weights, tokens and results are doubles on
   the host. And the same layer said plainly, as the oracle: token by token, expert by expert, with
   no plan, no exchange and no op. */
#ifndef SY_TESTS_MOE_RIG_H
#define SY_TESTS_MOE_RIG_H

#include "moe/moe.h"

enum { RIG_E = 12, RIG_H = 8, RIG_F = 6, RIG_T = 36, RIG_GATED = 2 * RIG_F * RIG_H };

/* All experts of all ranks; also the gradients of the same. Gate and up lie one behind the other,
 * [2F, H], as in memory. */
typedef struct rig_weights {
    double router[RIG_E * RIG_H], bias[RIG_E];
    double gate_up[RIG_E * RIG_GATED], down[RIG_E * RIG_H * RIG_F];
    double shared_gate_up[RIG_GATED], shared_down[RIG_H * RIG_F], shared_router[RIG_H];
} rig_weights;

/* A micro-batch of B sequences of S tokens on one rank, and the gradient that comes from above. */
typedef struct rig_tokens {
    int32_t B, S;
    double x[RIG_T * RIG_H], dy[RIG_T * RIG_H];
    bool masked; /* routed [T] holds */
    uint8_t routed[RIG_T];
} rig_tokens;

typedef struct rig_result {
    double y[RIG_T * RIG_H], dx[RIG_T * RIG_H], sums[SY_N_SUMS];
    int64_t load[RIG_E], kept[RIG_E], dropped_at[SY_DROP_PARTS], n_extra_passes;
} rig_result;

typedef struct rig_spec {
    sy_moe_config moe;
    const char *backend;
    sy_comm *world; /* host communicator */
    int32_t ep;
} rig_spec;

typedef struct moe_rig {
    sy_moe_config moe;
    sy_model_config model;
    sy_device *dev;
    sy_stream *stream, *comm;
    sy_mesh *mesh;
    sy_params *params;
    sy_sublayer layer;
    sy_arena fixed, keep, scratch;
    sy_host_arena host;
    sy_device_batch batch;
    sy_stats stats;
} moe_rig;

/* E experts, the K best, weights that sum to 1, no drops, no losses: what a test starts from. */
sy_moe_config rig_config(int32_t E, int32_t K);
/* Normal numbers; the same weights for any E. */
void rig_draw_weights(uint64_t seed, rig_weights *out);
void rig_draw_tokens(uint64_t seed, int32_t B, int32_t S, rig_tokens *out);

/* Collective over spec->world. Gradients start at zero. */
sy_status rig_open(moe_rig *rig, const rig_spec *spec);
void rig_close(moe_rig *rig);
/* This rank's part of the weights; those that the layer does not have are passed over. */
sy_status rig_put(moe_rig *rig, const rig_weights *w);
/* Forward and backward of one micro-batch, gradients added up; every routed token weighs per_routed
   in the losses. sums and loads are this rank's. Collective over ep, and over dp where the scope is
   the global batch. */
sy_status rig_train(moe_rig *rig, const rig_tokens *in, double per_routed, rig_result *out);
/* This rank's gradients, at their places; 0 elsewhere. */
sy_status rig_get_gradients(moe_rig *rig, rig_weights *out);
/* sy_sublayer_ops.end_step with these loads [E]; then the bias. */
sy_status rig_end_step(moe_rig *rig, const int64_t *load, bool skipped, double *bias);

/* What the layer has to give for one rank's micro-batch, dx excepted. capacity < 0: unlimited.
   load_glb [E]: loads of the global batch, for that scope; NULL: this is all of it. */
void plain_moe(const sy_moe_config *c, const rig_weights *w, const rig_tokens *in, int64_t capacity,
               const int64_t *load_glb, double per_routed, rig_result *out);
/* out [H] = W_down (silu(W_gate x) * W_up x). */
void plain_ffn(const double *gate_up, const double *down, const double *x, double *out);

/* The largest |a - b| / (1 + |b|). A NaN is infinite. */
double rig_gap(const double *a, const double *b, int64_t n);

#endif

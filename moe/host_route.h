/* One layer and micro-batch as a router on the host sees it: plain arrays in double, whatever the
   device holds. Forward fills in the choices, backward the gradients; in between it lives with the
   pass. */
#ifndef SY_MOE_HOST_ROUTE_H
#define SY_MOE_HOST_ROUTE_H

#include "moe/router.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_host_route {
    const sy_moe_config *config; /* config->own: the router's section */
    int64_t T;                   /* tokens: B sequences of S, one behind the other */
    int32_t B, S, E, K, M, layer, vocab;
    bool training;            /* noise is drawn, state may be used; never in evaluation */
    uint64_t seed, stream;    /* of random draws; the index is the token's in the global batch */
    double per_token;         /* 1 / routed tokens of the step: losses are sums times it */
    const uint8_t *routed;    /* [T] NULL: 1. 0: leave the token alone */
    const int32_t *ids;       /* [T] */
    const int64_t *token_glb; /* [T] */
    double *in, *z;           /* [T, M], [T, E]; the same array where the router has no score */
    int64_t H;                /* width of x */
    double *sum;              /* [n_sums] of the step so far; += in training, where it is given */
    int32_t *expert;          /* [T, K] in the order of choice, -1: hole */
    double *weight;           /* [T, K] */
    double *weight_grad;      /* [T, K] SY_ROUTER_TWO_WEIGHTS: what the experts' gradients use */
    int64_t *count;           /* [n_scopes, E] SY_ROUTER_OWN_COUNT: loads of the balance loss */
    int32_t n_scopes;         /* of the balance loss: B, or 1 */
    double *param[SY_ROUTER_PARAMS], *dparam[SY_ROUTER_PARAMS]; /* NULL: not in this layer */
    double *copy, *mix;          /* [T], [T, n_vectors]: terms computed where the token is */
    double *dcopy, *dmix;        /* backward */
    double *carry, *dcarry;      /* [T, n_carry] for the layer above; its gradient from there */
    const double *below;         /* [T, n_carry] of the MoE layer below; NULL: there is none */
    double *dbelow;              /* backward: += */
    struct sy_host_route *lower; /* whose carry `below` is */
    void *work;
    double *state, *bias; /* bias [E]: NULL without moe.bias_update_rate */
    double *note;         /* [T, E] zeros: for backward, whatever it wants of forward */
    double *scratch;      /* [2 (E + M + T)]; weighing uses the first E */
    double *g, *dz, *din; /* backward: [T, K], [T, E], [T, M] */
    double loss, metric;  /* sums over this micro-batch; loss with its coefficient */
} sy_host_route;

static inline bool sy_host_routed(const sy_host_route *r, int64_t t)
{
    return r->routed == NULL || r->routed[t];
}

#ifdef __cplusplus
}
#endif
#endif

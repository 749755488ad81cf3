/* GRIN (SparseMixer-v2): experts are drawn, and the router's gradient estimates that of the
   expectation. Choice k: pi = softmax over the experts not yet chosen whose logit is near the
   largest, z* - z_e <= r (|z_e| + |z*|); D drawn from pi; the output is m pi_D Expert_D with
   m = 1 where D is the largest, else 1 or 1/3 by chance 1/4 : 3/4; gradients are those of
   pi_D Expert_D. Evaluation takes the largest, with m = 1.
   Liu et al. 2024 (GRIN, arXiv 2409.12136) 2.2, algorithms 1 and 3. */
#include <math.h>

#include "moe/routers_impl.h"

typedef struct grin_config {
    double near;
} grin_config;

/* pi of choice k, given those before it; returns the largest. */
static int32_t masked_softmax(const sy_host_route *r, int64_t t, int32_t k, double *z, double *pi)
{
    const grin_config *own = r->config->own;
    int32_t best;
    for (int32_t e = 0; e < r->E; e++) {
        z[e] = r->z[t * r->E + e];
    }
    for (int32_t j = 0; j < k; j++) {
        z[r->expert[t * r->K + j]] = -INFINITY;
    }
    sy__largest(z, r->E, 1, &best);
    for (int32_t e = 0; e < r->E && best >= 0; e++) {
        if (z[best] - z[e] > own->near * (fabs(z[e]) + fabs(z[best]))) {
            z[e] = -INFINITY;
        }
    }
    sy__scores(false, z, r->E, pi);
    return best;
}

static int32_t drawn(const sy_host_route *r, int64_t t, int32_t k, const double *pi, int32_t best)
{
    double left = sy__route_uniform(r, t, k, 0);
    for (int32_t e = 0; e < r->E; e++) {
        left -= pi[e];
        if (left < 0) {
            return e;
        }
    }
    return best; /* rounding */
}

static void choose(sy_host_route *r)
{
    double *z = r->scratch, *pi = r->scratch + r->E;
    for (int64_t t = 0; t < r->T; t++) {
        for (int32_t k = 0; k < r->K && sy_host_routed(r, t); k++) {
            const int64_t i = t * r->K + k;
            const int32_t best = masked_softmax(r, t, k, z, pi);
            const int32_t d = r->training && best >= 0 ? drawn(r, t, k, pi, best) : best;
            if (d < 0) {
                break; /* no number among the logits */
            }
            const bool whole = !r->training || d == best || sy__route_uniform(r, t, k, 1) < 0.25;
            r->expert[i] = d;
            r->weight_grad[i] = r->config->routed_scale * pi[d];
            r->weight[i] = r->weight_grad[i] * (whole ? 1 : 1.0 / 3);
        }
    }
}

static void backward(sy_host_route *r)
{
    double *z = r->scratch, *pi = r->scratch + r->E;
    for (int64_t i = 0; i < r->T * r->K; i++) {
        const int64_t t = i / r->K;
        const int32_t d = r->expert[i];
        if (d < 0) {
            continue;
        }
        masked_softmax(r, t, (int32_t)(i % r->K), z, pi);
        for (int32_t e = 0; e < r->E; e++) {
            r->dz[t * r->E + e] += r->config->routed_scale * r->g[i] * pi[d] * ((e == d) - pi[e]);
        }
    }
}

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    SY__KEY(grin_config, field, kind, def, lo, hi, choices, text)
static const sy_config_key keys[] = {
    KEY(near, SY_CFG_F64, "0.01", 0, 1, NULL,
        "r: an expert is near enough to be drawn where z* - z_e <= r (|z_e| + |z*|)."),
    {0},
};
const sy_config_section sy_router_section_grin = {
    .name = "moe.grin",
    .help = "Drawn experts with estimated gradients (SparseMixer-v2).",
    .keys = keys,
    .struct_bytes = sizeof(grin_config)};

const sy_router_ops sy__router_grin = {
    .name = "grin",
    .source = "Liu et al. 2024 (GRIN, arXiv 2409.12136) 2.2",
    .traits = SY_ROUTER_FIXED_WEIGHTS | SY_ROUTER_TWO_WEIGHTS | SY_ROUTER_ESTIMATES,
    .host = &(const sy_host_router_ops){.forward_cost = {20.2, 0},
                                        .backward_cost = {19.9, 0},
                                        .choose = choose,
                                        .backward = backward}};

/* Sinkhorn (S-BASE): in training the K best of the balanced plan d_e exp(z_te) d_t whose rows sum
   to 1/T and whose columns sum to 1/E, over the routed tokens of a micro-batch; the plan carries no
   gradient. Weights are softmax(z), or sigmoid(z) where top_k is 1. Evaluation takes the K largest
   z. A logit further than 300 below a token's best counts as 300 below, so that every entry is a
   number that can be balanced. Clark et al. 2022 (arXiv 2202.01169) B.2.1; Megatron-LM's form,
   without the 1e-8 beside its sums, which decides where logits lie 20 apart. */
#include <math.h>

#include "moe/routers_impl.h"

typedef struct sinkhorn_config {
    int32_t iterations;
    double tolerance;
} sinkhorn_config;

/* exp(-furthest), and what it takes to balance a column of such entries, are within a double. */
static const double furthest = 300;

/* A = exp(z - row maximum): the plan does not see a constant per token. */
static int64_t exponents(sy_host_route *r)
{
    int64_t n = 0;
    for (int64_t t = 0; t < r->T; t++) {
        const double *z = r->z + t * r->E;
        double max = -INFINITY;
        for (int32_t e = 0; e < r->E; e++) {
            max = fmax(max, z[e]);
        }
        for (int32_t e = 0; e < r->E; e++) {
            r->note[t * r->E + e] = sy_host_routed(r, t) ? exp(fmax(z[e] - max, -furthest)) : 0;
        }
        n += sy_host_routed(r, t);
    }
    return n;
}

/* One round: rows d_t, then columns d_e; returns the mean change of the columns. */
static double balance(const sy_host_route *r, int64_t n, double *d_t, double *d_e)
{
    double change = 0;
    for (int64_t t = 0; t < r->T; t++) {
        double sum = 0;
        for (int32_t e = 0; e < r->E; e++) {
            sum += d_e[e] * r->note[t * r->E + e];
        }
        d_t[t] = sy_host_routed(r, t) ? 1 / ((double)n * sum) : 0;
    }
    for (int32_t e = 0; e < r->E; e++) {
        double sum = 0;
        for (int64_t t = 0; t < r->T; t++) {
            sum += d_t[t] * r->note[t * r->E + e];
        }
        const double next = 1 / (r->E * sum);
        change += fabs(next - d_e[e]) / r->E;
        d_e[e] = next;
    }
    return change;
}

/* note becomes the plan. */
static void solve(sy_host_route *r)
{
    const sinkhorn_config *own = r->config->own;
    double *d_e = r->scratch, *d_t = r->scratch + r->E;
    const int64_t n = exponents(r);
    for (int32_t e = 0; e < r->E; e++) {
        d_e[e] = 1;
    }
    for (int32_t i = 0; i < own->iterations && n > 0; i++) {
        if (balance(r, n, d_t, d_e) <= own->tolerance) {
            break;
        }
    }
    for (int64_t i = 0; i < r->T * r->E && n > 0; i++) {
        r->note[i] *= d_t[i / r->E] * d_e[i % r->E];
    }
}

static sy__form form_of(const sy_host_route *r)
{
    return (sy__form){r->K == 1, false, r->config->routed_scale};
}

static void choose(sy_host_route *r)
{
    const sy__form form = form_of(r);
    if (r->training) {
        solve(r);
    }
    for (int64_t t = 0; t < r->T; t++) {
        if (sy_host_routed(r, t)) {
            sy__largest((r->training ? r->note : r->z) + t * r->E, r->E, r->K,
                        r->expert + t * r->K);
        }
    }
    sy__weigh_all(r, &form);
}

static void backward(sy_host_route *r)
{
    const sy__form form = form_of(r);
    sy__weigh_all_backward(r, &form);
}

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    SY__KEY(sinkhorn_config, field, kind, def, lo, hi, choices, text)
static const sy_config_key keys[] = {
    KEY(iterations, SY_CFG_I32, "100", 1, 1 << 20, NULL, "Most rounds per micro-batch."),
    KEY(tolerance, SY_CFG_F64, "0.0001", 0, 1, NULL,
        "Stop where the columns' factors change by less in the mean."),
    {0},
};
const sy_config_section sy_router_section_sinkhorn = {
    .name = "moe.sinkhorn",
    .help = "Sinkhorn routing (S-BASE): balanced plans in training.",
    .keys = keys,
    .struct_bytes = sizeof(sinkhorn_config)};

const sy_router_ops sy__router_sinkhorn = {
    .name = "sinkhorn",
    .source = "Clark et al. 2022 (arXiv 2202.01169) B.2.1",
    .traits = SY_ROUTER_NO_AUX | SY_ROUTER_FIXED_WEIGHTS | SY_ROUTER_MICRO_BATCH,
    .host = &(const sy_host_router_ops){.forward_cost = {25.9, 0},
                                        .backward_cost = {10.1, 0},
                                        .choose = choose,
                                        .backward = backward}};

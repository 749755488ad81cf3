/* Top-p: a token visits the most probable experts until their probabilities sum to more than a
   threshold, the one that crosses it included. Weights are the probabilities. An entropy term keeps
   the router from visiting everybody by being undecided. Huang et al. 2024 (arXiv 2403.07652) 3. */
#include <math.h>

#include "moe/routers_impl.h"

typedef struct top_p_config {
    double threshold, entropy_coeff;
} top_p_config;

static void layout(const sy_moe_config *config, sy_router_layout *out)
{
    out->K = config->experts;
}

static void choose(sy_host_route *r)
{
    const top_p_config *own = r->config->own;
    const sy__form form = {false, false, r->config->routed_scale};
    for (int64_t t = 0; t < r->T; t++) {
        int32_t *expert = r->expert + t * r->K;
        double sum = 0;
        if (!sy_host_routed(r, t)) {
            continue;
        }
        sy__scores(false, r->z + t * r->E, r->E, r->scratch);
        sy__largest(r->scratch, r->E, r->K, expert);
        for (int32_t k = 0; k < r->K; k++) {
            if (sum > own->threshold) {
                expert[k] = -1;
            }
            sum += expert[k] >= 0 ? r->scratch[expert[k]] : 0;
        }
    }
    sy__weigh_all(r, &form);
}

/* beta H per token, H = -sum p ln p; dH/dz = -p (ln p + H). */
static void backward(sy_host_route *r)
{
    const top_p_config *own = r->config->own;
    const sy__form form = {false, false, r->config->routed_scale};
    const double factor = own->entropy_coeff * r->per_token;
    double *p = r->scratch;
    sy__weigh_all_backward(r, &form);
    for (int64_t t = 0; t < r->T; t++) {
        double entropy = 0;
        if (!sy_host_routed(r, t)) {
            continue;
        }
        sy__scores(false, r->z + t * r->E, r->E, p);
        for (int32_t e = 0; e < r->E; e++) {
            entropy -= p[e] > 0 ? p[e] * log(p[e]) : 0;
        }
        for (int32_t e = 0; e < r->E; e++) {
            r->dz[t * r->E + e] -= p[e] > 0 ? factor * p[e] * (log(p[e]) + entropy) : 0;
        }
        r->loss += factor * entropy;
        for (int32_t k = 0; k < r->K; k++) {
            r->metric += r->expert[t * r->K + k] >= 0;
        }
    }
}

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    SY__KEY(top_p_config, field, kind, def, lo, hi, choices, text)
static const sy_config_key keys[] = {
    KEY(threshold, SY_CFG_F64, "0.4", 0, 1, NULL, "Probability that the chosen experts exceed."),
    KEY(entropy_coeff, SY_CFG_F64, "0.0001", 0, 1e6, NULL,
        "Coefficient of the mean entropy of the probabilities."),
    {0},
};
const sy_config_section sy_router_section_top_p = {
    .name = "moe.top_p",
    .help = "As many experts as make up a probability; moe.top_k counts for capacity and FLOPs.",
    .keys = keys,
    .struct_bytes = sizeof(top_p_config)};

static const sy_router_loss losses[] = {
    {"moe.top_p.entropy_coeff", "sum over layers of the mean entropy of p"},
    {0},
};

const sy_router_ops sy__router_top_p = {.name = "top_p",
                                        .source = "Huang et al. 2024 (arXiv 2403.07652) 3",
                                        .traits = SY_ROUTER_FIXED_WEIGHTS,
                                        .metric = "experts_per_token",
                                        .losses = losses,
                                        .host =
                                            &(const sy_host_router_ops){.forward_cost = {0, 11},
                                                                        .backward_cost = {31.1, 0},
                                                                        .layout = layout,
                                                                        .choose = choose,
                                                                        .backward = backward}};

/* ReLU routing: a token visits every expert whose logit is positive, R = max(z, 0) is its weight.
   How many that are is held at top_k by an L1 term, lambda sum_e f_e R_te per token with
   f_e = E n_e / (top_k T) over the scope of the balance loss; lambda = lambda_0 alpha^n, n one more
   after a step in which more experts were active than wanted, one less after any other. One n for
   all layers, counted over all ranks. Wang et al. 2024 (ReMoE, arXiv 2412.14711) 3. */
#include <math.h>

#include "moe/routers_impl.h"

typedef struct remoe_config {
    double lambda, alpha;
} remoe_config;

static void layout(const sy_moe_config *config, sy_router_layout *out)
{
    out->K = config->experts;
    out->n_state = 1;
}

static void choose(sy_host_route *r)
{
    for (int64_t t = 0; t < r->T; t++) {
        int32_t n = 0;
        for (int32_t e = 0; e < r->E && sy_host_routed(r, t); e++) {
            if (r->z[t * r->E + e] > 0) {
                r->expert[t * r->K + n] = e;
                r->weight[t * r->K + n++] = r->config->routed_scale * r->z[t * r->E + e];
            }
        }
    }
}

/* The L1 term of the tokens [from, to), which are a scope. */
static void regularise(sy_host_route *r, int64_t from, int64_t to, double lambda)
{
    double *n = r->scratch;
    int64_t n_routed = 0;
    for (int32_t e = 0; e < r->E; e++) {
        n[e] = 0;
    }
    for (int64_t t = from; t < to; t++) {
        n_routed += sy_host_routed(r, t);
        for (int32_t k = 0; k < r->K && r->expert[t * r->K + k] >= 0; k++) {
            n[r->expert[t * r->K + k]]++;
        }
    }
    for (int64_t t = from; t < to; t++) {
        for (int32_t k = 0; k < r->K && r->expert[t * r->K + k] >= 0; k++) {
            const int32_t e = r->expert[t * r->K + k];
            const double f = r->E * n[e] / ((double)r->config->top_k * (double)n_routed);
            r->loss += lambda * r->per_token * f * r->z[t * r->E + e];
            r->dz[t * r->E + e] += lambda * r->per_token * f;
        }
    }
    r->metric += lambda * (double)n_routed;
}

static void backward(sy_host_route *r)
{
    const remoe_config *own = r->config->own;
    const double lambda = own->lambda * pow(own->alpha, r->state[0]);
    const int64_t n = r->n_scopes > 0 ? r->T / r->n_scopes : 0;
    for (int64_t i = 0; i < r->T * r->K; i++) {
        if (r->expert[i] >= 0) {
            r->dz[i / r->K * r->E + r->expert[i]] += r->config->routed_scale * r->g[i];
        }
    }
    for (int32_t s = 0; s < r->n_scopes; s++) {
        regularise(r, s * n, (s + 1) * n, lambda);
    }
}

static void end_step(const sy_moe_config *config, const sy_step_end *end, int32_t layer,
                     double *state)
{
    (void)layer;
    int64_t active = 0;
    double wanted = 0;
    for (int32_t i = 0; i < end->L; i++) {
        for (int32_t e = 0; e < end->E && sy_moe_config_layer(config, i); e++) {
            active += end->h_load[(int64_t)i * end->E + e];
        }
        const double share = end->share != NULL ? end->share[i] : 1;
        wanted +=
            sy_moe_config_layer(config, i) ? share * (double)end->routed_tokens * config->top_k : 0;
    }
    state[0] += (double)active > wanted ? 1 : -1;
}

static sy_status check(const sy_moe_config *config, const sy_config *all)
{
    if (config->aux_loss_scope == SY_AUX_GLOBAL_BATCH) {
        return sy_config_error(all, "moe.aux_loss_scope",
                               "moe.aux_loss_scope global_batch with moe.router remoe, whose L1 "
                               "term counts in a sequence or a micro_batch");
    }
    return SY_OK;
}

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    SY__KEY(remoe_config, field, kind, def, lo, hi, choices, text)
static const sy_config_key keys[] = {
    KEY(lambda, SY_CFG_F64, "1e-08", 0, 1e6, NULL, "Coefficient of the L1 term at the start."),
    KEY(alpha, SY_CFG_F64, "1.2", 1, 10, NULL,
        "What it is multiplied or divided by after every step."),
    {0},
};
const sy_config_section sy_router_section_remoe = {
    .name = "moe.remoe",
    .help = "ReLU routing; moe.top_k is the number of experts per token that it aims at.",
    .keys = keys,
    .struct_bytes = sizeof(remoe_config)};

static const sy_router_loss losses[] = {
    {"moe.remoe.lambda",
     "sum over layers of the mean of sum_e f_e R_te, f = E n_e / (K T); times alpha^n"},
    {0},
};

const sy_router_ops sy__router_remoe = {
    .name = "remoe",
    .source = "Wang et al. 2024 (ReMoE, arXiv 2412.14711) 3",
    .traits = SY_ROUTER_NO_CAPACITY | SY_ROUTER_NO_AUX | SY_ROUTER_NO_Z | SY_ROUTER_FIXED_WEIGHTS,
    .check = check,
    .metric = "lambda",
    .losses = losses,
    .host = &(const sy_host_router_ops){.forward_cost = {2.84, 0},
                                        .backward_cost = {4.42, 0},
                                        .layout = layout,
                                        .choose = choose,
                                        .backward = backward,
                                        .end_step = end_step}};

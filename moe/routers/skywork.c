/* Logit normalisation and adaptive balance loss: z = lambda (y - mean) / std of a token's logits
   y = x W, so that the gates' sharpness is set and not learnt. The balance loss of each layer has a
   coefficient of its own that follows the layer's share of dropped choices d:
   alpha <- beta alpha + (1 - beta) min(xi d, alpha_max) after each step; it begins with
   moe.aux_loss_coeff. Wei et al. 2024 (Skywork-MoE, arXiv 2406.06563) 3.2, 3.3. */
#include <math.h>

#include "moe/routers_impl.h"

typedef struct skywork_config {
    double scale, keep, slope, most;
} skywork_config;

static void layout(const sy_moe_config *config, sy_router_layout *out)
{
    (void)config;
    out->n_state = 1; /* coefficient less moe.aux_loss_coeff */
}

static void moments(const double *y, int32_t n, double *mean, double *std)
{
    double square = 0;
    *mean = 0;
    for (int32_t e = 0; e < n; e++) {
        *mean += y[e] / n;
    }
    for (int32_t e = 0; e < n; e++) {
        square += (y[e] - *mean) * (y[e] - *mean) / n;
    }
    *std = sqrt(square + 1e-12);
}

static void score(sy_host_route *r)
{
    const skywork_config *own = r->config->own;
    for (int64_t t = 0; t < r->T; t++) {
        const double *y = r->in + t * r->M;
        double mean, std;
        moments(y, r->E, &mean, &std);
        for (int32_t e = 0; e < r->E; e++) {
            r->z[t * r->E + e] = own->scale * (y[e] - mean) / std;
        }
    }
}

static void backward(sy_host_route *r)
{
    const sy__form form = sy__form_of(r->config);
    const double alpha = r->config->aux_loss_coeff + r->state[0];
    const int64_t n = r->n_scopes > 0 ? r->T / r->n_scopes : 0;
    double *p = r->scratch, *cost = r->scratch + r->E;
    sy__weigh_all_backward(r, &form);
    for (int64_t t = 0; t < r->T; t++) {
        if (t % n == 0) {
            sy__balance_costs(r, t, t + n, cost);
        }
        if (sy_host_routed(r, t)) {
            sy__scores(false, r->z + t * r->E, r->E, p);
            r->loss += sy__add_cost(p, cost, r->E, alpha * r->per_token, r->dz + t * r->E);
            r->metric += alpha;
        }
    }
}

/* dy = lambda / std (dz - mean dz - z / lambda^2 mean(dz z)). */
static void score_backward(sy_host_route *r)
{
    const skywork_config *own = r->config->own;
    for (int64_t t = 0; t < r->T; t++) {
        const double *z = r->z + t * r->E, *dz = r->dz + t * r->E;
        double mean, std, of_dz = 0, of_both = 0;
        moments(r->in + t * r->M, r->E, &mean, &std);
        for (int32_t e = 0; e < r->E; e++) {
            of_dz += dz[e] / r->E;
            of_both += dz[e] * z[e] / r->E;
        }
        for (int32_t e = 0; e < r->E; e++) {
            r->din[t * r->M + e] +=
                own->scale / std * (dz[e] - of_dz - z[e] / (own->scale * own->scale) * of_both);
        }
    }
}

static void end_step(const sy_moe_config *config, const sy_step_end *end, int32_t layer,
                     double *state)
{
    const skywork_config *own = config->own;
    double load = 0, kept = 0, wanted;
    for (int32_t e = 0; e < end->E; e++) {
        load += (double)end->h_load[(int64_t)layer * end->E + e];
        kept += (double)end->h_kept[(int64_t)layer * end->E + e];
    }
    wanted = fmin(own->slope * (load > 0 ? 1 - kept / load : 0), own->most);
    state[0] = own->keep * (config->aux_loss_coeff + state[0]) + (1 - own->keep) * wanted -
               config->aux_loss_coeff;
}

static sy_status check(const sy_moe_config *config, const sy_config *all)
{
    if (config->score == SY_SCORE_SIGMOID) {
        return sy_config_error(all, "moe.score",
                               "moe.score sigmoid with moe.router skywork, whose logits are for a "
                               "softmax; set it to softmax");
    }
    return SY_OK;
}

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    SY__KEY(skywork_config, field, kind, def, lo, hi, choices, text)
static const sy_config_key keys[] = {
    KEY(scale, SY_CFG_F64, "1.0", 1e-6, 1e6, NULL, "Spread of the logits (lambda)."),
    KEY(keep, SY_CFG_F64, "0.99", 0, 1, NULL,
        "beta: how much of the balance loss's coefficient a step keeps. 1: it stays."),
    KEY(slope, SY_CFG_F64, "0.2", 0, 1e6, NULL, "xi: coefficient per share of dropped choices."),
    KEY(most, SY_CFG_F64, "0.01", 0, 1e6, NULL, "alpha_max: the largest coefficient."),
    {0},
};
const sy_config_section sy_router_section_skywork = {
    .name = "moe.skywork",
    .help = "Normalised logits, and a balance loss that follows the drops (Skywork-MoE).",
    .keys = keys,
    .struct_bytes = sizeof(skywork_config)};

static const sy_router_loss losses[] = {
    {"moe.aux_loss_coeff",
     "sum over layers of E sum_e f_e P_e, the coefficient following the layer's drops"},
    {0},
};

const sy_router_ops sy__router_skywork = {
    .name = "skywork",
    .source = "Wei et al. 2024 (Skywork-MoE, arXiv 2406.06563) 3.2, 3.3",
    .traits = SY_ROUTER_OWN_COUNT,
    .check = check,
    .metric = "aux_coeff",
    .losses = losses,
    .host = &(const sy_host_router_ops){.forward_cost = {15.2, 0},
                                        .backward_cost = {24.5, 0},
                                        .layout = layout,
                                        .score = score,
                                        .choose = sy__plain_choose,
                                        .backward = backward,
                                        .score_backward = score_backward,
                                        .end_step = end_step}};

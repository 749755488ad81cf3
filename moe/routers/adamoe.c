/* AdaMoE: m further logits stand for experts that do nothing. The top_k of all E + m are chosen;
   what falls on the nulls is not computed, and the weights of the true ones are softmax over these
   alone (a token that chose only nulls gets 0). The balance loss runs over E + m, every null
   counted with the mean of the nulls' loads: it controls how many there are, not which. Zeng et al.
   2024 (AdaMoE, arXiv 2406.13233) 3. */
#include "moe/routers_impl.h"

typedef struct adamoe_config {
    int32_t null_experts;
} adamoe_config;

static void layout(const sy_moe_config *config, sy_router_layout *out)
{
    const adamoe_config *own = config->own;
    out->M = config->experts + own->null_experts;
    out->computed = (double)config->top_k * config->experts / out->M;
}

static void score(sy_host_route *r)
{
    for (int64_t i = 0; i < r->T * r->E; i++) {
        r->z[i] = r->in[i / r->E * r->M + i % r->E];
    }
}

static sy__form form_of(const sy_host_route *r)
{
    return (sy__form){false, true, r->config->routed_scale};
}

static void choose(sy_host_route *r)
{
    const sy__form form = form_of(r);
    for (int64_t t = 0; t < r->T; t++) {
        int32_t *expert = r->expert + t * r->K, n = 0;
        if (!sy_host_routed(r, t)) {
            continue;
        }
        sy__largest(r->in + t * r->M, r->M, r->K, expert);
        for (int32_t k = 0; k < r->K; k++) {
            const int32_t e = expert[k];
            expert[k] = -1;
            if (e >= 0 && e < r->E) {
                expert[n++] = e;
            }
        }
    }
    sy__weigh_all(r, &form);
}

/* What a unit of probability costs in the tokens [from, to): (E + m) f. */
static void costs(sy_host_route *r, int64_t from, int64_t to, double *cost)
{
    const int32_t m = r->M - r->E;
    double n_picks = 0, n_null = 0;
    for (int32_t e = 0; e < r->M; e++) {
        cost[e] = 0;
    }
    for (int64_t t = from; t < to; t++) {
        for (int32_t k = 0; k < r->K && sy_host_routed(r, t); k++) {
            const int32_t e = r->expert[t * r->K + k];
            cost[e >= 0 ? e : 0] += e >= 0;
            n_null += e < 0;
            n_picks++;
        }
    }
    for (int32_t e = 0; e < r->M && n_picks > 0; e++) {
        cost[e] = r->M * (e < r->E ? cost[e] : n_null / m) / n_picks;
    }
    r->metric += n_picks - n_null;
}

static void backward(sy_host_route *r)
{
    const sy__form form = form_of(r);
    const int64_t n = r->n_scopes > 0 ? r->T / r->n_scopes : 0;
    const double factor = r->config->aux_loss_coeff * r->per_token;
    double *p = r->scratch, *cost = r->scratch + r->M;
    sy__weigh_all_backward(r, &form);
    for (int64_t t = 0; t < r->T; t++) {
        if (t % n == 0) {
            costs(r, t, t + n, cost);
        }
        if (sy_host_routed(r, t)) {
            sy__scores(false, r->in + t * r->M, r->M, p);
            r->loss += sy__add_cost(p, cost, r->M, factor, r->din + t * r->M);
        }
    }
}

static void score_backward(sy_host_route *r)
{
    for (int64_t i = 0; i < r->T * r->E; i++) {
        r->din[i / r->E * r->M + i % r->E] += r->dz[i];
    }
}

static sy_status check(const sy_moe_config *config, const sy_config *all)
{
    if (config->experts < 2) {
        return sy_config_error(all, "moe.experts",
                               "moe.experts %d with moe.router adamoe: the weights of the true "
                               "experts are divided by their sum, so a single one has no gradient; "
                               "set it to 2 or more",
                               config->experts);
    }
    if (config->top_k < 2) {
        return sy_config_error(all, "moe.top_k",
                               "moe.top_k %d with moe.router adamoe: the weights of the true "
                               "experts are divided by their sum, so one choice has no gradient; "
                               "set it to 2 to %d, or use moe.router topk",
                               config->top_k, config->experts);
    }
    return SY_OK;
}

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    SY__KEY(adamoe_config, field, kind, def, lo, hi, choices, text)
static const sy_config_key keys[] = {
    KEY(null_experts, SY_CFG_I32, "8", 0, 1 << 16, NULL, "Experts that do nothing (m)."),
    {0},
};
const sy_config_section sy_router_section_adamoe = {
    .name = "moe.adamoe",
    .help = "Null experts: of the moe.top_k choices some may do nothing.",
    .keys = keys,
    .struct_bytes = sizeof(adamoe_config)};

static const sy_router_loss losses[] = {
    {"moe.aux_loss_coeff",
     "sum over layers of (E + m) sum_e f_e P_e over experts and nulls, these sharing theirs"},
    {0},
};

const sy_router_ops sy__router_adamoe = {
    .name = "adamoe",
    .source = "Zeng et al. 2024 (AdaMoE, arXiv 2406.13233) 3",
    .traits = SY_ROUTER_OWN_COUNT | SY_ROUTER_FIXED_WEIGHTS,
    .check = check,
    .metric = "experts_per_token",
    .losses = losses,
    .host = &(const sy_host_router_ops){.forward_cost = {15, 0},
                                        .backward_cost = {24.2, 0},
                                        .layout = layout,
                                        .score = score,
                                        .choose = choose,
                                        .backward = backward,
                                        .score_backward = score_backward}};

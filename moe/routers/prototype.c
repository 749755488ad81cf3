/* Expert prototyping: the experts are cut into top_k groups with a softmax of their own; a token
   visits the best expert of each group, with its probability inside the group as weight.
   Yang et al. 2021 (M6-T, arXiv 2105.15082) 3. */
#include "moe/routers_impl.h"

static sy__form form_of(const sy_host_route *r)
{
    return (sy__form){false, false, r->config->routed_scale};
}

/* Each group is a router with one choice. */
static void choose(sy_host_route *r)
{
    const sy__form form = form_of(r);
    const int32_t n = r->E / r->K;
    for (int64_t i = 0; i < r->T * r->K; i++) {
        const double *z = r->z + i / r->K * r->E + i % r->K * n;
        int32_t best = -1;
        if (sy_host_routed(r, i / r->K)) {
            sy__largest(z, n, 1, &best);
            sy__weigh(&form, z, n, &best, 1, r->scratch, &r->weight[i]);
        }
        r->expert[i] = best >= 0 ? (int32_t)(i % r->K) * n + best : -1;
    }
}

static void backward(sy_host_route *r)
{
    const sy__form form = form_of(r);
    const int32_t n = r->E / r->K;
    for (int64_t i = 0; i < r->T * r->K; i++) {
        const int64_t at = i / r->K * r->E + i % r->K * n;
        const int32_t best = r->expert[i] - (int32_t)(i % r->K) * n;
        if (r->expert[i] >= 0) {
            sy__weigh_backward(&form, r->z + at, n, &best, r->g + i, 1, r->scratch, r->dz + at);
        }
    }
}

static sy_status check(const sy_moe_config *config, const sy_config *all)
{
    if (config->experts % config->top_k != 0 || config->experts == config->top_k) {
        return sy_config_error(
            all, "moe.top_k",
            "moe.router prototype cuts moe.experts %d into moe.top_k %d groups "
            "of equal size, of 2 or more; set moe.top_k to %d, or use moe.router "
            "topk",
            config->experts, config->top_k,
            sy__divisor(config->experts,
                        config->top_k < config->experts ? config->top_k : config->experts / 2));
    }
    return SY_OK;
}

const sy_router_ops sy__router_prototype = {
    .name = "prototype",
    .source = "Yang et al. 2021 (M6-T, arXiv 2105.15082) 3",
    .traits = SY_ROUTER_NO_AUX | SY_ROUTER_FIXED_WEIGHTS,
    .check = check,
    .host = &(const sy_host_router_ops){.forward_cost = {12.6, 0},
                                        .backward_cost = {11.2, 0},
                                        .choose = choose,
                                        .backward = backward}};

/* GShard: the best expert, and a second one that is kept by chance, in proportion to its weight.
   Weights are those of both, before any drop. The balance loss counts first choices only.
   Second: `all` keeps the second best; `random` keeps it with probability min(1, w_2 / threshold);
   `sampling` draws it from the softmax over the others (Gumbel). Evaluation keeps the second best.
   Lepikhin et al. 2020 (GShard, arXiv 2006.16668) 2.2. */
#include <math.h>

#include "moe/routers_impl.h"

typedef struct gshard_config {
    int32_t second;
    double threshold;
} gshard_config;
enum { ALL, RANDOM, SAMPLING };

static int32_t second_of(const sy_host_route *r, int64_t t, int32_t first)
{
    const gshard_config *own = r->config->own;
    double *score = r->scratch;
    int32_t best;
    for (int32_t e = 0; e < r->E; e++) {
        const bool draw = r->training && own->second == SAMPLING;
        score[e] = r->z[t * r->E + e];
        score[e] -= draw ? log(-log(sy__route_uniform(r, t, e, 0) + 0x1p-60)) : 0;
    }
    score[first] = -INFINITY;
    sy__largest(score, r->E, 1, &best);
    return best;
}

static void choose(sy_host_route *r)
{
    const gshard_config *own = r->config->own;
    const sy__form form = sy__form_of(r->config);
    for (int64_t t = 0; t < r->T; t++) {
        int32_t *expert = r->expert + t * 2;
        double *weight = r->weight + t * 2;
        if (!sy_host_routed(r, t)) {
            continue;
        }
        sy__largest(r->z + t * r->E, r->E, 1, expert);
        if (expert[0] < 0) {
            continue;
        }
        r->count[(r->n_scopes > 1 ? t / r->S : 0) * r->E + expert[0]]++;
        expert[1] = second_of(r, t, expert[0]);
        r->note[t * r->E] = expert[1];
        sy__weigh(&form, r->z + t * r->E, r->E, expert, 2, r->scratch, weight);
        if (r->training && own->second == RANDOM &&
            sy__route_uniform(r, t, 0, 1) * own->threshold * form.scale >= weight[1]) {
            expert[1] = -1;
            weight[1] = 0;
        }
    }
}

/* The second one that was not kept still has its part in the sum that the first is divided by. */
static void backward(sy_host_route *r)
{
    const sy__form form = sy__form_of(r->config);
    for (int64_t t = 0; t < r->T; t++) {
        const int32_t pair[2] = {r->expert[t * 2], (int32_t)r->note[t * r->E]};
        if (pair[0] >= 0) {
            sy__weigh_backward(&form, r->z + t * r->E, r->E, pair, r->g + t * 2, 2, r->scratch,
                               r->dz + t * r->E);
        }
    }
}

static sy_status check(const sy_moe_config *config, const sy_config *all)
{
    if (config->top_k != 2 || config->experts < 2) {
        return sy_config_error(all, "moe.top_k",
                               "moe.top_k %d of %d experts with moe.router gshard, which chooses "
                               "two; set it to 2, or use moe.router topk",
                               config->top_k, config->experts);
    }
    return SY_OK;
}

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    SY__KEY(gshard_config, field, kind, def, lo, hi, choices, text)
static const char *const second_choices[] = {"all", "random", "sampling", NULL};
static const sy_config_key keys[] = {
    KEY(second, SY_CFG_ENUM, "random", 0, 0, second_choices,
        "The second expert in training: kept always, kept with a probability, or drawn."),
    KEY(threshold, SY_CFG_F64, "0.5", 1e-6, 1, NULL,
        "random: a second expert of this weight or more is kept always."),
    {0},
};
const sy_config_section sy_router_section_gshard = {
    .name = "moe.gshard",
    .help = "GShard's top-2 with a second expert by chance.",
    .keys = keys,
    .struct_bytes = sizeof(gshard_config)};

static const sy_router_loss losses[] = {
    {"moe.aux_loss_coeff", "sum over layers of E sum_e f_e P_e, f of first choices"},
    {0},
};

const sy_router_ops sy__router_gshard = {
    .name = "gshard",
    .source = "Lepikhin et al. 2020 (GShard, arXiv 2006.16668) 2.2",
    .traits = SY_ROUTER_OWN_COUNT | SY_ROUTER_FIRST_COUNT,
    .check = check,
    .losses = losses,
    .host = &(const sy_host_router_ops){.forward_cost = {12.9, 0},
                                        .backward_cost = {10, 0},
                                        .choose = choose,
                                        .backward = backward}};

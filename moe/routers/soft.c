/* Soft mixing: every token visits all experts, by their probabilities. What MoV and MoLoRA mix by
   (Zadouri et al. 2023, arXiv 2309.05444, 2.2), and Jacobs et al.'s (1991) mixture otherwise.
   Choices stand in the order of the experts, so that weights are [T, E] as they are. */
#include "moe/routers_impl.h"

/* The largest of equal scores are the experts in their order. */
static sy_status choose(const sy_moe_config *config, sy_pass *p, const sy_scores *s,
                        const sy_tensor *bias, sy_choices *c)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor equal;
    (void)config;
    (void)bias;
    SY_TRY(sy_arena_2d(p->scratch, p->wide, c->T, s->p.shape[1], &equal));
    SY_TRY(sy_zero(p->stream, equal.data, sy_tensor_bytes(&equal)));
    SY_TRY(sy_topk(p->stream, &(sy_topk_args){.p = equal,
                                              .routed = p->batch->routed,
                                              .expert = c->expert,
                                              .token = c->token}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static sy_status weigh(const sy_moe_config *config, sy_pass *p, const sy_scores *s, sy_choices *c)
{
    return sy_topk_weigh(p->stream, &(sy_topk_weigh_args){.p = s->p,
                                                          .expert = c->expert,
                                                          .weight = c->weight,
                                                          .scale = config->routed_scale});
}

static sy_status backward(const sy_moe_config *config, sy_pass *p, const sy_scores *s,
                          const sy_choices *c, const sy_tensor *g, const sy_tensor *loss,
                          sy_tensor *dz)
{
    (void)loss;
    return sy_topk_backward(p->stream, &(sy_topk_backward_args){.p = s->p,
                                                                .expert = c->expert,
                                                                .g = *g,
                                                                .dz = *dz,
                                                                .score = SY_SCORE_SOFTMAX,
                                                                .scale = config->routed_scale});
}

const sy_router_ops sy__router_soft = {
    .name = "soft",
    .source = "Zadouri et al. 2023 (arXiv 2309.05444) 2.2; Jacobs et al. 1991",
    .traits = SY_ROUTER_NO_CAPACITY | SY_ROUTER_NO_AUX | SY_ROUTER_FIXED_WEIGHTS,
    .only_top_k = SY_ROUTER_ALL,
    .choose = choose,
    .weigh = weigh,
    .backward = backward,
};

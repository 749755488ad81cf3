/* Top-k of softmax or sigmoid scores: Mixtral, Qwen2/3-MoE, OLMoE, DeepSeekMoE, Switch (K = 1),
   DeepSeek-V3's bias for choosing. Forms A, B, C and E of the combine weights by `score` and
   `normalize_weights`. */
#include "moe/routers_impl.h"

/* Benchmarks only: choice k of token t is expert (t K + k) mod E, as scores that top-k then ranks.
 */
static sy_status balanced_scores(const sy_moe_config *config, sy_pass *p, int64_t T, sy_tensor *out)
{
    sy_status st = SY_OK;
    int64_t E = config->experts, K = config->top_k;
    void *h_scores = NULL;
    SY_TRY(sy_arena_2d(p->keep, p->wide, T, E, out));
    SY_TRY(sy_host_arena_alloc(p->host, sy_tensor_bytes(out), &h_scores));
    for (int64_t t = 0; t < T; t++) {
        for (int64_t k = 0; k < K; k++) {
            double score = (double)(K - k);
            int64_t at = t * E + (t * K + k) % E;
            sy_convert(p->wide, (char *)h_scores + at * (int64_t)sy_dtype_bytes(p->wide), SY_F64,
                       &score, 1);
        }
    }
    SY_TRY(sy_copy_h2d(p->stream, out->data, h_scores, sy_tensor_bytes(out)));
cleanup:
    return st;
}

sy_status sy__topk_choose(const sy_moe_config *config, sy_pass *p, const sy_scores *s,
                          const sy_topk_args *args, sy_choices *c)
{
    sy_status st = SY_OK;
    SY_TRY(sy_topk(p->stream, args));
    if (c->priority.data != NULL) { /* the weight a choice would have if nothing were dropped */
        SY_TRY(
            sy_topk_weigh(p->stream, &(sy_topk_weigh_args){.p = s->p,
                                                           .expert = c->expert,
                                                           .weight = c->priority,
                                                           .normalize = config->normalize_weights,
                                                           .scale = 1}));
    }
cleanup:
    return st;
}

static sy_status choose(const sy_moe_config *config, sy_pass *p, const sy_scores *s,
                        const sy_tensor *bias, sy_choices *c)
{
    sy_status st = SY_OK;
    sy_topk_args args = {.p = s->p,
                         .bias = *bias,
                         .routed = p->batch->routed,
                         .expert = c->expert,
                         .token = c->token};
    if (config->force_balance) {
        args.bias = sy_tensor_none();
        SY_TRY(balanced_scores(config, p, c->T, &args.p));
    }
    SY_TRY(sy__topk_choose(config, p, s, &args, c));
cleanup:
    return st;
}

sy_status sy__topk_weigh(const sy_moe_config *config, sy_pass *p, const sy_scores *s, sy_choices *c)
{
    return sy_topk_weigh(p->stream, &(sy_topk_weigh_args){.p = s->p,
                                                          .expert = c->expert,
                                                          .kept = c->kept,
                                                          .weight = c->weight,
                                                          .normalize = config->normalize_weights,
                                                          .scale = config->routed_scale});
}

sy_status sy__topk_backward(const sy_moe_config *config, sy_pass *p, const sy_scores *s,
                            const sy_choices *c, const sy_tensor *g, const sy_tensor *loss,
                            sy_tensor *dz)
{
    (void)loss;
    return sy_topk_backward(p->stream,
                            &(sy_topk_backward_args){.p = s->p,
                                                     .expert = c->expert,
                                                     .g = *g,
                                                     .dz = *dz,
                                                     .score = (sy_score)config->score,
                                                     .normalize = config->normalize_weights,
                                                     .scale = config->routed_scale});
}

const sy_router_ops sy__router_topk = {
    .name = "topk",
    .source = "Mixtral (arXiv 2401.04088) 2.1; Switch (arXiv 2101.03961) 2.1; DeepSeek-V3 (arXiv "
              "2412.19437) 2.1.2",
    .choose = choose,
    .weigh = sy__topk_weigh,
    .backward = sy__topk_backward,
};

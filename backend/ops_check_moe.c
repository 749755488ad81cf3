/* Contracts of the router's ops and of the row plans. */
#include <math.h>

#include "backend/ops_check_impl.h"

#define I32_SET SY_SET(SY_I32)
#define U8_SET SY_SET(SY_U8)

static void want_score(sy__check *c, sy_score score)
{
    sy__want_that(c, score == SY_SCORE_SOFTMAX || score == SY_SCORE_SIGMOID,
                  "score is softmax or sigmoid");
}

sy_status sy__check_router_scores(const sy_device *dev, const sy_router_scores_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_router_scores, args);
    const unsigned wide = sy__set_w(&c);
    SY__WANT2(&c, &args->z, wide, SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT2(&c, &args->p, wide, SY_CONTIGUOUS, args->z.shape[0], args->z.shape[1]);
    SY__WANT1(&c, &args->lse, wide, SY_CONTIGUOUS, args->z.shape[0]);
    want_score(&c, args->score);
    return sy__check_end(&c);
}

sy_status sy__check_topk(const sy_device *dev, const sy_topk_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_topk, args);
    const int64_t T = args->p.shape[0], E = args->p.shape[1], K = args->expert.shape[1];
    SY__WANT2(&c, &args->p, sy__set_w(&c), SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT1(&c, &args->bias, sy__set_w(&c), SY_OPTIONAL, E);
    SY__WANT1(&c, &args->routed, U8_SET, SY_OPTIONAL, T);
    SY__WANT2(&c, &args->expert, I32_SET, SY_CONTIGUOUS, T, SY_ANY);
    SY__WANT2(&c, &args->token, I32_SET, SY_CONTIGUOUS, T, K);
    sy__want_that(&c, K <= E, "K is at most E");
    sy__want_that(&c, args->n_groups >= 0 && args->n_groups <= SY_MAX_GROUPS,
                  "there are at most 1024 groups");
    if (args->n_groups > 0 && args->n_groups <= SY_MAX_GROUPS) {
        sy__want_that(&c, E % args->n_groups == 0, "the groups divide the experts");
        sy__want_that(&c, args->groups_kept >= 1 && args->groups_kept <= args->n_groups,
                      "groups_kept is 1 to n_groups");
        sy__want_that(&c, K <= E / args->n_groups * args->groups_kept,
                      "K is at most what the kept groups hold");
    }
    return sy__check_end(&c);
}

sy_status sy__check_capacity(const sy_device *dev, const sy_capacity_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_capacity, args);
    const int64_t T = args->expert.shape[0], K = args->expert.shape[1];
    SY__WANT2(&c, &args->expert, I32_SET, SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT2(&c, &args->priority, sy__set_w(&c), SY_OPTIONAL, T, K);
    SY__WANT2(&c, &args->kept, U8_SET, SY_CONTIGUOUS, T, K);
    sy__want_that(&c, args->E >= 1 || T * K == 0, "E is positive");
    return sy__check_end(&c);
}

sy_status sy__check_topk_weigh(const sy_device *dev, const sy_topk_weigh_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_topk_weigh, args);
    const int64_t T = args->p.shape[0], K = args->expert.shape[1];
    SY__WANT2(&c, &args->p, sy__set_w(&c), SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT2(&c, &args->expert, I32_SET, SY_CONTIGUOUS, T, SY_ANY);
    SY__WANT2(&c, &args->kept, U8_SET, SY_OPTIONAL, T, K);
    SY__WANT2(&c, &args->weight, sy__set_w(&c), SY_CONTIGUOUS, T, K);
    sy__want_that(&c, isfinite(args->scale), "scale is finite");
    return sy__check_end(&c);
}

sy_status sy__check_topk_backward(const sy_device *dev, const sy_topk_backward_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_topk_backward, args);
    const int64_t T = args->p.shape[0], E = args->p.shape[1], K = args->expert.shape[1];
    SY__WANT2(&c, &args->p, sy__set_w(&c), SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT2(&c, &args->expert, I32_SET, SY_CONTIGUOUS, T, SY_ANY);
    SY__WANT2(&c, &args->g, sy__set_w(&c), SY_CONTIGUOUS, T, K);
    SY__WANT2(&c, &args->dz, sy__set_w(&c), SY_CONTIGUOUS, T, E);
    want_score(&c, args->score);
    sy__want_that(&c, isfinite(args->scale), "scale is finite");
    return sy__check_end(&c);
}

sy_status sy__check_share_kept(const sy_device *dev, const sy_share_kept_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_share_kept, args);
    const int64_t T = args->weight.shape[0], K = args->weight.shape[1];
    SY__WANT2(&c, &args->weight, sy__set_w(&c), SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT2(&c, &args->kept, U8_SET, SY_CONTIGUOUS, T, K);
    SY__WANT1(&c, &args->sum, sy__set_w(&c), SY_CONTIGUOUS, T);
    sy__want_that(&c, isfinite(args->scale), "scale is finite");
    return sy__check_end(&c);
}

sy_status sy__check_share_kept_backward(const sy_device *dev,
                                        const sy_share_kept_backward_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_share_kept_backward, args);
    const int64_t T = args->g.shape[0], K = args->g.shape[1];
    SY__WANT2(&c, &args->g, sy__set_w(&c), SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT2(&c, &args->weight, sy__set_w(&c), SY_CONTIGUOUS, T, K);
    SY__WANT2(&c, &args->kept, U8_SET, SY_CONTIGUOUS, T, K);
    SY__WANT1(&c, &args->sum, sy__set_w(&c), SY_CONTIGUOUS, T);
    sy__want_that(&c, isfinite(args->scale), "scale is finite");
    return sy__check_end(&c);
}

sy_status sy__check_expert_count(const sy_device *dev, const sy_expert_count_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_expert_count, args);
    const int64_t N = args->expert.shape[0], n_scopes = args->count.shape[0];
    SY__WANT1(&c, &args->expert, I32_SET, SY_CONTIGUOUS, SY_ANY);
    SY__WANT2(&c, &args->count, SY_SET(SY_I64), SY_CONTIGUOUS, SY_ANY, SY_ANY);
    sy__want_that(&c, N == 0 || (n_scopes > 0 && N % n_scopes == 0),
                  "the choices are a multiple of the scopes");
    return sy__check_end(&c);
}

sy_status sy__check_router_stats(const sy_device *dev, const sy_router_stats_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_router_stats, args);
    const int64_t T = args->p.shape[0], E = args->p.shape[1], K = args->expert.shape[1];
    SY__WANT2(&c, &args->p, sy__set_w(&c), SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT2(&c, &args->expert, I32_SET, SY_CONTIGUOUS, T, SY_ANY);
    SY__WANT2(&c, &args->kept, U8_SET, SY_OPTIONAL, T, K);
    SY__WANT1(&c, &args->load, SY_SET(SY_I64), SY_CONTIGUOUS, E);
    SY__WANT1(&c, &args->kept_load, SY_SET(SY_I64), SY_CONTIGUOUS, E);
    SY__WANT1(&c, &args->dropped_at, SY_SET(SY_I64), SY_OPTIONAL, SY_ANY);
    SY__WANT1(&c, &args->sums, SY_SET(SY_F64), SY_CONTIGUOUS, 2);
    sy__want_that(&c, T == 0 || args->dropped_at.data == NULL || args->S >= 1, "S is positive");
    return sy__check_end(&c);
}

sy_status sy__check_balance_loss(const sy_device *dev, const sy_balance_loss_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_balance_loss, args);
    const int64_t T = args->p.shape[0], E = args->p.shape[1], n_scopes = args->count.shape[0];
    const unsigned wide = sy__set_w(&c);
    SY__WANT2(&c, &args->p, wide, SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT2(&c, &args->z, wide, SY_CONTIGUOUS, T, E);
    SY__WANT1(&c, &args->lse, wide, SY_CONTIGUOUS, T);
    SY__WANT1(&c, &args->routed, U8_SET, SY_OPTIONAL, T);
    SY__WANT2(&c, &args->count, SY_SET(SY_I64), SY_CONTIGUOUS, SY_ANY, E);
    SY__WANT1(&c, &args->cost, wide, SY_OPTIONAL, E);
    SY__WANT2(&c, &args->dz, wide, SY_CONTIGUOUS, T, E);
    SY__WANT1(&c, &args->sums, SY_SET(SY_F64), SY_CONTIGUOUS, 2);
    sy__want_that(&c, T == 0 || (n_scopes > 0 && T % n_scopes == 0),
                  "the tokens are a multiple of the scopes");
    want_score(&c, args->score);
    sy__want_that(&c, isfinite(args->aux_coeff) && isfinite(args->z_coeff),
                  "coefficients are finite");
    sy__want_that(&c, isfinite(args->per_token), "per_token is finite");
    return sy__check_end(&c);
}

sy_status sy__check_group_loss(const sy_device *dev, const sy_group_loss_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_group_loss, args);
    const int64_t T = args->p.shape[0], E = args->p.shape[1], D = args->count.shape[1];
    const unsigned wide = sy__set_w(&c);
    SY__WANT2(&c, &args->p, wide, SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT2(&c, &args->expert, I32_SET, SY_CONTIGUOUS, T, SY_ANY);
    SY__WANT2(&c, &args->count, SY_SET(SY_I64), SY_CONTIGUOUS, 2, SY_ANY);
    SY__WANT2(&c, &args->dz, wide, SY_CONTIGUOUS, T, E);
    SY__WANT1(&c, &args->sums, SY_SET(SY_F64), SY_CONTIGUOUS, 1);
    sy__want_that(&c, D >= 1 && E % D == 0, "the groups divide the experts");
    sy__want_that(&c, args->groups_kept >= 1, "groups_kept is positive");
    sy__want_that(&c, isfinite(args->choices_coeff) && isfinite(args->visits_coeff),
                  "coefficients are finite");
    sy__want_that(&c, isfinite(args->per_token), "per_token is finite");
    return sy__check_end(&c);
}

sy_status sy__check_plan_rows(const sy_device *dev, const sy_plan_rows_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_plan_rows, args);
    const int64_t N = args->token.shape[0], E = args->wire.shape[0];
    const int64_t n_rows = args->capacity > 0 ? E * args->capacity : N;
    SY__WANT1(&c, &args->token, I32_SET, SY_CONTIGUOUS, SY_ANY);
    SY__WANT1(&c, &args->expert, I32_SET, SY_CONTIGUOUS, N);
    SY__WANT1(&c, &args->kept, U8_SET, SY_OPTIONAL, N);
    SY__WANT1(&c, &args->wire, I32_SET, SY_CONTIGUOUS, SY_ANY);
    SY__WANT1(&c, &args->count, I32_SET, SY_CONTIGUOUS, E);
    SY__WANT1(&c, &args->row_token, I32_SET, SY_CONTIGUOUS, n_rows);
    SY__WANT1(&c, &args->row_choice, I32_SET, SY_CONTIGUOUS, n_rows);
    SY__WANT1(&c, &args->choice_row, I32_SET, SY_CONTIGUOUS, N);
    SY__WANT1(&c, &args->token_start, I32_SET, SY_CONTIGUOUS, SY_ANY);
    SY__WANT1(&c, &args->token_row, I32_SET, SY_CONTIGUOUS, N);
    sy__want_that(&c, args->capacity >= 0, "capacity is not negative");
    sy__want_that(&c, args->token_start.shape[0] >= 1, "token_start has at least one element");
    sy__want_that(&c, N <= INT32_MAX && n_rows <= INT32_MAX, "row numbers fit 32 bits");
    return sy__check_end(&c);
}

sy_status sy__check_plan_receive(const sy_device *dev, const sy_plan_receive_args *args)
{
    sy__check c = sy__check_start(dev, SY_OP_plan_receive, args);
    const int64_t n_src = args->count.shape[0], E_loc = args->count.shape[1];
    SY__WANT2(&c, &args->count, I32_SET, SY_CONTIGUOUS, SY_ANY, SY_ANY);
    SY__WANT1(&c, &args->expert_start, I32_SET, SY_CONTIGUOUS, E_loc + 1);
    SY__WANT1(&c, &args->computed_from, I32_SET, SY_CONTIGUOUS, SY_ANY);
    SY__WANT1(&c, &args->arrival_to, I32_SET, SY_CONTIGUOUS, SY_ANY);
    sy__want_that(&c, args->align >= 1, "align is positive");
    sy__want_that(&c, args->stride >= 0, "stride is not negative");
    sy__want_that(&c, args->arrival_to.shape[0] >= n_src * E_loc * args->stride,
                  "every (source, expert) block has its stride of arrival rows");
    sy__want_that(&c, args->computed_from.shape[0] <= INT32_MAX, "row numbers fit 32 bits");
    return sy__check_end(&c);
}

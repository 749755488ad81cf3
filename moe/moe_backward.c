/* Backward of the MoE sublayer. dy goes out to the experts (a dispatch) with the weights riding
   along; the gradient of the rows comes home (a combine) with the router signal G riding along. */
#include "moe/moe_impl.h"

#include "moe/capacity.h"

/* One pass: gradients of the experts; dwire [n_wire, H] and g_wire [n_wire, 1] get this pass's
 * rows. */
static sy_status run_pass(const sy__moe *moe, sy_pass *p, const sy__moe_chunk *c,
                          const sy_plan_pass *pass, const sy_tensor *x, const sy_tensor *dy,
                          const sy_tensor *row_weight, sy_tensor *dwire, sy_tensor *g_wire,
                          const sy__beside *beside)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), H = x->shape[1];
    sy_tensor rows = c->rows, h = c->h, dout, weight, drows, dot;
    double t;

    if (!c->kept_rows || (p->mesh->dev->measures && c->plan.may_split)) {
        SY_TRY(sy__moe_fill_rows(moe, p, &c->plan, pass, x, p->scratch, &rows, &h, NULL));
    }
    SY_TRY(sy_arena_2d(p->scratch, p->compute, pass->R, H, &dout));
    SY_TRY(sy_arena_2d(p->scratch, p->wide, pass->R, 1, &weight));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, pass->R, H, &drows));
    SY_TRY(sy_arena_2d(p->scratch, p->wide, pass->R, 1, &dot));
    SY_TRY(sy__moe_dispatch(p, &c->plan, pass, dy, row_weight, &dout, &weight, beside));
    t = sy_stream_clock(p->stream);
    SY_TRY(sy_experts_backward(&moe->experts, p, &pass->expert_start, &rows, &h, &dout, &weight,
                               &drows, &dot));
    t = sy__moe_book(p, SY__MOE_EXPERTS, t);
    SY_TRY(sy_combine(p, &c->plan, pass, &drows, &dot, dwire, g_wire));
    sy__moe_book(p, SY__MOE_COMBINE, t);
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy__moe_row_weight(sy_pass *p, const sy__moe_saved *s, const sy_plan *plan,
                             sy_tensor *out)
{
    sy_status st = SY_OK;
    const sy_tensor *w = &s->choices.weight_grad;
    *out = plan->row_weight;
    if (w->data != NULL) {
        const sy_tensor mine = sy_tensor_rows(w, plan->first, plan->T);
        SY_TRY(sy_arena_2d(p->scratch, p->wide, plan->n_wire, 1, out));
        SY_TRY(sy_gather_rows(
            p->stream, &(sy_gather_rows_args){.x = sy_tensor_2d(mine.data, mine.dtype, plan->N, 1),
                                              .idx = plan->row_choice,
                                              .y = *out}));
    }
cleanup:
    return st;
}

sy_status sy__moe_sum_grads(sy_pass *p, const sy_plan *plan, const sy_tensor *dwire,
                            const sy_tensor *g_wire, const sy_tensor *dx, const sy_tensor *g)
{
    sy_status st = SY_OK;
    SY_TRY(sy_combine_rows(p->stream, &(sy_combine_rows_args){.rows = *dwire,
                                                              .token_start = plan->token_start,
                                                              .token_row = plan->token_row,
                                                              .y = *dx}));
    SY_TRY(sy_gather_rows(
        p->stream, &(sy_gather_rows_args){.x = *g_wire,
                                          .idx = plan->choice_row,
                                          .y = sy_tensor_2d(g->data, g->dtype, plan->N, 1)}));
cleanup:
    return st;
}

/* dx = sum of the rows' gradients; g [T, K]. */
static sy_status experts_backward(const sy__moe *moe, sy_pass *p, sy__moe_saved *s,
                                  const sy_tensor *x, const sy_tensor *dy, sy_tensor *dx,
                                  sy_tensor *g, const sy__beside *beside)
{
    sy_status st = SY_OK;
    const sy__moe_chunk *c = s->chunk;
    int64_t mark = sy_arena_mark(p->scratch), n = c->plan.n_wire;
    sy_tensor dwire, g_wire, row_weight;
    if (s->n_chunks > 1) {
        return sy__chunks_backward(moe, p, s, x, dy, dx, g, beside);
    }
    SY_TRY(sy_arena_2d(p->scratch, p->compute, n, x->shape[1], &dwire));
    SY_TRY(sy_arena_2d(p->scratch, p->wide, n, 1, &g_wire));
    SY_TRY(sy__moe_row_weight(p, s, &c->plan, &row_weight));
    for (int32_t q = 0; q < c->plan.n_passes; q++) {
        SY_TRY(run_pass(moe, p, c, &c->plan.pass[q], x, dy, &row_weight, &dwire, &g_wire,
                        q == 0 ? beside : NULL));
    }
    SY_TRY(sy__moe_sum_grads(p, &c->plan, &dwire, &g_wire, dx, g));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* cost [E]: width of each expert over the mean, where the balance loss counts by it. Wang et al.
   2024 (HMoE, arXiv 2408.10681): the parameter penalty E sum_e M_e P_e, M_e = mean over tokens of
   [e chosen] F_e, here over K times the mean width, so that it is 1 at balance. */
static sy_status costs(const sy__moe *moe, sy_pass *p, sy_tensor *cost)
{
    sy_status st = SY_OK;
    const int64_t E = moe->config->experts;
    void *h_cost = NULL;
    *cost = sy_tensor_none();
    if (!moe->config->width_penalty) {
        goto cleanup;
    }
    SY_TRY(sy_arena_1d(p->scratch, p->wide, E, cost));
    SY_TRY(sy_host_arena_alloc(p->host, sy_tensor_bytes(cost), &h_cost));
    for (int64_t e = 0; e < E; e++) {
        const double x = moe->width[e] / moe->experts.mean_width;
        sy_convert(p->wide, (char *)h_cost + e * (int64_t)sy_dtype_bytes(p->wide), SY_F64, &x, 1);
    }
    SY_TRY(sy_copy_h2d(p->stream, cost->data, h_cost, sy_tensor_bytes(cost)));
cleanup:
    return st;
}

static sy_status losses(const sy__moe *moe, sy_pass *p, const sy__moe_saved *s, sy_tensor *dz)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor cost, sums = sy_tensor_rows(&p->stats->sums, moe->layer, 1);
    sums = sy_tensor_cols(&sums, SY_SUM_AUX, 2);
    SY_TRY(costs(moe, p, &cost));
    SY_TRY(sy_balance_loss(p->stream,
                           &(sy_balance_loss_args){.z = s->scores.z,
                                                   .p = s->scores.p,
                                                   .lse = s->scores.lse,
                                                   .routed = p->batch->routed,
                                                   .count = s->count,
                                                   .cost = cost,
                                                   .dz = *dz,
                                                   .sums = sy_tensor_1d(sums.data, SY_F64, 2),
                                                   .aux_coeff = moe->config->aux_loss_coeff,
                                                   .z_coeff = moe->config->z_loss_coeff,
                                                   .per_token = p->per_routed_token,
                                                   .score = (sy_score)moe->config->score}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* The router read x itself: dx += din (through the jitter). */
static sy_status router_input_backward(const sy__moe *moe, sy_pass *p, const sy_tensor *din,
                                       sy_tensor *dx)
{
    sy_status st = SY_OK;
    sy_tensor narrow = *din;
    if (p->compute != p->wide) {
        SY_TRY(sy_arena_2d(p->scratch, p->compute, din->shape[0], din->shape[1], &narrow));
        SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = *din, .y = narrow}));
    }
    SY_TRY(sy__moe_jitter(moe, p, &narrow));
    SY_TRY(sy_add(p->stream, &(sy_add_args){.a = *dx, .b = narrow, .y = *dx}));
cleanup:
    return st;
}

/* dW_r += dz^T x_r; dx += dz W_r (through the jitter). */
static sy_status router_linear_backward(const sy__moe *moe, sy_pass *p, const sy_tensor *x,
                                        const sy_tensor *dz, sy_tensor *dx)
{
    sy_status st = SY_OK;
    int64_t T = x->shape[0], H = x->shape[1];
    sy_tensor input, wide, narrow;
    SY_TRY(sy__moe_router_input(moe, p, x, &input));
    SY_TRY(sy_linear_wgrad(p, dz, &input, &moe->router_w->grad));
    if (p->compute == p->wide && moe->config->jitter <= 0) {
        SY_TRY(sy_linear_dgrad(p, dz, &moe->router_w->value, dx, 1));
        goto cleanup;
    }
    SY_TRY(sy_arena_2d(p->scratch, p->wide, T, H, &wide));
    SY_TRY(sy_linear_dgrad(p, dz, &moe->router_w->value, &wide, 0));
    SY_TRY(sy_arena_2d(p->scratch, p->compute, T, H, &narrow));
    SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = wide, .y = narrow}));
    SY_TRY(sy__moe_jitter(moe, p, &narrow));
    SY_TRY(sy_add(p->stream, &(sy_add_args){.a = *dx, .b = narrow, .y = *dx}));
cleanup:
    return st;
}

static sy_status router_backward(const sy__moe *moe, sy_pass *p, const sy__moe_saved *s,
                                 const sy_tensor *x, const sy_tensor *g, const sy__local *dlocal,
                                 sy_tensor *dx)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor dz, din, sums = sy_tensor_rows(&p->stats->sums, moe->layer, 1);
    const sy_tensor loss = sy_tensor_1d((double *)sums.data + SY_SUM_ROUTER, SY_F64, 1);
    SY_TRY(sy_arena_2d(p->scratch, p->wide, x->shape[0], moe->config->experts, &dz));
    if (moe->router->host != NULL) {
        SY_TRY(sy_zero(p->stream, dz.data, sy_tensor_bytes(&dz)));
        SY_TRY(losses(moe, p, s, &dz));
        SY_TRY(sy__host_route_backward(moe, p, s, g, &dz, dlocal, &din));
    } else {
        SY_TRY(moe->router->backward(moe->config, p, &s->scores, &s->choices, g, &loss, &dz));
        SY_TRY(losses(moe, p, s, &dz));
        din = dz;
    }
    if (moe->router_w != NULL) {
        SY_TRY(router_linear_backward(moe, p, x, &din, dx));
    } else if (moe->layout.reads_x) {
        SY_TRY(router_input_backward(moe, p, &din, dx));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* Through the experts alone, whatever they are. */
static sy_status routed_backward(const sy__moe *moe, sy_pass *p, sy__moe_saved *s,
                                 const sy_tensor *x, const sy_tensor *dy, sy_tensor *dx,
                                 sy_tensor *g, const sy__beside *beside)
{
    sy_status st = SY_OK;
    sy_tensor din;
    if (moe->is_mixed) {
        SY_TRY(sy_mixed_backward(&moe->mixed, p, s->mixed, x, &s->choices.weight, dy, dx, g));
        SY_TRY(sy__moe_beside(p, beside));
        goto cleanup;
    }
    if (!moe->has_base) {
        return experts_backward(moe, p, s, x, dy, dx, g, beside);
    }
    SY_TRY(sy_arena_2d(p->scratch, p->compute, x->shape[0], x->shape[1], &din));
    SY_TRY(experts_backward(moe, p, s, &s->base_out, dy, &din, g, beside));
    SY_TRY(sy_add(p->stream, &(sy_add_args){.a = din, .b = *dy, .y = din}));
    SY_TRY(sy_base_mlp_backward(&moe->base, p, x, &s->base_h, &din, dx));
cleanup:
    return st;
}

sy_status sy__moe_backward(void *self, sy_pass *p, void *saved, const sy_tensor *x,
                           const sy_tensor *dy, sy_tensor *dx)
{
    sy_status st = SY_OK;
    sy__moe *moe = self;
    sy__moe_saved *s = saved;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor g;
    sy__local dlocal;
    sy_shared_grad shared;
    const sy__beside beside = {.moe = moe, .s = s, .x = x, .dy = dy, .grad = &shared};
    SY_TRY(sy_arena_2d(p->scratch, p->wide, s->choices.T, s->choices.K, &g));
    if (moe->has_shared) {
        SY_TRY(sy_shared_grad_room(&moe->shared, p, x->shape[0], dx->data != NULL, &shared));
    }
    SY_TRY(routed_backward(moe, p, s, x, dy, dx, &g, &beside));
    SY_TRY(sy_capacity_share_backward(moe->config, p, &s->choices, &g));
    SY_TRY(sy__local_backward(moe, p, &s->local, x, dy, dx, &dlocal));
    SY_TRY(router_backward(moe, p, s, x, &g, &dlocal, dx));
    if (moe->has_shared) {
        SY_TRY(sy_shared_add_grad(&moe->shared, p, &shared, dx));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

#include "moe/moe_impl.h"

#include <math.h>
#include <stdio.h>

#include "backend/corrupt.h"
#include "core/alloc.h"
#include "core/span.h"
#include "core/rng.h"
#include "moe/adapters.h"
#include "moe/capacity.h"
#include "moe/vectors.h"
#include "moe/widths.h"

static sy_status declare(void *self, const char *prefix, sy_params *params)
{
    sy_status st = SY_OK;
    sy__moe *moe = self;
    int64_t E = moe->config->experts;
    char name[SY_PARAM_NAME];
    sy_param_spec router =
        sy_param_matrix(E, moe->model->hidden, moe->model->init_std, "%s/moe/router", prefix);
    sy_param_spec bias = sy_param_vector(E, SY_INIT_ZEROS, "%s/moe/bias", prefix);

    snprintf(name, sizeof name, "%s/moe", prefix);
    router.wide = bias.wide = true;
    bias.trainable = false;
    if (moe->router->host != NULL) {
        SY_TRY(sy__host_route_declare(moe, prefix, &router, params));
    } else {
        SY_TRY(sy_params_declare(params, &router, &moe->router_w));
    }
    if (moe->config->bias_update_rate > 0) {
        SY_TRY(sy_params_declare(params, &bias, &moe->bias));
    }
    SY_TRY(moe->is_mixed ? sy_mixed_declare(&moe->mixed, name, params)
                         : sy_experts_declare(&moe->experts, name, params));
    if (moe->has_base) {
        SY_TRY(sy_base_declare(&moe->base, name, params));
    }
    if (moe->has_shared) {
        SY_TRY(sy_shared_declare(&moe->shared, name, params));
    }
cleanup:
    return st;
}

sy_status sy__moe_jitter(const sy__moe *moe, sy_pass *p, sy_tensor *x)
{
    uint64_t stream =
        ((uint64_t)SY_RNG_JITTER << 56) ^ ((uint64_t)moe->layer << 40) ^ (uint64_t)p->step;
    bool training = p->kind == SY_PASS_TRAIN || p->kind == SY_PASS_RECOMPUTE;
    if (moe->config->jitter <= 0 || !training) {
        return SY_OK;
    }
    return sy_jitter(p->stream, &(sy_jitter_args){.x = *x,
                                                  .token_glb = p->batch->token_glb,
                                                  .y = *x,
                                                  .eps = moe->config->jitter,
                                                  .seed = p->seed,
                                                  .stream = stream});
}

sy_status sy__moe_router_input(const sy__moe *moe, sy_pass *p, const sy_tensor *x, sy_tensor *out)
{
    sy_status st = SY_OK;
    sy_tensor jittered = *x;
    if (moe->config->jitter > 0 && p->kind != SY_PASS_EVAL && p->kind != SY_PASS_DECODE) {
        SY_TRY(sy_arena_2d(p->scratch, p->compute, x->shape[0], x->shape[1], &jittered));
        SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = *x, .y = jittered}));
        SY_TRY(sy__moe_jitter(moe, p, &jittered));
    }
    *out = jittered;
    if (p->compute != p->wide) {
        SY_TRY(sy_arena_2d(p->scratch, p->wide, x->shape[0], x->shape[1], out));
        SY_TRY(sy_cast(p->stream, &(sy_cast_args){.x = jittered, .y = *out}));
    }
cleanup:
    return st;
}

static sy_status score(const sy__moe *moe, sy_pass *p, const sy_tensor *x, sy_scores *s)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), T = x->shape[0], E = moe->config->experts;
    sy_tensor input;
    SY_TRY(sy_arena_2d(p->keep, p->wide, T, E, &s->z));
    SY_TRY(sy_arena_2d(p->keep, p->wide, T, E, &s->p));
    SY_TRY(sy_arena_1d(p->keep, p->wide, T, &s->lse));
    SY_TRY(sy__moe_router_input(moe, p, x, &input));
    SY_TRY(sy_linear_forward(p, &input, &moe->router_w->value, &s->z));
    SY_TRY(sy_corrupt(p->stream, "moe.logits", &s->z, 0));
    SY_TRY(sy_router_scores(
        p->stream,
        &(sy_router_scores_args){
            .z = s->z, .p = s->p, .lse = s->lse, .score = (sy_score)moe->config->score}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static sy_status choose(const sy__moe *moe, sy_pass *p, const sy_scores *s, sy_choices *c)
{
    sy_status st = SY_OK;
    const bool limited = sy_capacity_limits(moe->config, p);
    int64_t T = s->z.shape[0];
    sy_tensor bias = moe->bias != NULL ? moe->bias->value : sy_tensor_none();
    c->T = T;
    c->K = moe->layout.K;
    SY_TRY(sy_arena_2d(p->keep, SY_I32, T, c->K, &c->token));
    SY_TRY(sy_arena_2d(p->keep, SY_I32, T, c->K, &c->expert));
    SY_TRY(sy_arena_2d(p->keep, p->wide, T, c->K, &c->weight));
    if (limited) {
        SY_TRY(sy_arena_2d(p->keep, SY_U8, T, c->K, &c->kept));
    }
    if (limited && moe->config->drop_policy == SY_DROP_PROBABILITY) {
        SY_TRY(sy_arena_2d(p->keep, p->wide, T, c->K, &c->priority));
    }
    SY_TRY(moe->router->choose(moe->config, p, s, &bias, c));
    SY_TRY(sy_capacity_apply(moe->config, moe->layout.share, p, s, c));
    SY_TRY(moe->router->weigh(moe->config, p, s, c));
cleanup:
    return st;
}

/* The choices that the balance loss counts, or the first ones alone. */
static sy_status counted(const sy__moe *moe, sy_pass *p, const sy_choices *c, sy_tensor *out)
{
    sy_status st = SY_OK;
    int32_t *first = NULL;
    sy_tensor idx;
    const sy_tensor *all = c->counted.data != NULL ? &c->counted : &c->expert;
    *out = sy_tensor_1d(all->data, SY_I32, c->T * c->K);
    if (moe->config->aux_loss_counts != SY_AUX_COUNT_FIRST) {
        goto cleanup;
    }
    SY_TRY(sy_host_arena_alloc(p->host, c->T * (int64_t)sizeof *first, (void **)&first));
    for (int64_t t = 0; t < c->T; t++) {
        first[t] = (int32_t)(t * c->K);
    }
    SY_TRY(sy_arena_1d(p->keep, SY_I32, c->T, &idx));
    SY_TRY(sy_copy_h2d(p->stream, idx.data, first, sy_tensor_bytes(&idx)));
    SY_TRY(sy_arena_1d(p->keep, SY_I32, c->T, out));
    SY_TRY(sy_gather_rows(
        p->stream, &(sy_gather_rows_args){.x = sy_tensor_2d(all->data, SY_I32, c->T * c->K, 1),
                                          .idx = idx,
                                          .y = sy_tensor_2d(out->data, SY_I32, c->T, 1)}));
cleanup:
    return st;
}

/* Add to the step's statistics, and count the choices in the scope of the balance loss. Collective
 * over dp where the scope is the global batch. */
static sy_status count(const sy__moe *moe, sy_pass *p, sy__moe_saved *s)
{
    sy_status st = SY_OK;
    int64_t E = moe->config->experts;
    int32_t scope = moe->config->aux_loss_scope;
    int64_t n_scopes = scope == SY_AUX_SEQUENCE ? p->batch->B : 1;
    const sy_choices *c = &s->choices;
    sy_tensor load = sy_tensor_rows(&p->stats->load, moe->layer, 1);
    sy_tensor kept = sy_tensor_rows(&p->stats->kept, moe->layer, 1);
    sy_tensor dropped_at = sy_tensor_rows(&p->stats->dropped_at, moe->layer, 1);
    sy_tensor sums = sy_tensor_rows(&p->stats->sums, moe->layer, 1);

    SY_TRY(sy_router_stats(
        p->stream,
        &(sy_router_stats_args){.p = s->scores.p,
                                .expert = c->expert,
                                .kept = c->kept,
                                .load = sy_tensor_1d(load.data, SY_I64, E),
                                .kept_load = sy_tensor_1d(kept.data, SY_I64, E),
                                .dropped_at = sy_tensor_1d(dropped_at.data, SY_I64, SY_DROP_PARTS),
                                .sums = sy_tensor_1d(sums.data, SY_F64, 2),
                                .S = p->batch->S}));
    if (p->kind != SY_PASS_TRAIN) {
        goto cleanup;
    }
    SY_TRY(sy_arena_2d(p->keep, SY_I64, n_scopes, E, &s->count));
    if (s->host != NULL && moe->router->traits & SY_ROUTER_OWN_COUNT) {
        SY_TRY(sy__host_route_count(p, s->host, &s->count));
    } else if (scope == SY_AUX_GLOBAL_BATCH) {
        SY_TRY(sy_all_reduce(p->mesh->group[SY_DP], &(sy_comm_args){.stream = p->stream,
                                                                    .send = load.data,
                                                                    .recv = s->count.data,
                                                                    .n = E,
                                                                    .dtype = SY_I64,
                                                                    .reduce = SY_SUM,
                                                                    .what = "moe global load",
                                                                    .layer = p->layer}));
    } else {
        sy_tensor expert;
        SY_TRY(counted(moe, p, c, &expert));
        SY_TRY(sy_expert_count(p->stream,
                               &(sy_expert_count_args){.expert = expert, .count = s->count}));
    }
cleanup:
    return st;
}

/* Rows [T, K] to the places [n, K] of their tokens; `none` where a token has none. */
static sy_status spread(sy_pass *p, const sy_tensor *rows, double none, const sy_tensor *out)
{
    sy_status st = SY_OK;
    const int64_t mark = sy_arena_mark(p->scratch), T = rows->shape[0], K = rows->shape[1];
    sy_tensor more, part;
    SY_TRY(sy_arena_2d(p->scratch, rows->dtype, T + 1, K, &more));
    part = sy_tensor_rows(&more, T, 1);
    SY_TRY(sy_copy_d2d(p->stream, more.data, rows->data, sy_tensor_bytes(rows)));
    SY_TRY(sy_fill(p->stream, &(sy_fill_args){.y = part, .value = none}));
    SY_TRY(sy_gather_rows(
        p->stream,
        &(sy_gather_rows_args){.x = more,
                               .idx = p->row_of,
                               .y = sy_tensor_2d(out->data, out->dtype, p->row_of.shape[0], K)}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static sy_status note_at_places(sy_pass *p, const sy_choices *c, const sy_tensor *expert,
                                const sy_tensor *kept)
{
    sy_status st = SY_OK;
    SY_TRY(spread(p, &c->expert, -1, expert));
    if (c->kept.data != NULL) {
        SY_TRY(spread(p, &c->kept, 0, kept));
    }
cleanup:
    return st;
}

/* For whoever wants to see them. */
static sy_status note_choices(sy_pass *p, const sy_choices *c)
{
    sy_status st = SY_OK;
    sy_stats *s = p->stats;
    int64_t n = (p->row_of.data != NULL ? p->row_of.shape[0] : c->T) * c->K;
    if (s->chosen.data == NULL) {
        goto cleanup;
    }
    SY_REQUIRE(s->n_chosen + n <= s->chosen.shape[0], SY_ERR_INTERNAL,
               "%ld choices do not fit where they are noted", (long)(s->n_chosen + n));
    sy_tensor expert = sy_tensor_rows(&s->chosen, s->n_chosen, n);
    sy_tensor kept = sy_tensor_rows(&s->chosen_kept, s->n_chosen, n);
    s->n_chosen += n;
    if (p->row_of.data != NULL) {
        SY_TRY(note_at_places(p, c, &expert, &kept));
        goto cleanup;
    }
    SY_TRY(sy_copy_d2d(p->stream, expert.data, c->expert.data, sy_tensor_bytes(&expert)));
    if (c->kept.data != NULL) {
        SY_TRY(sy_copy_d2d(p->stream, kept.data, c->kept.data, sy_tensor_bytes(&kept)));
    }
cleanup:
    return st;
}

/* How large the output is beside the input, over the tokens that are routed. */
static sy_status measure_output(const sy__moe *moe, sy_pass *p, const sy_tensor *x,
                                const sy_tensor *y)
{
    sy_status st = SY_OK;
    const sy_tensor *of[2] = {y, x};
    sy_tensor sums = sy_tensor_rows(&p->stats->sums, moe->layer, 1);
    for (int32_t i = 0; i < 2; i++) {
        void *out = (double *)sums.data + SY_SUM_OUTPUT + i;
        SY_TRY(
            sy_row_squares(p->stream, &(sy_row_squares_args){.x = *of[i],
                                                             .rows = p->batch->routed,
                                                             .out = sy_tensor_1d(out, SY_F64, 1)}));
    }
cleanup:
    return st;
}

/* Of a chunk, of n. */
static int64_t recv_rows(const sy__moe *moe, const sy_pass *p, int32_t n)
{
    int64_t own = (p->T_max + n - 1) / n * moe->layout.K;
    int64_t all = own * p->mesh->placement->ep;
    double rows = ceil(moe->config->recv_factor * (double)own);
    int64_t room = rows < (double)all ? (int64_t)rows : all;
    return room > 0 ? room : 1;
}

static sy_status build_plans(sy_pass *p, const sy_plan_spec *spec, sy__moe_saved *s)
{
    sy_status st = SY_OK;
    sy_plan *plan = NULL;
    SY_TRY(sy_host_arena_alloc(p->host, spec->n * (int64_t)sizeof *plan, (void **)&plan));
    SY_TRY(sy_host_arena_alloc(p->host, spec->n * (int64_t)sizeof *s->chunk, (void **)&s->chunk));
    SY_TRY(sy_plan_build(p, spec, &s->choices, plan));
    s->n_chunks = spec->n;
    for (int32_t i = 0; i < spec->n; i++) {
        s->chunk[i].plan = plan[i];
    }
cleanup:
    return st;
}

/* From scores to plan. */
static sy_status route(const sy__moe *moe, sy_pass *p, const sy_tensor *x, sy__moe_saved *s)
{
    sy_status st = SY_OK;
    bool eval = p->kind == SY_PASS_EVAL || p->kind == SY_PASS_DECODE;
    const int32_t n = p->travel != NULL ? p->travel->chunks : 1;
    sy_plan_spec spec = {.E = moe->config->experts, .recv_rows = recv_rows(moe, p, n), .n = n};

    sy_span_begin(SY_SPAN_PART, "route", p->layer, -1);
    if (moe->config->pad_to_capacity && sy_capacity_limits(moe->config, p)) {
        /* the same shape on ranks with fewer tokens */
        spec.capacity = sy_capacity_rows(moe->config, moe->layout.share, eval, p->T_max,
                                         p->mesh->group[SY_DP]->size);
    }
    if (moe->router->host != NULL) {
        SY_TRY(sy__host_route_forward(moe, p, x, s));
    } else {
        SY_TRY(score(moe, p, x, &s->scores));
        SY_TRY(choose(moe, p, &s->scores, &s->choices));
    }
    SY_TRY(sy_capacity_share(moe->config, p, &s->choices));
    if (p->stats != NULL) {
        SY_TRY(count(moe, p, s));
        SY_TRY(note_choices(p, &s->choices));
    }
    if (!moe->is_mixed) {
        SY_TRY(build_plans(p, &spec, s));
    }
cleanup:
    sy_span_end();
    return st;
}

double sy__moe_book(sy_pass *p, sy__moe_phase phase, double from)
{
    double now = sy_stream_clock(p->stream);
    if (p->stats != NULL) {
        double *total[] = {&p->stats->dispatch_s, &p->stats->experts_s, &p->stats->combine_s};
        *total[phase] += now - from;
    }
    return now;
}

sy_status sy__moe_beside(sy_pass *p, const sy__beside *b)
{
    if (b == NULL || !b->moe->has_shared) {
        return SY_OK;
    }
    const sy_shared *shared = &b->moe->shared;
    return b->y != NULL ? sy_shared_forward(shared, p, b->x, b->y, b->keep ? &b->s->shared : NULL)
                        : sy_shared_backward(shared, p, b->s->shared, b->x, b->dy, b->grad);
}

sy_status sy__moe_rows_room(const sy__moe *moe, sy_pass *p, const sy_plan *plan,
                            const sy_plan_pass *pass, sy_arena *arena, sy_tensor *rows,
                            sy_tensor *h)
{
    sy_status st = SY_OK;
    const int64_t H = moe->model->hidden, inner = sy_experts_inner(&moe->experts);
    if (p->mesh->dev->measures &&
        plan->may_split) { /* in further passes they stand in scratch: measure that too */
        SY_TRY(sy_arena_2d(p->scratch, p->compute, pass->R, H + inner, h));
    }
    SY_TRY(sy_arena_2d(arena, p->compute, pass->R, H, rows));
    SY_TRY(sy_arena_2d(arena, p->compute, pass->R, inner, h));
cleanup:
    return st;
}

sy_status sy__moe_dispatch(sy_pass *p, const sy_plan *plan, const sy_plan_pass *pass,
                           const sy_tensor *x, const sy_tensor *extra, const sy_tensor *rows,
                           const sy_tensor *rows_extra, const sy__beside *beside)
{
    sy_status st = SY_OK;
    const int64_t mark = sy_arena_mark(p->scratch);
    double t = sy_stream_clock(p->stream);
    sy_shipment ship;
    SY_TRY(
        sy_shipment_room(p, pass->n_send, pass->n_arrive, x->shape[1], extra->data != NULL, &ship));
    SY_TRY(sy_dispatch_begin(p, plan, pass, x, extra, &ship));
    sy__moe_book(p, SY__MOE_DISPATCH, t);
    SY_TRY(sy__moe_beside(p, beside));
    t = sy_stream_clock(p->stream);
    SY_TRY(sy_dispatch_finish(p, pass, &ship, rows, rows_extra));
    sy__moe_book(p, SY__MOE_DISPATCH, t);
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy__moe_fill_rows(const sy__moe *moe, sy_pass *p, const sy_plan *plan,
                            const sy_plan_pass *pass, const sy_tensor *x, sy_arena *arena,
                            sy_tensor *rows, sy_tensor *h, const sy__beside *beside)
{
    sy_status st = SY_OK;
    const sy_tensor none = sy_tensor_none();
    SY_TRY(sy__moe_rows_room(moe, p, plan, pass, arena, rows, h));
    SY_TRY(sy__moe_dispatch(p, plan, pass, x, &none, rows, &none, beside));
    const double t = sy_stream_clock(p->stream);
    SY_TRY(sy_experts_hidden(&moe->experts, p, &pass->expert_start, rows, h));
    sy__moe_book(p, SY__MOE_EXPERTS, t);
cleanup:
    return st;
}

sy_status sy__moe_sum_rows(sy_pass *p, const sy_plan *plan, const sy_tensor *wire,
                           const sy_tensor *y)
{
    return sy_combine_rows(p->stream,
                           &(sy_combine_rows_args){
                               .rows = *wire,
                               .weight = sy_tensor_1d(plan->row_weight.data, p->wide, plan->n_wire),
                               .token_start = plan->token_start,
                               .token_row = plan->token_row,
                               .y = *y});
}

/* One pass of the plan: rows out, through the experts, back into wire order. */
static sy_status run_pass(const sy__moe *moe, sy_pass *p, sy__moe_chunk *c,
                          const sy_plan_pass *pass, const sy_tensor *x, sy_tensor *wire,
                          const sy__beside *beside)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor out, none = sy_tensor_none();
    double t;
    SY_TRY(sy__moe_fill_rows(moe, p, &c->plan, pass, x, c->kept_rows ? p->saved : p->scratch,
                             &c->rows, &c->h, beside));
    t = sy_stream_clock(p->stream);
    SY_TRY(sy_arena_2d(p->scratch, p->compute, pass->R, x->shape[1], &out));
    SY_TRY(sy_experts_output(&moe->experts, p, &pass->expert_start, &c->h, &out));
    t = sy__moe_book(p, SY__MOE_EXPERTS, t);
    SY_TRY(sy_combine(p, &c->plan, pass, &out, &none, wire, &none));
    sy__moe_book(p, SY__MOE_COMBINE, t);
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

static sy_status experts_forward(const sy__moe *moe, sy_pass *p, sy__moe_saved *s,
                                 const sy_tensor *x, sy_tensor *y, const sy__beside *beside)
{
    sy_status st = SY_OK;
    const int64_t mark = sy_arena_mark(p->scratch);
    sy__moe_chunk *c = s->chunk;
    sy_tensor wire;
    if (s->n_chunks > 1) {
        return sy__chunks_forward(moe, p, s, x, y, beside);
    }
    SY_TRY(sy_arena_2d(p->scratch, p->compute, c->plan.n_wire, x->shape[1], &wire));
    for (int32_t q = 0; q < c->plan.n_passes; q++) {
        SY_TRY(run_pass(moe, p, c, &c->plan.pass[q], x, &wire, q == 0 ? beside : NULL));
    }
    SY_TRY(sy__moe_sum_rows(p, &c->plan, &wire, y));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* y = base(x) + what the adapters make of base(x). */
static sy_status on_base(const sy__moe *moe, sy_pass *p, sy__moe_saved *s, const sy_tensor *x,
                         sy_tensor *y, const sy__beside *beside)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_arena *arena = beside->keep ? p->saved : p->scratch;
    SY_TRY(sy_arena_2d(arena, p->compute, x->shape[0], x->shape[1], &s->base_out));
    SY_TRY(sy_arena_2d(arena, p->compute, x->shape[0], 2 * moe->config->expert_hidden, &s->base_h));
    SY_TRY(sy_base_mlp_forward(&moe->base, p, x, &s->base_h, &s->base_out));
    SY_TRY(experts_forward(moe, p, s, &s->base_out, y, beside));
    SY_TRY(sy_add(p->stream, &(sy_add_args){.a = *y, .b = s->base_out, .y = *y}));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* y = the experts' sum, whatever they are; shared experts on their own in `beside`. */
static sy_status routed_forward(const sy__moe *moe, sy_pass *p, sy__moe_saved *s,
                                const sy_tensor *x, sy_tensor *y, const sy__beside *beside)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < s->n_chunks; i++) {
        s->chunk[i].kept_rows =
            beside->keep && s->chunk[i].plan.n_passes == 1 && p->recompute != SY_RECOMPUTE_MOE;
    }
    if (moe->is_mixed) {
        SY_TRY(sy_mixed_forward(&moe->mixed, p, x, &s->choices.weight, y,
                                beside->keep ? &s->mixed : NULL));
        SY_TRY(sy__moe_beside(p, beside));
    } else {
        SY_TRY(moe->has_base ? on_base(moe, p, s, x, y, beside)
                             : experts_forward(moe, p, s, x, y, beside));
    }
cleanup:
    return st;
}

static sy_status forward(void *self, sy_pass *p, const sy_tensor *x, sy_tensor *y, void **saved)
{
    sy_status st = SY_OK;
    sy__moe *moe = self;
    sy__moe_saved *s = saved != NULL ? *saved : NULL;
    const bool again = s != NULL;
    const int64_t mark = sy_arena_mark(p->keep), scratch = sy_arena_mark(p->scratch);
    sy_tensor shared;

    if (!again) {
        SY_TRY(sy_host_arena_alloc(p->host, sizeof *s, (void **)&s));
        SY_TRY(route(moe, p, x, s));
    }
    const sy__beside beside = {.moe = moe, .s = s, .x = x, .y = &shared, .keep = saved != NULL};
    if (moe->has_shared) {
        SY_TRY(sy_arena_2d(p->scratch, p->compute, x->shape[0], x->shape[1], &shared));
    }
    SY_TRY(routed_forward(moe, p, s, x, y, &beside));
    SY_TRY(sy__local_forward(moe, p, &s->local, x, y));
    if (moe->has_shared) {
        SY_TRY(sy_add(p->stream, &(sy_add_args){.a = *y, .b = shared, .y = *y}));
    }
    if (!again && p->stats != NULL) {
        SY_TRY(measure_output(moe, p, x, y));
    }
    if (saved != NULL) {
        *saved = s;
    }
cleanup:
    sy_arena_release(p->scratch, scratch);
    if (saved == NULL) { /* nothing outlives this call */
        sy_arena_release(p->keep, mark);
    }
    return st;
}

/* Loss-free balancing: b_e += rate * sign(mean load - load_e), once per step. Wang et al. 2024
 * (arXiv 2408.15664); DeepSeek-V3 2.1.2. */
static sy_status update_bias(sy__moe *moe, const sy_step_end *end)
{
    sy_status st = SY_OK;
    const int64_t E = moe->config->experts, *h_load = end->h_load + (int64_t)moe->layer * E;
    double total = 0, *h_bias = moe->h_state;
    sy_tensor bias = moe->bias->value;

    SY_TRY(sy_copy_d2h(end->stream, moe->h_raw, bias.data, sy_tensor_bytes(&bias)));
    SY_TRY(sy_stream_sync(end->stream));
    sy_convert(SY_F64, h_bias, bias.dtype, moe->h_raw, E);
    for (int64_t e = 0; e < E; e++) {
        total += (double)h_load[e];
    }
    for (int64_t e = 0; e < E; e++) {
        double gap = total / (double)E - (double)h_load[e];
        h_bias[e] += moe->config->bias_update_rate * ((gap > 0) - (gap < 0));
    }
    sy_convert(bias.dtype, moe->h_raw, SY_F64, h_bias, E);
    SY_TRY(sy_copy_h2d(end->stream, bias.data, moe->h_raw, sy_tensor_bytes(&bias)));
    SY_TRY(sy_stream_sync(end->stream));
cleanup:
    return st;
}

static sy_status begin(void *self, const sy_run_begin *facts)
{
    sy__moe *moe = self;
    return moe->layout.from_data ? sy__host_route_begin(moe, facts) : SY_OK;
}

static sy_status end_step(void *self, const sy_step_end *end)
{
    sy_status st = SY_OK;
    sy__moe *moe = self;
    if (end->skipped) {
        return SY_OK;
    }
    const int64_t last = moe->config->bias_update_steps;
    if (moe->bias != NULL && (last == 0 || end->step <= last)) {
        SY_TRY(update_bias(moe, end));
    }
    if (moe->layout.n_state > 0) {
        SY_TRY(sy__host_route_end_step(moe, end));
    }
cleanup:
    return st;
}

static void destroy(void *self)
{
    sy__moe *moe = self;
    for (int32_t i = 0; i < SY_ROUTER_PARAMS; i++) {
        sy_free(&moe->h_own[i]);
    }
    sy_free(&moe->width);
    sy_free(&moe->h_raw);
    sy_free(&moe->h_state);
    sy_free(&moe);
}

static const sy_sublayer_ops moe_ops = {
    .name = "moe",
    .declare = declare,
    .forward = forward,
    .backward = sy__moe_backward,
    .begin = begin,
    .end_step = end_step,
    .destroy = destroy,
};

/* Where bias, state and own parameters are updated. */
static sy_status create_host_memory(sy__moe *moe)
{
    sy_status st = SY_OK;
    const sy_router_layout *l = &moe->layout;
    const bool adapts = moe->router->host != NULL && moe->router->host->adapt != NULL;
    int64_t n = moe->config->experts > l->n_state ? moe->config->experts : l->n_state;
    if (moe->config->bias_update_rate <= 0 && l->n_state == 0) {
        return SY_OK;
    }
    SY_TRY(sy_alloc(n, sizeof *moe->h_state, (void **)&moe->h_state));
    for (int32_t i = 0; adapts && i < l->n_params; i++) {
        const int64_t m = l->param[i].shape[0] * l->param[i].shape[1];
        SY_TRY(sy_alloc(m, sizeof(double), (void **)&moe->h_own[i]));
        n = m > n ? m : n;
    }
    SY_TRY(sy_alloc(n, sizeof(double), &moe->h_raw));
cleanup:
    return st;
}

sy_status sy_moe_create(const sy_model_config *model, const sy_moe_config *config, int32_t layer,
                        sy_sublayer *out)
{
    sy_status st = SY_OK;
    sy__moe *moe = NULL;
    double std = model->init_std, down_std = std / sqrt(2.0 * model->layers);
    const sy_act act = (sy_act)model->activation;
    SY_TRY(sy_alloc(1, sizeof *moe, (void **)&moe));
    *moe = (sy__moe){
        .model = model,
        .config = config,
        .router = sy_router_find(config->router),
        .layer = layer,
        .experts = {.E = config->experts,
                    .hidden = model->hidden,
                    .ffn = config->expert_hidden,
                    .rank = config->adapter_rank,
                    .init_std = std,
                    .down_std = down_std,
                    .act = act,
                    .base = {.mlp = {model->hidden, config->expert_hidden, std, down_std, act, NULL,
                                     NULL},
                             .packed = config->adapter_base == SY_BASE_NF4}},
        .shared = {.mlp = {model->hidden, config->shared_hidden, std, down_std, act, NULL, NULL},
                   .gated = config->shared_gate},
        .has_shared = config->shared_experts > 0};
    SY_REQUIRE(moe->router != NULL, SY_ERR_USAGE, "unknown router '%s'", config->router);
    sy_router_layout_of(config, model->hidden, &moe->layout);
    sy__host_route_settle(model, &moe->layout);
    if (moe->layout.zero_experts) {
        moe->experts.down_std = 0;
    }
    SY_TRY(create_host_memory(moe));
    moe->is_mixed = sy_moe_mixes(config);
    moe->has_base = moe->experts.bottlenecks = sy_moe_has_bottlenecks(config);
    moe->base = moe->experts.base;
    moe->mixed = (sy_mixed){.E = config->experts,
                            .rank = config->adapter_rank,
                            .init_std = std,
                            .base = moe->experts.base};
    if (sy_moe_has_widths(config)) {
        SY_TRY(sy_alloc(config->experts, sizeof *moe->width, (void **)&moe->width));
        for (int32_t e = 0; e < config->experts; e++) {
            moe->width[e] = sy_moe_width(config, e);
        }
        moe->experts.width = moe->width;
        moe->experts.mean_width = sy_moe_mean_width(config);
    }
    *out = (sy_sublayer){&moe_ops, moe};
    moe = NULL;
cleanup:
    if (moe != NULL) {
        destroy(moe);
    }
    return st;
}

int64_t sy_moe_active_params(const sy_model_config *model, const sy_moe_config *config)
{
    int64_t H = model->hidden;
    int64_t shared = config->shared_experts > 0 ? config->shared_hidden : 0;
    const int32_t n = sy_act_parts((sy_act)model->activation) + 1; /* matrices of an MLP */
    double expert = n * (double)H * sy_moe_mean_width(config);     /* as if loads were alike */
    sy_router_layout layout;
    sy_router_layout_of(config, H, &layout);
    double computed = layout.computed > 0 ? layout.computed : config->top_k;
    int64_t own = (int64_t)layout.n_vectors * H;
    for (int32_t i = 0; i < layout.n_params; i++) {
        own += layout.param[i].shape[1] * (layout.param[i].by_id ? 1 : layout.param[i].shape[0]);
    }
    own += layout.reads_x ? 0 : H * layout.M;
    double routed = sy_moe_has_adapters(config) ? sy_moe_adapter_params(config, H, computed)
                                                : computed * expert;
    routed += sy_vectors_active_params(model, config);
    return own + (int64_t)llround(routed) + n * H * shared;
}

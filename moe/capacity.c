#include "moe/capacity.h"

#include <math.h>

#include "core/rng.h"

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static bool is_eval(const sy_pass *p)
{
    return p->kind == SY_PASS_EVAL || p->kind == SY_PASS_DECODE;
}

/* ---- slots ---- */

/* Products are rounded to 9 digits first, so that 1.1 * 10 / 1 is 11 to all of these. */
static double up(double x)
{
    return ceil(x - 1e-9 * (1 + x));
}

static double down(double x)
{
    return floor(x + 1e-9 * (1 + x));
}

/* Half to even, as Python and numpy round. */
static double nearest(double x)
{
    const double low = floor(x), part = x - low;
    if (fabs(part - 0.5) < 1e-9 * (1 + x)) {
        return low + fmod(low, 2);
    }
    return low + (part > 0.5);
}

/* share: an expert's of all choices, 0: 1 / E. */
static double rounded(const sy_moe_config *config, double factor, double T, double share)
{
    const double K = config->top_k, E = share > 0 ? 1 / share : config->experts;
    const double all = factor * T * (config->capacity_basis == SY_BASIS_TOKEN ? 1 : K);
    const double exact = share > 0 ? all * share : all / E;
    switch ((sy_capacity_rounding)config->capacity_rounding) {
    case SY_ROUND_FLOOR:
        return down(exact);
    case SY_ROUND_NEAREST:
        return nearest(exact);
    case SY_ROUND_PER_CHOICE:
        return K * down(factor * up(T / E));
    case SY_ROUND_PER_RANK:
        return down(up(factor * T) * K / E);
    default:
        return up(exact);
    }
}

int64_t sy_capacity_slots(const sy_moe_config *config, bool eval, int64_t T)
{
    return sy_capacity_slots_of(config, eval, T, 0);
}

int64_t sy_capacity_slots_of(const sy_moe_config *config, bool eval, int64_t T, double share)
{
    const sy_opt_f64 factor = eval ? config->eval_capacity_factor : config->capacity_factor;
    const int64_t multiple = config->capacity_multiple > 1 ? config->capacity_multiple : 1;
    int64_t C;
    if (!factor.set) {
        return -1;
    }
    C = (int64_t)rounded(config, factor.value, (double)T, share);
    C = C < config->min_capacity ? config->min_capacity : C;
    return min64((C + multiple - 1) / multiple * multiple, T);
}

/* Tokens that are counted together, of T that follow each other. */
static int64_t group_of(const sy_moe_config *config, int64_t T)
{
    return config->capacity_group > 0 ? min64(config->capacity_group, T) : T;
}

int64_t sy_capacity_rows(const sy_moe_config *config, double share, bool eval, int64_t T,
                         int32_t n_ranks)
{
    const int64_t G = group_of(config, T);
    if (config->capacity_scope == SY_CAPACITY_GLOBAL) {
        return min64(sy_capacity_slots_of(config, eval, T * n_ranks, share), T);
    }
    return G > 0 ? min64((T + G - 1) / G * sy_capacity_slots_of(config, eval, G, share), T) : 0;
}

bool sy_capacity_limits(const sy_moe_config *config, const sy_pass *p)
{
    return is_eval(p) ? config->eval_capacity_factor.set : config->capacity_factor.set;
}

/* ---- drops ---- */

/* What the choices are sorted by beside their places; absent: nothing. */
static sy_status priority_of(const sy_moe_config *config, sy_pass *p, const sy_scores *s,
                             const sy_choices *c, sy_tensor *out)
{
    sy_status st = SY_OK;
    const uint64_t stream =
        ((uint64_t)SY_RNG_DROP << 56) ^ ((uint64_t)p->layer << 40) ^ (uint64_t)p->step;
    const bool random = config->drop_policy == SY_DROP_RANDOM && !is_eval(p);
    *out = config->drop_policy == SY_DROP_PROBABILITY ? c->priority : sy_tensor_none();
    if (config->drop_policy == SY_DROP_BATCH_PRIORITY || random) {
        SY_TRY(sy_arena_2d(p->scratch, p->wide, c->T, c->K, out));
    }
    if (config->drop_policy == SY_DROP_BATCH_PRIORITY) { /* the score of a token's first choice */
        SY_TRY(sy_topk_weigh(
            p->stream,
            &(sy_topk_weigh_args){.p = s->p, .expert = c->expert, .weight = *out, .scale = 1}));
    } else if (random) {
        SY_TRY(sy_fill(p->stream, &(sy_fill_args){.y = *out, .value = 1}));
        SY_TRY(sy_jitter(p->stream, &(sy_jitter_args){.x = *out,
                                                      .token_glb = p->batch->token_glb,
                                                      .y = *out,
                                                      .eps = 0.5,
                                                      .seed = p->seed,
                                                      .stream = stream}));
    }
cleanup:
    return st;
}

static sy_status keep(const sy_moe_config *config, sy_pass *p, int64_t C, const sy_tensor *expert,
                      const sy_tensor *priority, const sy_tensor *kept)
{
    const int32_t policy = config->drop_policy;
    const bool by_choice = policy == SY_DROP_POSITION || policy == SY_DROP_BATCH_PRIORITY ||
                           (policy == SY_DROP_RANDOM && priority->data == NULL);
    return sy_capacity(p->stream, &(sy_capacity_args){.expert = *expert,
                                                      .priority = *priority,
                                                      .kept = *kept,
                                                      .E = config->experts,
                                                      .capacity = C,
                                                      .by_choice = by_choice});
}

/* Group by group; the last one of a short micro-batch may be shorter. */
static sy_status keep_in_groups(const sy_moe_config *config, double share, sy_pass *p,
                                const sy_choices *c, const sy_tensor *priority)
{
    sy_status st = SY_OK;
    const int64_t G = group_of(config, c->T);
    for (int64_t t = 0; t < c->T; t += G) {
        const int64_t n = min64(G, c->T - t);
        const sy_tensor expert = sy_tensor_rows(&c->expert, t, n);
        const sy_tensor kept = sy_tensor_rows(&c->kept, t, n);
        const sy_tensor part =
            priority->data != NULL ? sy_tensor_rows(priority, t, n) : sy_tensor_none();
        SY_TRY(keep(config, p, sy_capacity_slots_of(config, is_eval(p), n, share), &expert, &part,
                    &kept));
    }
cleanup:
    return st;
}

/* What all ranks have of x [T, K], each with T_max rows, those behind its own filled. */
static sy_status gather(sy_pass *p, const sy_tensor *x, double filled, sy_tensor *all)
{
    sy_status st = SY_OK;
    sy_comm *dp = p->mesh->group[SY_DP];
    const int64_t T = x->shape[0], K = x->shape[1];
    sy_tensor mine, own, rest;
    SY_TRY(sy_arena_2d(p->scratch, x->dtype, p->T_max, K, &mine));
    SY_TRY(sy_arena_2d(p->scratch, x->dtype, p->T_max * dp->size, K, all));
    own = sy_tensor_rows(&mine, 0, T);
    rest = sy_tensor_rows(&mine, T, p->T_max - T);
    SY_TRY(sy_copy_d2d(p->stream, own.data, x->data, sy_tensor_bytes(x)));
    SY_TRY(sy_fill(p->stream, &(sy_fill_args){.y = rest, .value = filled}));
    SY_TRY(sy_all_gather(dp, &(sy_comm_args){.stream = p->stream,
                                             .send = mine.data,
                                             .recv = all->data,
                                             .n = p->T_max,
                                             .row_bytes = K * (int64_t)sy_dtype_bytes(x->dtype),
                                             .what = "moe capacity",
                                             .layer = p->layer}));
cleanup:
    return st;
}

/* Over the micro-batches of all ranks: they follow each other as their sequences do in the global
   batch, so the drops are those of one rank that has them all. */
static sy_status keep_of_all(const sy_moe_config *config, double share, sy_pass *p,
                             const sy_choices *c, const sy_tensor *priority)
{
    sy_status st = SY_OK;
    const int64_t first = p->T_max * p->mesh->group[SY_DP]->rank;
    const int64_t C = sy_capacity_slots_of(config, is_eval(p), p->T_round, share);
    sy_tensor expert, by = sy_tensor_none(), kept, own;
    SY_TRY(gather(p, &c->expert, -1, &expert));
    if (priority->data != NULL) {
        SY_TRY(gather(p, priority, 0, &by));
    }
    SY_TRY(sy_arena_2d(p->scratch, SY_U8, expert.shape[0], c->K, &kept));
    SY_TRY(keep(config, p, C, &expert, &by, &kept));
    own = sy_tensor_rows(&kept, first, c->T);
    SY_TRY(sy_copy_d2d(p->stream, c->kept.data, own.data, sy_tensor_bytes(&own)));
cleanup:
    return st;
}

sy_status sy_capacity_apply(const sy_moe_config *config, double share, sy_pass *p,
                            const sy_scores *s, sy_choices *c)
{
    sy_status st = SY_OK;
    const int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor priority;
    if (!sy_capacity_limits(config, p)) {
        c->kept = sy_tensor_none();
        goto cleanup;
    }
    SY_TRY(priority_of(config, p, s, c, &priority));
    SY_TRY(config->capacity_scope == SY_CAPACITY_GLOBAL
               ? keep_of_all(config, share, p, c, &priority)
               : keep_in_groups(config, share, p, c, &priority));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

/* ---- weights ---- */

sy_status sy_capacity_share(const sy_moe_config *config, sy_pass *p, sy_choices *c)
{
    sy_status st = SY_OK;
    if (config->drop_weights != SY_DROPPED_RENORMALIZE || c->kept.data == NULL) {
        goto cleanup;
    }
    SY_TRY(sy_arena_1d(p->keep, p->wide, c->T, &c->kept_sum));
    SY_TRY(sy_share_kept(p->stream, &(sy_share_kept_args){.weight = c->weight,
                                                          .kept = c->kept,
                                                          .sum = c->kept_sum,
                                                          .scale = config->routed_scale}));
cleanup:
    return st;
}

sy_status sy_capacity_share_backward(const sy_moe_config *config, sy_pass *p, const sy_choices *c,
                                     const sy_tensor *g)
{
    if (config->drop_weights != SY_DROPPED_RENORMALIZE || c->kept.data == NULL) {
        return SY_OK;
    }
    return sy_share_kept_backward(p->stream,
                                  &(sy_share_kept_backward_args){.weight = c->weight,
                                                                 .kept = c->kept,
                                                                 .sum = c->kept_sum,
                                                                 .g = *g,
                                                                 .scale = config->routed_scale});
}

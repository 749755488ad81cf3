/* StableMoE: two stages. In the first, for moe.stable.switch_step steps, the expert is the one with
   the largest logit x c_e, a loss balances the loads, and a light router that sees the token's id
   alone, words[id] d_e, learns to choose the same (cross-entropy). Then what it would choose for
   every id is written down, in the state, and is the expert from there on; evaluation goes by
   the light router from the start. The weight is sigmoid(x c_e) and is learnt in both stages.
   Balance loss: sum_t (n_e - n) / n sigmoid(z_te) of the chosen e, n the mean of the loads n_e of
   the micro-batch. The released code's expert has a residual of its own, as BASE's: see base.c.
   Dai et al. 2022 (StableMoE, arXiv 2204.08396) 3. */
#include <math.h>

#include "moe/routers_impl.h"

typedef struct stable_config {
    int32_t switch_step, dim;
    double balance_coeff, distil_coeff;
} stable_config;
enum { WORDS, LIGHT };           /* parameters */
enum { STEPS, IS_FIXED, TABLE }; /* state: steps so far, 1 in the second stage, expert by id */

static void layout(const sy_moe_config *config, sy_router_layout *out)
{
    const stable_config *own = config->own;
    out->zero_experts = true;
    out->n_params = 2;
    out->param[WORDS].name = "words";
    out->param[WORDS].by_id = true;
    out->param[WORDS].shape[1] = own->dim;
    out->param[WORDS].std = 1;
    out->param[LIGHT].name = "light_router";
    out->param[LIGHT].shape[0] = config->experts;
    out->param[LIGHT].shape[1] = own->dim;
    out->param[LIGHT].std = 0.1 / sqrt(own->dim);
    out->n_state = TABLE;
    out->state_per_id = true;
}

/* Logits [E] of the light router for a row of `words`. */
static void light_logits(const double *word, const double *light, int32_t E, int32_t dim,
                         double *out)
{
    for (int32_t e = 0; e < E; e++) {
        out[e] = 0;
        for (int32_t i = 0; i < dim; i++) {
            out[e] += word[i] * light[e * dim + i];
        }
    }
}

static sy__form form_of(const sy_host_route *r)
{
    return (sy__form){true, false, r->config->routed_scale};
}

static void choose(sy_host_route *r)
{
    const stable_config *own = r->config->own;
    const sy__form form = form_of(r);
    const bool fixed = r->state[IS_FIXED] > 0;
    for (int64_t t = 0; t < r->T; t++) {
        const double *z = r->z + t * r->E;
        if (!sy_host_routed(r, t)) {
            continue;
        }
        if (!fixed && !r->training) {
            light_logits(r->param[WORDS] + t * own->dim, r->param[LIGHT], r->E, own->dim,
                         r->scratch);
            z = r->scratch;
        }
        if (fixed) {
            r->expert[t] = (int32_t)r->state[TABLE + r->ids[t]];
        } else {
            sy__largest(z, r->E, 1, r->expert + t);
        }
    }
    sy__weigh_all(r, &form);
}

/* ---- what the first stage learns ---- */

static void balance(sy_host_route *r, double factor)
{
    double *n = r->scratch, mean = 0;
    for (int32_t e = 0; e < r->E; e++) {
        n[e] = 0;
    }
    for (int64_t t = 0; t < r->T; t++) {
        if (r->expert[t] >= 0) {
            n[r->expert[t]]++;
            mean += 1.0 / r->E;
        }
    }
    for (int64_t t = 0; t < r->T; t++) {
        const int32_t e = r->expert[t];
        if (e >= 0) {
            const double excess = factor * (n[e] - mean) / mean;
            const double s = 1 / (1 + exp(-r->z[t * r->E + e]));
            r->loss += excess * s;
            r->dz[t * r->E + e] += excess * s * (1 - s);
        }
    }
}

/* Cross-entropy of the light router's logits and the expert that was chosen. */
static void distil(sy_host_route *r, int64_t t, double factor)
{
    const int32_t dim = ((const stable_config *)r->config->own)->dim, target = r->expert[t];
    const double *word = r->param[WORDS] + t * dim, *light = r->param[LIGHT];
    double *logit = r->scratch, *p = r->scratch + r->E;
    int32_t best = -1;
    light_logits(word, light, r->E, dim, logit);
    sy__scores(false, logit, r->E, p);
    sy__largest(logit, r->E, 1, &best);
    r->metric += best == target;
    r->loss -= factor * log(fmax(p[target], 1e-300));
    for (int32_t e = 0; e < r->E; e++) {
        const double slope = factor * (p[e] - (e == target));
        for (int32_t i = 0; i < dim; i++) {
            r->dparam[WORDS][t * dim + i] += slope * light[e * dim + i];
            r->dparam[LIGHT][e * dim + i] += slope * word[i];
        }
    }
}

static void backward(sy_host_route *r)
{
    const stable_config *own = r->config->own;
    const sy__form form = form_of(r);
    const bool fixed = r->state[IS_FIXED] > 0;
    sy__weigh_all_backward(r, &form);
    if (!fixed) {
        balance(r, own->balance_coeff * r->per_token);
    }
    for (int64_t t = 0; t < r->T; t++) {
        if (r->expert[t] >= 0 && fixed) {
            r->metric++;
        } else if (r->expert[t] >= 0) {
            distil(r, t, own->distil_coeff * r->per_token);
        }
    }
}

/* ---- from one stage to the other ---- */

static void end_step(const sy_moe_config *config, const sy_step_end *end, int32_t layer,
                     double *state)
{
    (void)config;
    (void)end;
    (void)layer;
    state[STEPS] += state[IS_FIXED] > 0 ? 0 : 1;
}

static bool is_time(const sy_moe_config *config, const double *state)
{
    const stable_config *own = config->own;
    return state[IS_FIXED] <= 0 && state[STEPS] >= own->switch_step;
}

static bool adapt(const sy_moe_config *config, const sy_step_end *end, int32_t layer, double *state,
                  double *const *param)
{
    const stable_config *own = config->own;
    (void)layer;
    for (int64_t id = 0; id < end->vocab; id++) {
        int32_t best = 0;
        double highest = -INFINITY;
        for (int32_t e = 0; e < config->experts; e++) {
            double logit = 0;
            light_logits(param[WORDS] + id * own->dim, param[LIGHT] + e * own->dim, 1, own->dim,
                         &logit);
            if (logit > highest) {
                highest = logit;
                best = e;
            }
        }
        state[TABLE + id] = best;
    }
    state[IS_FIXED] = 1;
    return false;
}

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    SY__KEY(stable_config, field, kind, def, lo, hi, choices, text)
static const sy_config_key keys[] = {
    KEY(switch_step, SY_CFG_I32, "6000", 1, 1 << 24, NULL,
        "Steps of the first stage. After them the expert is a function of the token's id."),
    KEY(dim, SY_CFG_I32, "50", 1, 1 << 16, NULL, "Width of the light router's word embedding."),
    KEY(balance_coeff, SY_CFG_F64, "0.3", 0, 1e6, NULL, "Of the first stage's balance loss."),
    KEY(distil_coeff, SY_CFG_F64, "0.3", 0, 1e6, NULL,
        "Of the cross-entropy by which the light router learns."),
    {0},
};
const sy_config_section sy_router_section_stable = {
    .name = "moe.stable",
    .help = "StableMoE: a router that is learnt first, and kept by id then.",
    .keys = keys,
    .struct_bytes = sizeof(stable_config)};

static const sy_router_loss losses[] = {
    {"moe.stable.balance_coeff", "first stage: sum over tokens of (n_e - n) / n sigmoid(z_te), e "
                                 "the chosen one, n the mean load"},
    {"moe.stable.distil_coeff",
     "first stage: cross-entropy of the light router's logits and the expert that was chosen"},
    {0},
};

const sy_router_ops sy__router_stable = {
    .name = "stable",
    .source = "Dai et al. 2022 (StableMoE, arXiv 2204.08396) 3",
    .traits = SY_ROUTER_NO_AUX | SY_ROUTER_NO_Z | SY_ROUTER_FIXED_WEIGHTS | SY_ROUTER_MICRO_BATCH,
    .losses = losses,
    .only_top_k = 1,
    .metric = "agreement",
    .host = &(const sy_host_router_ops){.forward_cost = {8.7, 0},
                                        .backward_cost = {61.5, 0},
                                        .layout = layout,
                                        .choose = choose,
                                        .backward = backward,
                                        .end_step = end_step,
                                        .adapt = adapt,
                                        .is_time = is_time}};

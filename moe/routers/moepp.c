/* MoE++: beside E experts that compute there are Z that do not, and that are everywhere: constants
   give a_1 x + a_2 v, (a_1, a_2) = softmax(x W_c), with a learnt vector v; copies give x; zeros
   nothing. The moe.top_k best of all logits are chosen; logits of a layer are x W + (those of the
   MoE layer below) W_g. Weights are softmax over the chosen ones without the zeros, or raw p
   (normalize_weights: false, the paper's text; the released code divides). Balance loss
   (E + Z) sum_e eta_e f_e P_e with eta = 1 for computing experts and tau for the others; capacities
   are shared out in that ratio: tau / (tau E + Z) of the choices to one that computes, and
   1 / (tau E + Z) to one that does not. Jin et al. 2024 (MoE++, arXiv 2410.07348) 3. */
#include <math.h>
#include <stdlib.h>

#include "moe/capacity.h"
#include "moe/routers_impl.h"

typedef struct moepp_config {
    int32_t constant_experts, copy_experts, zero_experts;
    double tau;
    bool residual;
} moepp_config;

/* Ids: E that compute, then constants, copies, zeros. */
typedef struct kinds {
    int32_t constants, copies, zeros, all; /* first of each; how many in all (E + Z) */
} kinds;

/* Of forward, for backward. */
typedef struct work {
    double *z;      /* [T, E + Z] */
    double *weight; /* [T, K] of all choices */
    int32_t *pick;  /* [T, K] chosen ids, -1: none */
    int32_t *list;  /* [T, K] those that have a weight: no zeros */
    uint8_t *kept;  /* [T, K] */
    struct ranked {
        double weight;
        int64_t i;
    } * ranked; /* [T K] */
} work;

static kinds kinds_of(const sy_moe_config *config)
{
    const moepp_config *own = config->own;
    kinds k = {.constants = config->experts};
    k.copies = k.constants + own->constant_experts;
    k.zeros = k.copies + own->copy_experts;
    k.all = k.zeros + own->zero_experts;
    return k;
}

/* Of the choices, what one that does not compute gets; one that does gets tau times it. */
static double share_of(const sy_moe_config *config)
{
    const moepp_config *own = config->own;
    const kinds k = kinds_of(config);
    return 1 / (own->tau * config->experts + (k.all - config->experts));
}

static void layout(const sy_moe_config *config, sy_router_layout *out)
{
    const moepp_config *own = config->own;
    const kinds k = kinds_of(config);
    out->M = k.all + 2 * own->constant_experts;
    if (own->constant_experts > 0) {
        out->n_pieces = 2;
        out->piece[0] = "router";
        out->piece[1] = "constants";
        out->piece_rows[0] = k.all;
        out->piece_rows[1] = 2 * own->constant_experts;
    }
    out->copies = true;
    out->n_vectors = own->constant_experts;
    out->vectors_std = 1;
    out->share = own->tau * share_of(config);
    out->computed = config->top_k * config->experts * out->share;
    if (own->residual) {
        out->n_carry = k.all;
        out->n_params = 1;
        out->param[0].name = "residual";
        out->param[0].above = true;
        out->param[0].shape[0] = k.all;
        out->param[0].shape[1] = k.all;
        out->param[0].std = 1 / sqrt(3.0 * k.all);
    }
}

static int64_t work_bytes(const sy_host_route *r)
{
    const int64_t n = r->T * r->K;
    return r->T * kinds_of(r->config).all * (int64_t)sizeof(double) +
           n * (int64_t)(sizeof(double) + sizeof(struct ranked) + 2 * sizeof(int32_t) + 1);
}

static work work_of(const sy_host_route *r)
{
    const int64_t n = r->T * r->K;
    work w = {.z = r->work};
    w.weight = w.z + r->T * kinds_of(r->config).all;
    w.ranked = (struct ranked *)(void *)(w.weight + n);
    w.pick = (int32_t *)(void *)(w.ranked + n);
    w.list = w.pick + n;
    w.kept = (uint8_t *)(w.list + n);
    return w;
}

static sy__form form_of(const sy_host_route *r)
{
    return (sy__form){false, r->config->normalize_weights, r->config->routed_scale};
}

/* ---- forward ---- */

/* Logits of all, what the layer below says included. */
static void score(sy_host_route *r)
{
    const int32_t n = kinds_of(r->config).all;
    double *z = work_of(r).z;
    for (int64_t i = 0; i < r->T * n; i++) {
        const int64_t t = i / n, e = i % n;
        z[i] = r->in[t * r->M + e];
        for (int32_t f = 0; f < n && r->below != NULL; f++) {
            z[i] += r->below[t * n + f] * r->param[0][e * n + f];
        }
        if (r->carry != NULL) {
            r->carry[i] = z[i];
        }
        if (e < r->E) {
            r->z[t * r->E + e] = z[i];
        }
    }
}

static int heavier(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->weight != y->weight) {
        return x->weight > y->weight ? -1 : 1;
    }
    return x->i < y->i ? -1 : x->i > y->i;
}

/* An expert that does not compute keeps the first C of its choices, or the heaviest. */
static void drop(const sy_host_route *r, const work *w, int32_t id, int64_t C)
{
    int64_t n = 0;
    for (int64_t j = 0; j < r->T * r->K; j++) { /* first choices before second ones */
        const int64_t i = j % r->T * r->K + j / r->T;
        if (w->pick[i] == id) {
            w->ranked[n++] = (struct ranked){w->weight[i], i};
        }
    }
    if (r->config->drop_policy == SY_DROP_PROBABILITY) {
        qsort(w->ranked, (size_t)n, sizeof *w->ranked, heavier);
    }
    for (int64_t j = C; j < n; j++) {
        w->kept[w->ranked[j].i] = 0;
    }
}

/* (a_1, a_2) of a constant expert. */
static void mixture(const sy_host_route *r, int64_t t, const kinds *k, int32_t id, double *a)
{
    sy__scores(false, r->in + t * r->M + k->all + 2 * (id - k->constants), 2, a);
}

/* What was chosen, to where it is computed. */
static void hand_out(sy_host_route *r, const work *w, const kinds *k, int64_t i)
{
    const int64_t t = i / r->K;
    const int32_t id = w->list[i];
    double a[2];
    if (id < 0 || !w->kept[i]) {
        return;
    }
    if (id < r->E) {
        r->expert[i] = id;
        r->weight[i] = w->weight[i];
    } else if (id < k->copies) {
        mixture(r, t, k, id, a);
        r->copy[t] += w->weight[i] * a[0];
        r->mix[t * (k->copies - k->constants) + id - k->constants] += w->weight[i] * a[1];
    } else {
        r->copy[t] += w->weight[i];
    }
}

static void pick(sy_host_route *r, const work *w, const kinds *k, int64_t t)
{
    const sy__form form = form_of(r);
    const double *z = w->z + t * k->all;
    int32_t *chosen = w->pick + t * r->K, *list = w->list + t * r->K;
    for (int32_t i = 0; i < r->K; i++) {
        chosen[i] = -1;
    }
    if (sy_host_routed(r, t)) {
        sy__largest(z, k->all, r->K, chosen);
    }
    for (int32_t i = 0; i < r->K; i++) {
        list[i] = chosen[i] < k->zeros ? chosen[i] : -1;
        w->kept[t * r->K + i] = 1;
    }
    sy__weigh(&form, z, k->all, list, r->K, r->scratch, w->weight + t * r->K);
}

static void choose(sy_host_route *r)
{
    const kinds k = kinds_of(r->config);
    const work w = work_of(r);
    const int64_t C = sy_capacity_slots_of(r->config, !r->training, r->T, share_of(r->config));
    for (int64_t t = 0; t < r->T; t++) {
        pick(r, &w, &k, t);
    }
    for (int32_t id = k.constants; id < k.zeros && C >= 0; id++) {
        drop(r, &w, id, C);
    }
    for (int64_t i = 0; i < r->T * r->K; i++) {
        hand_out(r, &w, &k, i);
    }
}

/* ---- backward ---- */

/* Gradient of a choice's weight; what a constant mixes with gets its own. */
static double gradient_of(sy_host_route *r, const work *w, const kinds *k, int64_t i)
{
    const int64_t t = i / r->K;
    const int32_t id = w->list[i], j = id - k->constants, n = k->copies - k->constants;
    double a[2];
    if (id < 0 || !w->kept[i]) {
        return 0;
    }
    if (id < r->E || id >= k->copies) {
        return id < r->E ? r->g[i] : r->dcopy[t];
    }
    mixture(r, t, k, id, a);
    const double slope = w->weight[i] * a[0] * a[1] * (r->dcopy[t] - r->dmix[t * n + j]);
    r->din[t * r->M + k->all + 2 * j] += slope;
    r->din[t * r->M + k->all + 2 * j + 1] -= slope;
    return a[0] * r->dcopy[t] + a[1] * r->dmix[t * n + j];
}

/* What a unit of probability costs in the tokens [from, to). */
static void costs(sy_host_route *r, const work *w, const kinds *k, int64_t from, int64_t to,
                  double *cost)
{
    const moepp_config *own = r->config->own;
    double n_picks = 0;
    for (int32_t e = 0; e < k->all; e++) {
        cost[e] = 0;
    }
    for (int64_t i = from * r->K; i < to * r->K; i++) {
        if (w->pick[i] >= 0) {
            cost[w->pick[i]]++;
            n_picks++;
            r->metric += w->pick[i] < r->E;
        }
    }
    for (int32_t e = 0; e < k->all && n_picks > 0; e++) {
        cost[e] *= k->all * (e < r->E ? 1 : own->tau) / n_picks;
    }
}

static void weights_backward(sy_host_route *r, const work *w, const kinds *k, int64_t t)
{
    const sy__form form = form_of(r);
    double *p = r->scratch, *g = r->scratch + 2 * r->M;
    for (int32_t i = 0; i < r->K; i++) {
        g[i] = gradient_of(r, w, k, t * r->K + i);
    }
    sy__weigh_backward(&form, w->z + t * k->all, k->all, w->list + t * r->K, g, r->K, p,
                       r->din + t * r->M);
}

static void backward(sy_host_route *r)
{
    const kinds k = kinds_of(r->config);
    const work w = work_of(r);
    const int64_t n = r->n_scopes > 0 ? r->T / r->n_scopes : 0;
    const double factor = r->config->aux_loss_coeff * r->per_token;
    double *p = r->scratch, *cost = r->scratch + r->M;
    for (int64_t t = 0; t < r->T; t++) {
        if (t % n == 0) {
            costs(r, &w, &k, t, t + n, cost);
        }
        if (sy_host_routed(r, t)) {
            weights_backward(r, &w, &k, t);
            sy__scores(false, w.z + t * k.all, k.all, p);
            r->loss += sy__add_cost(p, cost, k.all, factor, r->din + t * r->M);
        }
    }
}

/* din has the gradient of all logits but for what the common losses and the layer above say. */
static void score_backward(sy_host_route *r)
{
    const int32_t n = kinds_of(r->config).all;
    for (int64_t i = 0; i < r->T * n; i++) {
        const int64_t t = i / n, e = i % n;
        double *dz = &r->din[t * r->M + e];
        *dz += e < r->E ? r->dz[t * r->E + e] : 0;
        *dz += r->carry != NULL ? r->dcarry[i] : 0;
        for (int32_t f = 0; f < n && r->below != NULL; f++) {
            r->dparam[0][e * n + f] += *dz * r->below[t * n + f];
            r->dbelow[t * n + f] += *dz * r->param[0][e * n + f];
        }
    }
}

static sy_status check(const sy_moe_config *config, const sy_config *all)
{
    if (config->score == SY_SCORE_SIGMOID) {
        return sy_config_error(all, "moe.score",
                               "moe.score sigmoid with moe.router moepp, whose logits are for a "
                               "softmax; set it to softmax");
    }
    return SY_OK;
}

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    SY__KEY(moepp_config, field, kind, def, lo, hi, choices, text)
static const sy_config_key keys[] = {
    KEY(constant_experts, SY_CFG_I32, "2", 0, 1 << 10, NULL,
        "Experts that mix x with a learnt vector."),
    KEY(copy_experts, SY_CFG_I32, "1", 0, 1 << 10, NULL, "Experts that give x."),
    KEY(zero_experts, SY_CFG_I32, "1", 0, 1 << 10, NULL, "Experts that give nothing."),
    KEY(tau, SY_CFG_F64, "0.75", 0.01, 100, NULL,
        "What an expert that computes should be chosen, over one that does not: in the balance "
        "loss and in capacities."),
    KEY(residual, SY_CFG_BOOL, "true", 0, 0, NULL,
        "Logits of the MoE layer below enter through a learnt matrix."),
    {0},
};
const sy_config_section sy_router_section_moepp = {
    .name = "moe.moepp",
    .help = "MoE++: experts that compute nothing (constants, copies, zeros) beside those that do.",
    .keys = keys,
    .struct_bytes = sizeof(moepp_config)};

static const sy_router_loss losses[] = {
    {"moe.aux_loss_coeff",
     "sum over layers of (E + Z) sum_e eta_e f_e P_e, eta 1 or tau, over all E + Z"},
    {0},
};

const sy_router_ops sy__router_moepp = {
    .name = "moepp",
    .source = "Jin et al. 2024 (MoE++, arXiv 2410.07348) 3",
    .traits = SY_ROUTER_OWN_COUNT,
    .check = check,
    .metric = "experts_per_token",
    .losses = losses,
    .host = &(const sy_host_router_ops){.forward_cost = {15, 0.68},
                                        .backward_cost = {34, 0.84},
                                        .layout = layout,
                                        .work_bytes = work_bytes,
                                        .score = score,
                                        .choose = choose,
                                        .backward = backward,
                                        .score_backward = score_backward}};

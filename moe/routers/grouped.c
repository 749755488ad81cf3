/* Group-limited top-k: experts lie in groups (devices, nodes); a token keeps the best groups, then
   the best experts inside them. DeepSeek-V2: softmax, a group counts by its best score.
   DeepSeek-V3: sigmoid plus the balancing bias, a group counts by its two best; the balance loss
   counts the top-k without bias and groups. Losses of V2 over groups: balance sum_d f'_d P'_d with
   f' the mean of the group's f_e = E/(K T) count_e and P' the sum of its P_e; communication
   sum_d f''_d P'_d with f''_d = D/(M T) times the tokens sent to d, M groups kept of D.
   DeepSeek-AI 2024 (V2, arXiv 2405.04434) 2.2; (V3, arXiv 2412.19437) 2.1.2. */
#include <math.h>

#include "moe/routers_impl.h"

typedef struct grouped_config {
    int32_t groups, groups_kept, group_score;
    double group_loss_coeff, comm_loss_coeff;
} grouped_config;
enum { BY_MAX, BY_TOP2 };

static double group_score(const grouped_config *own, const double *score, int32_t n)
{
    int32_t best[2];
    sy__largest(score, n, 2, best);
    return score[best[0] >= 0 ? best[0] : 0] +
           (own->group_score == BY_TOP2 && best[1] >= 0 ? score[best[1]] : 0);
}

/* Scores of groups that are not kept become -infinity. */
static void limit(const sy_host_route *r, double *score)
{
    const grouped_config *own = r->config->own;
    const int32_t n = r->E / own->groups;
    double *of_group = r->scratch + r->E;
    for (int32_t d = 0; d < own->groups; d++) {
        of_group[d] = group_score(own, score + d * n, n);
    }
    for (int32_t i = 0; i < own->groups - own->groups_kept; i++) { /* the worst; ties: the last */
        int32_t worst = -1;
        for (int32_t d = 0; d < own->groups; d++) {
            if (of_group[d] < INFINITY && (worst < 0 || of_group[d] <= of_group[worst])) {
                worst = d;
            }
        }
        for (int32_t e = 0; worst >= 0 && e < n; e++) {
            score[worst * n + e] = -INFINITY;
        }
        of_group[worst >= 0 ? worst : 0] = INFINITY;
    }
}

static void count(sy_host_route *r, int64_t t, const int32_t *expert)
{
    int64_t *n = r->count + (r->n_scopes > 1 ? t / r->S : 0) * r->E;
    const int32_t K = r->config->aux_loss_counts == SY_AUX_COUNT_FIRST ? 1 : r->K;
    for (int32_t k = 0; k < K; k++) {
        if (expert[k] >= 0) {
            n[expert[k]]++;
        }
    }
}

static void choose(sy_host_route *r)
{
    const sy__form form = sy__form_of(r->config);
    double *score = r->scratch;
    for (int64_t t = 0; t < r->T; t++) {
        int32_t *expert = r->expert + t * r->K;
        if (!sy_host_routed(r, t)) {
            continue;
        }
        sy__scores(form.sigmoid, r->z + t * r->E, r->E, score);
        sy__largest(score, r->E, r->K, expert);
        if (r->bias != NULL) {
            count(r, t, expert);
        }
        for (int32_t e = 0; e < r->E && r->bias != NULL; e++) {
            score[e] += r->bias[e];
        }
        limit(r, score);
        sy__largest(score, r->E, r->K, expert);
        if (r->bias == NULL) {
            count(r, t, expert);
        }
    }
    sy__weigh_all(r, &form);
}

/* How much a score of each expert costs: by its group's load, and by the tokens sent there. */
static void group_costs(const sy_host_route *r, double *cost)
{
    const grouped_config *own = r->config->own;
    const int32_t D = own->groups, n = r->E / D;
    double n_routed = 0;
    for (int32_t e = 0; e < r->E; e++) {
        cost[e] = 0;
    }
    for (int64_t t = 0; t < r->T; t++) {
        n_routed += sy_host_routed(r, t);
        for (int32_t d = 0; d < D; d++) {
            int32_t hits = 0;
            for (int32_t k = 0; k < r->K; k++) {
                hits += r->expert[t * r->K + k] >= 0 && r->expert[t * r->K + k] / n == d;
            }
            cost[d * n] += own->group_loss_coeff * D / r->K * hits +
                           own->comm_loss_coeff * D / own->groups_kept * (hits > 0);
        }
    }
    for (int32_t e = 0; e < r->E && n_routed > 0; e++) {
        cost[e] = e % n == 0 ? cost[e] / n_routed : cost[e - 1];
    }
}

static void backward(sy_host_route *r)
{
    const sy__form form = sy__form_of(r->config);
    const grouped_config *own = r->config->own;
    double *cost = r->scratch + r->E, *p = r->scratch;
    sy__weigh_all_backward(r, &form);
    if (own->group_loss_coeff <= 0 && own->comm_loss_coeff <= 0) {
        return;
    }
    group_costs(r, cost);
    for (int64_t t = 0; t < r->T; t++) {
        if (sy_host_routed(r, t)) {
            sy__scores(false, r->z + t * r->E, r->E, p);
            r->loss += sy__add_cost(p, cost, r->E, r->per_token, r->dz + t * r->E);
        }
    }
}

static sy_status check(const sy_moe_config *config, const sy_config *all)
{
    const grouped_config *own = config->own;
    const int32_t n = own->groups > 0 ? config->experts / own->groups : 0;
    if (own->groups < 1 || config->experts % own->groups != 0) {
        return sy_config_error(all, "moe.grouped.groups",
                               "moe.grouped.groups %d does not divide moe.experts %d; set it to %d",
                               own->groups, config->experts,
                               sy__divisor(config->experts, own->groups));
    }
    if (own->groups_kept > own->groups || own->groups_kept * n < config->top_k) {
        return sy_config_error(all, "moe.grouped.groups_kept",
                               "moe.grouped.groups_kept %d of %d groups with %d experts each, for "
                               "moe.top_k %d: at least %d, and at most %d",
                               own->groups_kept, own->groups, n, config->top_k,
                               (config->top_k + n - 1) / n, own->groups);
    }
    if ((own->group_loss_coeff > 0 || own->comm_loss_coeff > 0) &&
        config->score == SY_SCORE_SIGMOID) {
        return sy_config_error(all, "moe.score",
                               "moe.score sigmoid: moe.grouped.group_loss_coeff and "
                               "comm_loss_coeff are DeepSeek-V2's, for softmax; set them to 0");
    }
    return SY_OK;
}

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    SY__KEY(grouped_config, field, kind, def, lo, hi, choices, text)
static const char *const score_choices[] = {"max", "top2", NULL};
static const sy_config_key keys[] = {
    KEY(groups, SY_CFG_I32, "1", 1, 1 << 16, NULL, "Groups of experts, each a range of them."),
    KEY(groups_kept, SY_CFG_I32, "1", 1, 1 << 16, NULL, "Groups that a token may visit."),
    KEY(group_score, SY_CFG_ENUM, "max", 0, 0, score_choices,
        "What a group counts by: its best score (DeepSeek-V2), or the sum of its two best (V3)."),
    KEY(group_loss_coeff, SY_CFG_F64, "0.0", 0, 1e6, NULL,
        "Coefficient of the balance loss over groups (DeepSeek-V2: 0.05)."),
    KEY(comm_loss_coeff, SY_CFG_F64, "0.0", 0, 1e6, NULL,
        "Coefficient of the communication loss over groups (DeepSeek-V2: 0.02)."),
    {0},
};
const sy_config_section sy_router_section_grouped = {
    .name = "moe.grouped",
    .help = "Group-limited top-k: the best experts of the best groups (DeepSeek-V2, V3).",
    .keys = keys,
    .struct_bytes = sizeof(grouped_config)};

static const sy_router_loss losses[] = {
    {"moe.grouped.group_loss_coeff",
     "sum over layers of sum_d f'_d P'_d, groups d: mean of E f_e, sum of P_e"},
    {"moe.grouped.comm_loss_coeff",
     "sum over layers of sum_d f''_d P'_d, f'' = D / (M T) tokens sent to group d"},
    {"moe.aux_loss_coeff",
     "sum over layers of E sum_e f_e P_e, with a bias f of the K best without it and groups"},
    {0},
};

const sy_router_ops sy__router_grouped = {
    .name = "grouped",
    .source = "DeepSeek-AI 2024 (V2, arXiv 2405.04434) 2.2; (V3, arXiv 2412.19437) 2.1.2",
    .traits = SY_ROUTER_OWN_COUNT | SY_ROUTER_FIRST_COUNT,
    .check = check,
    .losses = losses,
    .host = &(const sy_host_router_ops){.forward_cost = {25.6, 0},
                                        .backward_cost = {10.3, 0},
                                        .choose = choose,
                                        .backward = backward}};

/* Group-limited top-k: experts lie in groups (devices, nodes); a token keeps the best groups, then
   the best experts inside them. DeepSeek-V2: softmax, a group counts by its best score.
   DeepSeek-V3: sigmoid plus the balancing bias, a group counts by its two best; the balance loss
   counts the top-k without bias and groups. Losses of V2 over groups: balance sum_d f'_d P'_d with
   f' the mean of the group's f_e = E/(K T) count_e and P' the sum of its P_e; communication
   sum_d f''_d P'_d with f''_d = D/(M T) times the tokens sent to d, M groups kept of D.
   DeepSeek-AI 2024 (V2, arXiv 2405.04434) 2.2; (V3, arXiv 2412.19437) 2.1.2. */
#include "moe/routers_impl.h"

typedef struct grouped_config {
    int32_t groups, groups_kept, group_score;
    double group_loss_coeff, comm_loss_coeff;
} grouped_config;
enum { BY_MAX, BY_TOP2 };

static sy_status choose(const sy_moe_config *config, sy_pass *p, const sy_scores *s,
                        const sy_tensor *bias, sy_choices *c)
{
    sy_status st = SY_OK;
    const grouped_config *own = config->own;
    sy_topk_args args = {
        .p = s->p, .routed = p->batch->routed, .expert = c->expert, .token = c->token};
    if (bias->data != NULL && p->kind == SY_PASS_TRAIN) {
        sy_topk_args plain = args;
        SY_TRY(sy_arena_2d(p->keep, SY_I32, c->T, c->K, &c->counted));
        plain.expert = c->counted;
        SY_TRY(sy_topk(p->stream, &plain));
    }
    args.bias = *bias;
    args.n_groups = own->groups;
    args.groups_kept = own->groups_kept;
    args.by_two = own->group_score == BY_TOP2;
    SY_TRY(sy__topk_choose(config, p, s, &args, c));
cleanup:
    return st;
}

/* Over groups: products of loads and probabilities that are both of a micro-batch. */
static bool has_losses(const sy_moe_config *config)
{
    const grouped_config *own = config->own;
    return own->group_loss_coeff > 0 || own->comm_loss_coeff > 0;
}

static sy_status backward(const sy_moe_config *config, sy_pass *p, const sy_scores *s,
                          const sy_choices *c, const sy_tensor *g, const sy_tensor *loss,
                          sy_tensor *dz)
{
    sy_status st = SY_OK;
    const grouped_config *own = config->own;
    sy_tensor count;
    SY_TRY(sy__topk_backward(config, p, s, c, g, loss, dz));
    if (!has_losses(config)) {
        goto cleanup;
    }
    SY_TRY(sy_arena_2d(p->scratch, SY_I64, 2, own->groups, &count));
    SY_TRY(sy_group_loss(p->stream, &(sy_group_loss_args){.p = s->p,
                                                          .expert = c->expert,
                                                          .count = count,
                                                          .dz = *dz,
                                                          .sums = *loss,
                                                          .groups_kept = own->groups_kept,
                                                          .choices_coeff = own->group_loss_coeff,
                                                          .visits_coeff = own->comm_loss_coeff,
                                                          .per_token = p->per_routed_token}));
cleanup:
    return st;
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
    if (has_losses(config) && config->score == SY_SCORE_SIGMOID) {
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
    KEY(groups, SY_CFG_I32, "1", 1, SY_MAX_GROUPS, NULL,
        "Groups of experts, each a range of them."),
    KEY(groups_kept, SY_CFG_I32, "1", 1, SY_MAX_GROUPS, NULL, "Groups that a token may visit."),
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
    .sees_micro_batch = has_losses,
    .choose = choose,
    .weigh = sy__topk_weigh,
    .backward = backward,
};

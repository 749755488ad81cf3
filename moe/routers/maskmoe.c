/* MaskMoE: frequent tokens see all experts, rare ones a few fixed ones each, which so see them more
   often. Frequent are the ids that come most often in the training data, until they make up
   `frequent_share` of it; that is state. Without, it is said by the id: in vocabularies sorted by
   frequency (BPE) the first ids are. Then top-k among what is seen, weights by form.
   Su et al. 2024 (MaskMoE, arXiv 2407.09816) 3. */
#include "core/alloc.h"
#include "core/rng.h"
#include "moe/routers_impl.h"

typedef struct maskmoe_config {
    int32_t frequent_ids, visible;
    double frequent_share;
    int64_t seed;
} maskmoe_config;
enum { IS_THERE, FREQUENT }; /* state: 1 where data were counted, is it frequent by id */

static void layout(const sy_moe_config *config, sy_router_layout *out)
{
    const maskmoe_config *own = config->own;
    out->from_data = out->state_per_id = own->frequent_share > 0;
    out->n_state = own->frequent_share > 0 ? FREQUENT : 0;
}

static sy_status begin(const sy_moe_config *config, const double *share, int64_t vocab,
                       int32_t layer, double *state)
{
    sy_status st = SY_OK;
    const maskmoe_config *own = config->own;
    int32_t *id = NULL;
    double sum = 0;
    (void)layer; /* what is frequent is so in all layers */
    SY_TRY(sy_alloc(vocab, sizeof *id, (void **)&id));
    SY_TRY(sy__most_frequent_first(share, vocab, (uint64_t)own->seed, 0, id));
    for (int64_t i = 0; i < vocab; i++) {
        state[FREQUENT + id[i]] = share[id[i]] > 0 && sum < own->frequent_share;
        sum += share[id[i]];
    }
    state[IS_THERE] = 1;
cleanup:
    sy_free(&id);
    return st;
}

static bool is_frequent(const sy_host_route *r, int32_t id)
{
    const maskmoe_config *own = r->config->own;
    return own->frequent_share > 0 && r->state[IS_THERE] > 0 ? r->state[FREQUENT + id] > 0
                                                             : id < own->frequent_ids;
}

/* Fixed for (seed, layer, id), whatever the run. */
static bool sees(const sy_host_route *r, int64_t t, int32_t e)
{
    const maskmoe_config *own = r->config->own;
    const uint64_t stream = sy_rng_u64((uint64_t)own->seed, (uint64_t)r->layer, 0);
    const int32_t id = r->ids[t];
    return is_frequent(r, id) ||
           sy_rng_permute((uint64_t)own->seed, stream ^ (uint64_t)id, r->E, e) < own->visible;
}

static void score(sy_host_route *r)
{
    const double unseen = -1e30; /* finite in fp32; its probability is 0 */
    for (int64_t i = 0; i < r->T * r->E; i++) {
        r->z[i] = sees(r, i / r->E, (int32_t)(i % r->E)) ? r->in[i] : unseen;
    }
}

static void score_backward(sy_host_route *r)
{
    for (int64_t i = 0; i < r->T * r->E; i++) {
        r->din[i] += sees(r, i / r->E, (int32_t)(i % r->E)) ? r->dz[i] : 0;
    }
}

static sy_status check(const sy_moe_config *config, const sy_config *all)
{
    const maskmoe_config *own = config->own;
    if (own->visible < config->top_k || own->visible > config->experts) {
        return sy_config_error(all, "moe.maskmoe.visible",
                               "moe.maskmoe.visible %d: a token needs moe.top_k %d experts that it "
                               "sees; set it to %d to %d",
                               own->visible, config->top_k, config->top_k, config->experts);
    }
    return SY_OK;
}

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    SY__KEY(maskmoe_config, field, kind, def, lo, hi, choices, text)
static const sy_config_key keys[] = {
    KEY(frequent_ids, SY_CFG_I32, "0", 0, 1 << 30, NULL,
        "Tokens with ids below this see all experts."),
    KEY(frequent_share, SY_CFG_F64, "0", 0, 1, NULL,
        "The most frequent ids that make up this share of the training data, counted when a run "
        "begins, do so instead; 0: frequent_ids says it."),
    KEY(visible, SY_CFG_I32, "2", 1, 1 << 16, NULL, "Experts that every other token sees."),
    KEY(seed, SY_CFG_I64, "1", 0, 1e15, NULL, "Of the masks; part of the model."),
    {0},
};
const sy_config_section sy_router_section_maskmoe = {.name = "moe.maskmoe",
                                                     .help =
                                                         "Rare tokens see few experts (MaskMoE).",
                                                     .keys = keys,
                                                     .struct_bytes = sizeof(maskmoe_config)};

const sy_router_ops sy__router_maskmoe = {
    .name = "maskmoe",
    .source = "Su et al. 2024 (MaskMoE, arXiv 2407.09816) 3",
    .check = check,
    .host = &(const sy_host_router_ops){.forward_cost = {177, 1.6},
                                        .backward_cost = {174, 1.6},
                                        .layout = layout,
                                        .begin = begin,
                                        .score = score,
                                        .choose = sy__plain_choose,
                                        .backward = sy__plain_backward,
                                        .score_backward = score_backward}};

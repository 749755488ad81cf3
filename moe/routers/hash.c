/* Hash routing: the expert is a function of the token's id and the layer, nothing is learnt, every
   choice weighs 1/K. `balanced`: from the most frequent id of the training data on, each goes to
   the expert with the least occurrences so far; the table is state. `even`, and where there is no
   such table: ids are dealt to the experts in a random order, each gets as many ids as the next;
   `random`: each id by itself. Further choices of an id follow at equal distances.
   Roller et al. 2021 (Hash Layers, arXiv 2106.04426) 3. */
#include "core/alloc.h"
#include "core/rng.h"
#include "moe/routers_impl.h"

typedef struct hash_config {
    int32_t table;
    int64_t seed;
} hash_config;
enum { BALANCED, EVEN, RANDOM };
enum { IS_THERE, TABLE }; /* state: 1 where there is a table, expert by id */

static void layout(const sy_moe_config *config, sy_router_layout *out)
{
    const hash_config *own = config->own;
    out->M = 0;
    out->from_data = out->state_per_id = own->table == BALANCED;
    out->n_state = own->table == BALANCED ? TABLE : 0;
}

static uint64_t stream_of(int32_t layer)
{
    return ((uint64_t)SY_RNG_ROUTE << 56) ^ (uint64_t)layer;
}

/* Ids that were not seen count as half as often as the rarest one: else they would all go to one
   expert. */
static double least(const double *share, int64_t vocab)
{
    double out = 1;
    for (int64_t id = 0; id < vocab; id++) {
        out = share[id] > 0 && share[id] < out ? share[id] : out;
    }
    return out / 2;
}

static sy_status begin(const sy_moe_config *config, const double *share, int64_t vocab,
                       int32_t layer, double *state)
{
    sy_status st = SY_OK;
    const hash_config *own = config->own;
    const double unseen = least(share, vocab);
    int32_t *id = NULL;
    double *load = NULL;
    SY_TRY(sy_alloc(vocab, sizeof *id, (void **)&id));
    SY_TRY(sy_alloc(config->experts, sizeof *load, (void **)&load));
    SY_TRY(sy__most_frequent_first(share, vocab, (uint64_t)own->seed, stream_of(layer), id));
    for (int64_t i = 0; i < vocab; i++) {
        int32_t best = 0;
        for (int32_t e = 1; e < config->experts; e++) {
            best = load[e] < load[best] ? e : best;
        }
        load[best] += share[id[i]] > 0 ? share[id[i]] : unseen;
        state[TABLE + id[i]] = best;
    }
    state[IS_THERE] = 1;
cleanup:
    sy_free(&load);
    sy_free(&id);
    return st;
}

static int32_t expert_of(const sy_host_route *r, int32_t id)
{
    const hash_config *own = r->config->own;
    const uint64_t seed = (uint64_t)own->seed;
    if (own->table == BALANCED && r->state[IS_THERE] > 0) {
        return (int32_t)r->state[TABLE + id];
    }
    const int64_t place = own->table != RANDOM
                              ? sy_rng_permute(seed, stream_of(r->layer), r->vocab, id)
                              : (int64_t)(sy_rng_u64(seed, stream_of(r->layer), (uint64_t)id) >> 1);
    return (int32_t)(place % r->E);
}

static void choose(sy_host_route *r)
{
    for (int64_t t = 0; t < r->T; t++) {
        const int32_t first = sy_host_routed(r, t) ? expert_of(r, r->ids[t]) : -1;
        for (int32_t k = 0; k < r->K && first >= 0; k++) {
            r->expert[t * r->K + k] = (first + k * (r->E / r->K)) % r->E;
            r->weight[t * r->K + k] = r->config->routed_scale / r->K;
        }
    }
}

static void backward(sy_host_route *r)
{
    (void)r;
}

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    SY__KEY(hash_config, field, kind, def, lo, hi, choices, text)
static const char *const table_choices[] = {"balanced", "even", "random", NULL};
static const sy_config_key keys[] = {
    KEY(table, SY_CFG_ENUM, "balanced", 0, 0, table_choices,
        "Experts by id: as many occurrences in the training data for each, counted when a run "
        "begins; as many ids for each; or by chance."),
    KEY(seed, SY_CFG_I64, "1", 0, 1e15, NULL, "Of the table; part of the model."),
    {0},
};
const sy_config_section sy_router_section_hash = {
    .name = "moe.hash",
    .help = "Hash routing: the expert is a function of the token's id.",
    .keys = keys,
    .struct_bytes = sizeof(hash_config)};

const sy_router_ops sy__router_hash = {
    .name = "hash",
    .source = "Roller et al. 2021 (Hash Layers, arXiv 2106.04426) 3",
    .traits = SY_ROUTER_NO_AUX | SY_ROUTER_NO_Z | SY_ROUTER_FIXED_WEIGHTS,
    .host = &(const sy_host_router_ops){.forward_cost = {6.46, 0},
                                        .backward_cost = {0.525, 0},
                                        .layout = layout,
                                        .begin = begin,
                                        .choose = choose,
                                        .backward = backward}};

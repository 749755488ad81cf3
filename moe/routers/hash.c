/* Hash routing: the expert is a function of the token's id and the layer, nothing is learnt, every
   choice weighs 1/K. `balanced`: ids are dealt to the experts in a random order, each gets as many
   ids as the next (not as many occurrences: that needs the frequencies of a corpus); `random`: each
   id by itself. Further choices of an id follow at equal distances.
   Roller et al. 2021 (Hash Layers, arXiv 2106.04426) 3. */
#include "core/rng.h"
#include "moe/routers_impl.h"

typedef struct hash_config {
    int32_t table;
    int64_t seed;
} hash_config;
enum { BALANCED, RANDOM };

static void layout(const sy_moe_config *config, sy_router_layout *out)
{
    (void)config;
    out->M = 0;
}

static int32_t expert_of(const sy_host_route *r, int32_t id)
{
    const hash_config *own = r->config->own;
    const uint64_t seed = (uint64_t)own->seed;
    const uint64_t stream = ((uint64_t)SY_RNG_ROUTE << 56) ^ (uint64_t)r->layer;
    const int64_t place = own->table == BALANCED
                              ? sy_rng_permute(seed, stream, r->vocab, id)
                              : (int64_t)(sy_rng_u64(seed, stream, (uint64_t)id) >> 1);
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
static const char *const table_choices[] = {"balanced", "random", NULL};
static const sy_config_key keys[] = {
    KEY(table, SY_CFG_ENUM, "balanced", 0, 0, table_choices,
        "Ids per expert: equally many, or by chance."),
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
                                        .choose = choose,
                                        .backward = backward}};

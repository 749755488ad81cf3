/* Expert choice: every expert takes the C = round(factor T / E) tokens that want it most, of the
   routed tokens of a micro-batch; ties go to the earlier token. Weights are softmax over experts,
   as they are. A token may get none or all. Later tokens decide about earlier ones. Zhou et al.
   2022 (arXiv 2202.09368) 3. */
#include <math.h>
#include <stdlib.h>

#include "moe/routers_impl.h"

typedef struct expert_choice_config {
    double factor;
} expert_choice_config;

typedef struct wish {
    double p;
    int64_t t;
} wish;

static void layout(const sy_moe_config *config, sy_router_layout *out)
{
    out->K = config->experts;
}

static int most_first(const void *a, const void *b)
{
    const wish *x = a, *y = b;
    return x->p != y->p ? (x->p < y->p) - (x->p > y->p) : (x->t > y->t) - (x->t < y->t);
}

static void add(sy_host_route *r, int64_t t, int32_t e)
{
    int32_t k = 0;
    while (r->expert[t * r->K + k] >= 0) {
        k++;
    }
    r->expert[t * r->K + k] = e;
}

static void choose(sy_host_route *r)
{
    const expert_choice_config *own = r->config->own;
    const sy__form form = {false, false, r->config->routed_scale};
    wish *wishes = (wish *)(r->scratch + 2 * r->E); /* [T] */
    int64_t n = 0, C;
    for (int64_t t = 0; t < r->T; t++) {
        sy__scores(false, r->z + t * r->E, r->E, r->note + t * r->E);
        n += sy_host_routed(r, t);
    }
    C = llround(own->factor * (double)n / r->E);
    C = C < 1 ? 1 : C;
    for (int32_t e = 0; e < r->E; e++) {
        int64_t m = 0;
        for (int64_t t = 0; t < r->T; t++) {
            if (sy_host_routed(r, t)) {
                wishes[m++] = (wish){r->note[t * r->E + e], t};
            }
        }
        qsort(wishes, (size_t)m, sizeof *wishes, most_first);
        for (int64_t i = 0; i < m && i < C; i++) {
            add(r, wishes[i].t, e);
        }
    }
    sy__weigh_all(r, &form);
}

static void backward(sy_host_route *r)
{
    const sy__form form = {false, false, r->config->routed_scale};
    sy__weigh_all_backward(r, &form);
}

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    SY__KEY(expert_choice_config, field, kind, def, lo, hi, choices, text)
static const sy_config_key keys[] = {
    KEY(factor, SY_CFG_F64, "2.0", 1e-6, 1e6, NULL,
        "Experts per token in the mean: an expert takes factor * T / E tokens."),
    {0},
};
const sy_config_section sy_router_section_expert_choice = {
    .name = "moe.expert_choice",
    .help = "Experts choose tokens; needs moe.look_ahead in a causal model.",
    .keys = keys,
    .struct_bytes = sizeof(expert_choice_config)};

const sy_router_ops sy__router_expert_choice = {
    .name = "expert_choice",
    .source = "Zhou et al. 2022 (arXiv 2202.09368) 3",
    .traits = SY_ROUTER_MICRO_BATCH | SY_ROUTER_NO_CAPACITY | SY_ROUTER_LOOKS_AHEAD |
              SY_ROUTER_NO_AUX | SY_ROUTER_FIXED_WEIGHTS,
    .host = &(const sy_host_router_ops){.forward_cost = {98.8, 0.051},
                                        .backward_cost = {12.6, 0},
                                        .layout = layout,
                                        .choose = choose,
                                        .backward = backward}};

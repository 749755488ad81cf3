#include "moe/capacity.h"

#include <math.h>

int64_t sy_capacity_slots(const sy_moe_config *config, bool eval, int64_t T)
{
    return sy_capacity_slots_of(config, eval, T, 0);
}

int64_t sy_capacity_slots_of(const sy_moe_config *config, bool eval, int64_t T, double share)
{
    sy_opt_f64 factor = eval ? config->eval_capacity_factor : config->capacity_factor;
    if (!factor.set) {
        return -1;
    }
    /* the product is rounded to 9 digits first, so that 1.1 * 10 / 1 is 11 and not 12 */
    double exact = factor.value * (double)T * config->top_k;
    exact = share > 0 ? exact * share : exact / config->experts;
    int64_t C = (int64_t)ceil(exact - 1e-9 * (1 + exact));
    C = C < config->min_capacity ? config->min_capacity : C;
    return C < T ? C : T;
}

sy_status sy_capacity_apply(const sy_moe_config *config, sy_pass *p, int64_t C, sy_choices *c)
{
    if (C < 0) {
        c->kept = sy_tensor_none();
        return SY_OK;
    }
    return sy_capacity(p->stream, &(sy_capacity_args){.expert = c->expert,
                                                      .priority = c->priority,
                                                      .kept = c->kept,
                                                      .E = config->experts,
                                                      .capacity = C});
}

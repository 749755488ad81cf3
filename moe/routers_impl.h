/* The routers' tables, and what several of them need. */
#ifndef SY_MOE_ROUTERS_IMPL_H
#define SY_MOE_ROUTERS_IMPL_H

#include "moe/host_route.h"

#define SY__ROUTER_DECLARE(name) extern const sy_router_ops sy__router_##name;
SY_ROUTERS(SY__ROUTER_DECLARE, SY__ROUTER_DECLARE)
#undef SY__ROUTER_DECLARE

/* Of topk, for routers that differ in what they choose from: args filled in, then the rest. */
sy_status sy__topk_choose(const sy_moe_config *config, sy_pass *p, const sy_scores *s,
                          const sy_topk_args *args, sy_choices *c);
sy_status sy__topk_weigh(const sy_moe_config *config, sy_pass *p, const sy_scores *s,
                         sy_choices *c);
sy_status sy__topk_backward(const sy_moe_config *config, sy_pass *p, const sy_scores *s,
                            const sy_choices *c, const sy_tensor *g, const sy_tensor *loss,
                            sy_tensor *dz);

/* How scores become combine weights: forms A, B, C and E of docs/NUMERICS.md 2. */
typedef struct sy__form {
    bool sigmoid, normalize;
    double scale;
} sy__form;
/* As moe.score, moe.normalize_weights and moe.routed_scale say. */
sy__form sy__form_of(const sy_moe_config *config);
/* p [n] = softmax(z), or sigmoid(z). Entries of z that are -infinity get 0. */
void sy__scores(bool sigmoid, const double *z, int32_t n, double *p);
/* The k largest of score [n] in descending order, ties to the lower index, -1 behind those that are
 * not -infinity. NaN is not chosen. */
void sy__largest(const double *score, int32_t n, int32_t k, int32_t *out);
/* Weights [K] of the chosen experts of one token (-1: hole, weight 0), and z's gradient += from g
 * [K]. z [n]; p [n] is scratch. */
void sy__weigh(const sy__form *form, const double *z, int32_t n, const int32_t *expert, int32_t K,
               double *p, double *weight);
void sy__weigh_backward(const sy__form *form, const double *z, int32_t n, const int32_t *expert,
                        const double *g, int32_t K, double *p, double *dz);
/* Both for all routed tokens, by the form that the configuration says: for routers that choose
 * only.
 */
void sy__weigh_all(sy_host_route *r, const sy__form *form);
void sy__weigh_all_backward(sy_host_route *r, const sy__form *form);
/* choose and backward of a router that differs from plain top-k in its scores alone. */
void sy__plain_choose(sy_host_route *r);
void sy__plain_backward(sy_host_route *r);
/* A loss that is linear in p = softmax(z) of a token, sum_e cost_e p_e: returns it times factor,
 * and adds factor times its gradient to dz. All [n]. */
double sy__add_cost(const double *p, const double *cost, int32_t n, double factor, double *dz);
/* The balance loss as such a loss: cost_e = E f_e, the choices of the routed tokens [from, to)
 * being those that count. */
void sy__balance_costs(const sy_host_route *r, int64_t from, int64_t to, double *cost);
/* The largest divisor of n that is not above most; at least 1. */
int32_t sy__divisor(int32_t n, int32_t most);
/* <a, b>, and a length that is small but not 0 where there is none. All [n]. */
double sy__dot(const double *a, const double *b, int64_t n);
double sy__length(const double *a, int64_t n);
/* The top_k largest z of every routed token. */
void sy__choose_topk(sy_host_route *r);
/* Into id [vocab]: all ids, those with the larger share first, alike ones in an order that is drawn
 * from (seed, stream). */
sy_status sy__most_frequent_first(const double *share, int64_t vocab, uint64_t seed,
                                  uint64_t stream, int32_t *id);
/* Draw `which` (below 16) of this token and expert: uniform in [0, 1), standard normal. */
double sy__route_uniform(const sy_host_route *r, int64_t t, int32_t e, int32_t which);
double sy__route_normal(const sy_host_route *r, int64_t t, int32_t e, int32_t which);

#define SY__KEY(type, field, kind, def, lo, hi, choices, text)                                     \
    {                                                                                              \
#field, kind, offsetof(type, field), def, lo, hi, choices, text                            \
    }

#endif

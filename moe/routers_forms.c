/* What several routers on the host need: scores, the largest, weights and their gradients, draws.
 */
#include <math.h>

#include "core/rng.h"
#include "moe/routers_impl.h"

sy__form sy__form_of(const sy_moe_config *config)
{
    return (sy__form){config->score == SY_SCORE_SIGMOID, config->normalize_weights,
                      config->routed_scale};
}

void sy__scores(bool sigmoid, const double *z, int32_t n, double *p)
{
    double max = -INFINITY, sum = 0;
    for (int32_t e = 0; e < n; e++) {
        max = fmax(max, z[e]);
    }
    for (int32_t e = 0; e < n; e++) {
        p[e] = sigmoid ? 1 / (1 + exp(-z[e])) : z[e] > -INFINITY ? exp(z[e] - max) : 0;
        sum += p[e];
    }
    for (int32_t e = 0; e < n && !sigmoid; e++) {
        p[e] /= sum;
    }
}

static bool among(const int32_t *list, int32_t n, int32_t e)
{
    for (int32_t k = 0; k < n; k++) {
        if (list[k] == e) {
            return true;
        }
    }
    return false;
}

void sy__largest(const double *score, int32_t n, int32_t k, int32_t *out)
{
    for (int32_t i = 0; i < k; i++) {
        out[i] = -1;
        for (int32_t e = 0; e < n; e++) {
            const double best = out[i] >= 0 ? score[out[i]] : -INFINITY;
            if (score[e] > best && !among(out, i, e)) {
                out[i] = e;
            }
        }
    }
}

/* Sum of p over the chosen; 1 where weights are not divided. */
static double divisor(const sy__form *form, const double *p, const int32_t *expert, int32_t K)
{
    double sum = 0;
    for (int32_t k = 0; k < K; k++) {
        sum += expert[k] >= 0 ? p[expert[k]] : 0;
    }
    return form->normalize && sum > 0 ? sum : 1;
}

void sy__weigh(const sy__form *form, const double *z, int32_t n, const int32_t *expert, int32_t K,
               double *p, double *weight)
{
    sy__scores(form->sigmoid, z, n, p);
    const double sum = divisor(form, p, expert, K);
    for (int32_t k = 0; k < K; k++) {
        weight[k] = expert[k] >= 0 ? form->scale * p[expert[k]] / sum : 0;
    }
}

/* First dL/dp on the chosen, then through the score: softmax dz = p (dp - <p, dp>), sigmoid
   dz = p (1 - p) dp. */
void sy__weigh_backward(const sy__form *form, const double *z, int32_t n, const int32_t *expert,
                        const double *g, int32_t K, double *p, double *dz)
{
    double mean = 0, along = 0;
    sy__scores(form->sigmoid, z, n, p);
    const double sum = divisor(form, p, expert, K);
    for (int32_t k = 0; k < K; k++) {
        mean += expert[k] >= 0 && form->normalize ? p[expert[k]] / sum * g[k] : 0;
    }
    for (int32_t k = 0; k < K; k++) {
        along += expert[k] >= 0 ? p[expert[k]] * form->scale * (g[k] - mean) / sum : 0;
    }
    for (int32_t k = 0; k < K; k++) {
        if (expert[k] >= 0) {
            const int32_t e = expert[k];
            const double dp = form->scale * (g[k] - mean) / sum;
            dz[e] += form->sigmoid ? p[e] * (1 - p[e]) * dp : p[e] * dp;
        }
    }
    for (int32_t e = 0; e < n && !form->sigmoid; e++) {
        dz[e] -= p[e] * along;
    }
}

void sy__weigh_all(sy_host_route *r, const sy__form *form)
{
    for (int64_t t = 0; t < r->T; t++) {
        if (sy_host_routed(r, t)) {
            sy__weigh(form, r->z + t * r->E, r->E, r->expert + t * r->K, r->K, r->scratch,
                      r->weight + t * r->K);
        }
    }
}

void sy__weigh_all_backward(sy_host_route *r, const sy__form *form)
{
    for (int64_t t = 0; t < r->T; t++) {
        if (sy_host_routed(r, t)) {
            sy__weigh_backward(form, r->z + t * r->E, r->E, r->expert + t * r->K, r->g + t * r->K,
                               r->K, r->scratch, r->dz + t * r->E);
        }
    }
}

double sy__add_cost(const double *p, const double *cost, int32_t n, double factor, double *dz)
{
    double mean = 0;
    for (int32_t e = 0; e < n; e++) {
        mean += p[e] * cost[e];
    }
    for (int32_t e = 0; e < n; e++) {
        dz[e] += factor * p[e] * (cost[e] - mean);
    }
    return factor * mean;
}

void sy__balance_costs(const sy_host_route *r, int64_t from, int64_t to, double *cost)
{
    double n = 0;
    for (int32_t e = 0; e < r->E; e++) {
        cost[e] = 0;
    }
    for (int64_t i = from * r->K; i < to * r->K; i++) {
        if (r->expert[i] >= 0) {
            cost[r->expert[i]]++;
            n++;
        }
    }
    for (int32_t e = 0; e < r->E && n > 0; e++) {
        cost[e] *= r->E / n;
    }
}

int32_t sy__divisor(int32_t n, int32_t most)
{
    int32_t d = most < n ? most : n;
    while (d > 1 && n % d != 0) {
        d--;
    }
    return d > 1 ? d : 1;
}

double sy__dot(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

double sy__length(const double *a, int64_t n)
{
    return sqrt(sy__dot(a, a, n) + 1e-12);
}

void sy__choose_topk(sy_host_route *r)
{
    for (int64_t t = 0; t < r->T; t++) {
        if (sy_host_routed(r, t)) {
            sy__largest(r->z + t * r->E, r->E, r->K, r->expert + t * r->K);
        }
    }
}

void sy__plain_choose(sy_host_route *r)
{
    const sy__form form = sy__form_of(r->config);
    sy__choose_topk(r);
    sy__weigh_all(r, &form);
}

void sy__plain_backward(sy_host_route *r)
{
    const sy__form form = sy__form_of(r->config);
    sy__weigh_all_backward(r, &form);
}

static uint64_t draw_index(const sy_host_route *r, int64_t t, int32_t e, int32_t which)
{
    return ((uint64_t)r->token_glb[t] * (uint64_t)r->E + (uint64_t)e) * 16 + (uint64_t)which;
}

double sy__route_uniform(const sy_host_route *r, int64_t t, int32_t e, int32_t which)
{
    return sy_rng_uniform(r->seed, r->stream, draw_index(r, t, e, which));
}

double sy__route_normal(const sy_host_route *r, int64_t t, int32_t e, int32_t which)
{
    return sy_rng_normal(r->seed, r->stream, draw_index(r, t, e, which));
}

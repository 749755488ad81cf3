/* Counts and statistics of routing, balance loss and z-loss (docs/NUMERICS.md 3). */
#include "backend/ref/ref_impl.h"

#include <math.h>

sy_status sy__ref_expert_count(sy_stream *stream, const sy_expert_count_args *args)
{
    (void)stream;
    const int64_t N = args->expert.shape[0];
    const int64_t n_scopes = args->count.shape[0], E = args->count.shape[1];
    const int32_t *expert = args->expert.data;
    int64_t *count = args->count.data;
    memset(count, 0, (size_t)(n_scopes * E) * sizeof *count);
    for (int64_t n = 0; n < N; n++) {
        if (expert[n] >= 0) {
            count[n / (N / n_scopes) * E + expert[n]]++;
        }
    }
    return SY_OK;
}

static double row_sum(const double *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += x[i];
    }
    return sum;
}

static double entropy(const double *p, int64_t E)
{
    const double sum = row_sum(p, E);
    double h = 0;
    for (int64_t e = 0; e < E; e++) {
        const double q = p[e] / sum;
        h -= q > 0 ? q * log(q) : 0;
    }
    return h;
}

static double largest(const double *p, int64_t E)
{
    double max = 0;
    for (int64_t e = 0; e < E; e++) {
        max = fmax(max, p[e]);
    }
    return max;
}

sy_status sy__ref_router_stats(sy_stream *stream, const sy_router_stats_args *args)
{
    (void)stream;
    const int64_t E = args->p.shape[1], K = args->expert.shape[1];
    const int32_t *expert = args->expert.data;
    const uint8_t *kept = args->kept.data;
    int64_t *load = args->load.data, *kept_load = args->kept_load.data;
    int64_t *dropped_at = args->dropped_at.data;
    double *sums = args->sums.data;
    for (int64_t t = 0; t < args->p.shape[0]; t++) {
        for (int64_t n = t * K; n < (t + 1) * K; n++) {
            if (expert[n] >= 0) {
                load[expert[n]]++;
                kept_load[expert[n]] += !kept || kept[n];
            }
            if (expert[n] >= 0 && kept && !kept[n] && dropped_at) {
                dropped_at[t % args->S * args->dropped_at.shape[0] / args->S]++;
            }
        }
        if (K > 0 && expert[t * K] >= 0) {
            sums[0] += entropy(sy__ref_row(&args->p, t), E);
            sums[1] += largest(sy__ref_row(&args->p, t), E);
        }
    }
    return SY_OK;
}

/* Element e of the load fraction f of a scope: a constant, nothing is derived through it. */
static double fraction(const int64_t *count, const double *cost, int64_t E, int64_t e)
{
    double sum = 0;
    for (int64_t i = 0; i < E; i++) {
        sum += (double)count[i];
    }
    return sum > 0 ? (cost != NULL ? cost[e] : 1) * (double)count[e] / sum : 0;
}

/* First term of a token: E <f, q>, and its gradient times `scale` added to dz. q = p / sum(p)
   serves both scores: softmax has sum 1 and dq = q (dz - <q, dz>), sigmoid has dp = p (1 - p) dz
   under the same quotient. */
static double balance_token(const sy_balance_loss_args *args, int64_t t, double scale)
{
    const int64_t T = args->p.shape[0], E = args->p.shape[1], n_scopes = args->count.shape[0];
    const int64_t *count = (const int64_t *)args->count.data + t / (T / n_scopes) * E;
    const double *p = sy__ref_row(&args->p, t);
    const double *cost = args->cost.data;
    double *dz = sy__ref_row(&args->dz, t);
    const double sum = args->score == SY_SCORE_SOFTMAX ? 1 : row_sum(p, E);
    double mean_f = 0;
    for (int64_t e = 0; e < E; e++) {
        mean_f += fraction(count, cost, E, e) * p[e] / sum;
    }
    for (int64_t e = 0; e < E; e++) {
        const double slope = args->score == SY_SCORE_SOFTMAX ? p[e] : p[e] * (1 - p[e]) / sum;
        dz[e] += scale * (double)E * slope * (fraction(count, cost, E, e) - mean_f);
    }
    return (double)E * mean_f;
}

/* Second term of a token: lse^2; d lse / dz = softmax(z) whatever the score is. */
static double z_loss_token(const sy_balance_loss_args *args, int64_t t, double scale)
{
    const double *z = sy__ref_row(&args->z, t);
    const double lse = ((const double *)args->lse.data)[t];
    double *dz = sy__ref_row(&args->dz, t);
    for (int64_t e = 0; e < args->z.shape[1]; e++) {
        dz[e] += scale * 2 * lse * exp(z[e] - lse);
    }
    return lse * lse;
}

static void count_groups(const sy_group_loss_args *args, int64_t *choices, int64_t *visits)
{
    const int64_t K = args->expert.shape[1], D = args->count.shape[1];
    const int64_t n = args->p.shape[1] / D;
    memset(args->count.data, 0, (size_t)(2 * D) * sizeof *choices);
    for (int64_t t = 0; t < args->p.shape[0]; t++) {
        const int32_t *expert = (const int32_t *)args->expert.data + t * K;
        for (int64_t d = 0; d < D; d++) {
            int64_t here = 0;
            for (int64_t k = 0; k < K; k++) {
                here += expert[k] >= 0 && expert[k] / n == d;
            }
            choices[d] += here;
            visits[d] += here > 0;
        }
    }
}

/* c[d] of sy_group_loss_args; all choices are K N. */
static double group_cost(const sy_group_loss_args *args, int64_t d)
{
    const int64_t K = args->expert.shape[1], D = args->count.shape[1];
    const int64_t *choices = args->count.data, *visits = choices + D;
    double N = 0;
    for (int64_t i = 0; i < D; i++) {
        N += (double)choices[i] / (double)K;
    }
    return (args->choices_coeff * (double)choices[d] / ((double)K * N) +
            args->visits_coeff * (double)visits[d] / (args->groups_kept * N)) *
           (double)D;
}

sy_status sy__ref_group_loss(sy_stream *stream, const sy_group_loss_args *args)
{
    (void)stream;
    const int64_t E = args->p.shape[1], K = args->expert.shape[1], D = args->count.shape[1];
    const int32_t *expert = args->expert.data;
    count_groups(args, args->count.data, (int64_t *)args->count.data + D);
    for (int64_t t = 0; t < args->p.shape[0]; t++) {
        const double *p = sy__ref_row(&args->p, t);
        double *dz = sy__ref_row(&args->dz, t), mean = 0;
        const int64_t n = K > 0 && expert[t * K] >= 0 ? E : 0;
        for (int64_t e = 0; e < n; e++) {
            mean += group_cost(args, e / (E / D)) * p[e];
        }
        for (int64_t e = 0; e < n; e++) {
            dz[e] += args->per_token * p[e] * (group_cost(args, e / (E / D)) - mean);
        }
        *(double *)args->sums.data += args->per_token * mean;
    }
    return SY_OK;
}

sy_status sy__ref_balance_loss(sy_stream *stream, const sy_balance_loss_args *args)
{
    (void)stream;
    const uint8_t *routed = args->routed.data;
    const double per_token = args->per_token;
    double *sums = args->sums.data;
    for (int64_t t = 0; t < args->p.shape[0]; t++) {
        if (!routed || routed[t]) {
            sums[0] += per_token * balance_token(args, t, per_token * args->aux_coeff);
            sums[1] += per_token * z_loss_token(args, t, per_token * args->z_coeff);
        }
    }
    return SY_OK;
}

/* The router: scores, choice, capacity, combine weights, and the gradient of the weights
 * (docs/NUMERICS.md 2). */
#include "backend/ref/ref_impl.h"

#include <math.h>

static const int32_t *int_row(const sy_tensor *t, int64_t i)
{
    return (const int32_t *)t->data + i * t->shape[1];
}

sy_status sy__ref_router_scores(sy_stream *stream, const sy_router_scores_args *args)
{
    (void)stream;
    const int64_t E = args->z.shape[1];
    for (int64_t t = 0; t < args->z.shape[0]; t++) {
        const double *z = sy__ref_row(&args->z, t);
        double *p = sy__ref_row(&args->p, t);
        double max = -INFINITY, sum = 0;
        for (int64_t e = 0; e < E; e++) {
            max = fmax(max, z[e]);
        }
        for (int64_t e = 0; e < E; e++) {
            sum += exp(z[e] - max);
        }
        ((double *)args->lse.data)[t] = max + log(sum);
        for (int64_t e = 0; e < E; e++) {
            p[e] = args->score == SY_SCORE_SIGMOID ? sy__ref_sigmoid(z[e]) : exp(z[e] - max) / sum;
        }
    }
    return SY_OK;
}

static bool chosen_before(const int32_t *expert, int64_t k, int64_t e)
{
    for (int64_t j = 0; j < k; j++) {
        if (expert[j] == e) {
            return true;
        }
    }
    return false;
}

/* What an expert is chosen by. NaN is the smallest. */
static double choice_value(const sy_topk_args *args, int64_t t, int64_t e)
{
    const double *bias = args->bias.data;
    const double value = sy__ref_row(&args->p, t)[e] + (bias ? bias[e] : 0);
    return isnan(value) ? -INFINITY : value;
}

/* The largest value of experts first .. end-1, or the sum of the two largest. */
static double group_value(const sy_topk_args *args, int64_t t, int64_t first, int64_t end)
{
    double largest = -INFINITY, second = -INFINITY;
    for (int64_t e = first; e < end; e++) {
        const double value = choice_value(args, t, e);
        second = fmax(second, fmin(largest, value));
        largest = fmax(largest, value);
    }
    return args->by_two && end - first > 1 ? largest + second : largest;
}

/* Which groups a token keeps: the best one not kept yet, again and again; the first of equals. */
static void keep_groups(const sy_topk_args *args, int64_t t, bool *kept)
{
    const int64_t D = args->n_groups, n = args->p.shape[1] / D;
    memset(kept, 0, (size_t)D * sizeof *kept);
    for (int32_t i = 0; i < args->groups_kept; i++) {
        int64_t best = -1;
        for (int64_t d = 0; d < D; d++) {
            if (!kept[d] && (best < 0 || group_value(args, t, d * n, (d + 1) * n) >
                                             group_value(args, t, best * n, (best + 1) * n))) {
                best = d;
            }
        }
        kept[best] = true;
    }
}

/* The best expert of a kept group that is not chosen yet; the first of equals. */
static int32_t next_best(const sy_topk_args *args, int64_t t, const bool *kept,
                         const int32_t *expert, int64_t k)
{
    const int64_t E = args->p.shape[1], n = args->n_groups > 0 ? E / args->n_groups : E;
    int64_t best = -1;
    for (int64_t e = 0; e < E; e++) {
        if (kept[e / n] && !chosen_before(expert, k, e) &&
            (best < 0 || choice_value(args, t, e) > choice_value(args, t, best))) {
            best = e;
        }
    }
    return (int32_t)best;
}

sy_status sy__ref_topk(sy_stream *stream, const sy_topk_args *args)
{
    (void)stream;
    const int64_t K = args->expert.shape[1];
    const uint8_t *routed = args->routed.data;
    bool kept[SY_MAX_GROUPS] = {true};
    for (int64_t t = 0; t < args->p.shape[0]; t++) {
        int32_t *expert = (int32_t *)args->expert.data + t * K;
        int32_t *token = (int32_t *)args->token.data + t * K;
        const bool skip = routed && !routed[t];
        if (args->n_groups > 0) {
            keep_groups(args, t, kept);
        }
        for (int64_t k = 0; k < K; k++) {
            token[k] = (int32_t)t;
            expert[k] = skip ? -1 : next_best(args, t, kept, expert, k);
        }
    }
    return SY_OK;
}

/* NaN is the smallest. */
static double priority_of(const sy_capacity_args *args, int64_t t, int64_t k)
{
    const double *priority = args->priority.data;
    const double x = priority ? priority[t * args->expert.shape[1] + (args->by_choice ? 0 : k)] : 0;
    return isnan(x) ? -INFINITY : x;
}

/* Does choice (u, j) come before choice (t, k)? */
static bool comes_before(const sy_capacity_args *args, int64_t u, int64_t j, int64_t t, int64_t k)
{
    const double there = priority_of(args, u, j), here = priority_of(args, t, k);
    if (args->by_choice && j != k) {
        return j < k;
    }
    if (there != here) {
        return there > here;
    }
    return u != t ? u < t : j < k;
}

/* How many choices of the same expert come before choice (t, k). */
static int64_t choices_before(const sy_capacity_args *args, int64_t t, int64_t k)
{
    const int64_t T = args->expert.shape[0], K = args->expert.shape[1];
    const int32_t *expert = args->expert.data;
    int64_t n = 0;
    for (int64_t u = 0; u < T; u++) {
        for (int64_t j = 0; j < K; j++) {
            n += expert[u * K + j] == expert[t * K + k] && comes_before(args, u, j, t, k);
        }
    }
    return n;
}

sy_status sy__ref_capacity(sy_stream *stream, const sy_capacity_args *args)
{
    (void)stream;
    const int64_t T = args->expert.shape[0], K = args->expert.shape[1];
    uint8_t *kept = args->kept.data;
    for (int64_t t = 0; t < T; t++) {
        for (int64_t k = 0; k < K; k++) {
            const bool any = int_row(&args->expert, t)[k] >= 0;
            kept[t * K + k] =
                any && (args->capacity < 0 || choices_before(args, t, k) < args->capacity);
        }
    }
    return SY_OK;
}

/* Sum of p over the choices of a token, dropped ones too; 1 where all are 0. */
static double choice_sum(const double *p, const int32_t *expert, int64_t K)
{
    double sum = 0;
    for (int64_t k = 0; k < K; k++) {
        sum += expert[k] >= 0 ? p[expert[k]] : 0;
    }
    return sum == 0 ? 1 : sum;
}

sy_status sy__ref_topk_weigh(sy_stream *stream, const sy_topk_weigh_args *args)
{
    (void)stream;
    const int64_t K = args->expert.shape[1];
    const uint8_t *kept = args->kept.data;
    for (int64_t t = 0; t < args->p.shape[0]; t++) {
        const double *p = sy__ref_row(&args->p, t);
        const int32_t *expert = int_row(&args->expert, t);
        double *weight = sy__ref_row(&args->weight, t);
        const double sum = args->normalize ? choice_sum(p, expert, K) : 1;
        for (int64_t k = 0; k < K; k++) {
            const bool keep = expert[k] >= 0 && (!kept || kept[t * K + k]);
            weight[k] = keep ? args->scale * p[expert[k]] / sum : 0;
        }
    }
    return SY_OK;
}

/* A weight is w_k = scale * p_k / sum (normalize) or scale * p_k. First dL/dp over all experts,
   then through the score: softmax dz = p (dp - <p, dp>), sigmoid dz = p (1 - p) dp. */
static void topk_backward_row(const sy_topk_backward_args *args, int64_t t)
{
    const int64_t E = args->p.shape[1], K = args->expert.shape[1];
    const int32_t *expert = int_row(&args->expert, t);
    const double *p = sy__ref_row(&args->p, t), *g = sy__ref_row(&args->g, t);
    double *dz = sy__ref_row(&args->dz, t);
    const double sum = args->normalize ? choice_sum(p, expert, K) : 1;
    double mean_g = 0; /* the weighted mean of g: the path through the sum */
    memset(dz, 0, (size_t)E * sizeof *dz);
    for (int64_t k = 0; k < K && args->normalize; k++) {
        mean_g += expert[k] >= 0 ? p[expert[k]] / sum * g[k] : 0;
    }
    for (int64_t k = 0; k < K; k++) {
        if (expert[k] >= 0) {
            dz[expert[k]] = args->scale / sum * (g[k] - mean_g);
        }
    }
    const double inner = args->score == SY_SCORE_SOFTMAX ? sy__ref_dot(p, dz, E) : 0;
    for (int64_t e = 0; e < E; e++) {
        const double slope = args->score == SY_SCORE_SOFTMAX ? p[e] : p[e] * (1 - p[e]);
        dz[e] = slope * (dz[e] - inner);
    }
}

sy_status sy__ref_topk_backward(sy_stream *stream, const sy_topk_backward_args *args)
{
    (void)stream;
    for (int64_t t = 0; t < args->p.shape[0]; t++) {
        if (args->expert.shape[1] > 0 && int_row(&args->expert, t)[0] >= 0) {
            topk_backward_row(args, t);
        } else {
            memset(sy__ref_row(&args->dz, t), 0, (size_t)args->dz.shape[1] * sizeof(double));
        }
    }
    return SY_OK;
}

sy_status sy__ref_share_kept(sy_stream *stream, const sy_share_kept_args *args)
{
    (void)stream;
    const int64_t K = args->weight.shape[1];
    const uint8_t *kept = args->kept.data;
    for (int64_t t = 0; t < args->weight.shape[0]; t++) {
        double *weight = sy__ref_row(&args->weight, t), sum = 0;
        for (int64_t k = 0; k < K; k++) {
            sum += kept[t * K + k] ? weight[k] : 0;
        }
        for (int64_t k = 0; k < K; k++) {
            weight[k] = kept[t * K + k] && sum > 0 ? args->scale * weight[k] / sum : 0;
        }
        ((double *)args->sum.data)[t] = sum;
    }
    return SY_OK;
}

sy_status sy__ref_share_kept_backward(sy_stream *stream, const sy_share_kept_backward_args *args)
{
    (void)stream;
    const int64_t K = args->g.shape[1];
    const uint8_t *kept = args->kept.data;
    for (int64_t t = 0; t < args->g.shape[0]; t++) {
        const double *weight = sy__ref_row(&args->weight, t);
        const double sum = ((const double *)args->sum.data)[t];
        double *g = sy__ref_row(&args->g, t), along = 0;
        for (int64_t k = 0; k < K; k++) {
            along += weight[k] * g[k];
        }
        for (int64_t k = 0; k < K; k++) {
            g[k] = kept[t * K + k] && sum > 0 ? (args->scale * g[k] - along) / sum : 0;
        }
    }
    return SY_OK;
}

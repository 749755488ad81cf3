/* The router's arithmetic per token: scores, choice, combine weights and their gradient (algorithms
   0.3). Rows are short (E experts), so a token is one unit of work. */
#include "backend/cpu/tile_impl.h"

#include <math.h>

#include "backend/cpu/vmath_impl.h"

SY_CPU_CLONES static void sigmoid_run(float *y, const float *x, int64_t n)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {
        y[i] = sy__sigmoid(x[i]);
    }
}

sy_status sy__cpu_router_scores(sy_stream *stream, const sy_router_scores_args *args)
{
    const int64_t T = args->z.shape[0], E = args->z.shape[1];
    float *lse = args->lse.data;
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (T * E > SY_CPU_PARALLEL_MIN / 4)
    for (int64_t t = 0; t < T; t++) {
        const float *z = (const float *)args->z.data + t * E;
        float *p = (float *)args->p.data + t * E;
        const float max = sy__cpu_max_run(z, E);
        const double sum = sy__cpu_sum_exp_run(z, max, E);
        lse[t] = (float)((double)max + log(sum));
        if (args->score == SY_SCORE_SIGMOID) {
            sigmoid_run(p, z, E);
        } else {
            sy__cpu_exp_run(p, z, max, (float)(1.0 / sum), E);
        }
    }
    return SY_OK;
}

/* What an expert is chosen by. In double the sum is exact enough that the bias cannot make a tie.
 */
static inline double choice_value(const float *p, const float *bias, int64_t e)
{
    const double value = (double)p[e] + (bias == NULL ? 0.0 : (double)bias[e]);
    return isnan(value) ? -INFINITY : value;
}

/* Insert experts first .. end-1 one by one into a list of the K best so far, which holds n; an
 * equal one goes behind. Returns how many it holds then. */
static int64_t choose(const float *p, const float *bias, int64_t first, int64_t end,
                      int32_t *expert, int64_t K, int64_t n)
{
    double last = n > 0 ? choice_value(p, bias, expert[n - 1]) : 0; /* of a full list */
    for (int64_t e = first; e < end && K > 0; e++) {
        const double value = choice_value(p, bias, e);
        if (n == K && last >= value) {
            continue;
        }
        int64_t place = n < K ? n++ : K - 1;
        for (; place > 0 && choice_value(p, bias, expert[place - 1]) < value; place--) {
            expert[place] = expert[place - 1];
        }
        expert[place] = (int32_t)e;
        last = choice_value(p, bias, expert[n - 1]);
    }
    return n;
}

/* Only from the groups that fewer than groups_kept others come before. */
static void choose_in_groups(const sy_topk_args *args, const float *p, int32_t *expert)
{
    const int64_t D = args->n_groups, size = args->p.shape[1] / D, K = args->expert.shape[1];
    const int64_t counted = args->by_two && size > 1 ? 2 : 1;
    double value[SY_MAX_GROUPS];
    int64_t n = 0;
    for (int64_t d = 0; d < D; d++) {
        int32_t best[2] = {0, 0};
        choose(p, args->bias.data, d * size, (d + 1) * size, best, counted, 0);
        value[d] = choice_value(p, args->bias.data, best[0]);
        value[d] += counted == 2 ? choice_value(p, args->bias.data, best[1]) : 0;
    }
    for (int64_t d = 0; d < D; d++) {
        int64_t n_before = 0;
        for (int64_t i = 0; i < D; i++) {
            n_before += value[i] > value[d] || (value[i] == value[d] && i < d);
        }
        if (n_before < args->groups_kept) {
            n = choose(p, args->bias.data, d * size, (d + 1) * size, expert, K, n);
        }
    }
}

sy_status sy__cpu_topk(sy_stream *stream, const sy_topk_args *args)
{
    const int64_t T = args->p.shape[0], E = args->p.shape[1], K = args->expert.shape[1];
    const uint8_t *routed = args->routed.data;
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (T * E > SY_CPU_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) {
        int32_t *expert = (int32_t *)args->expert.data + t * K;
        int32_t *token = (int32_t *)args->token.data + t * K;
        for (int64_t k = 0; k < K; k++) {
            token[k] = (int32_t)t;
            expert[k] = -1;
        }
        const float *p = (const float *)args->p.data + t * E;
        const bool skip = routed != NULL && routed[t] == 0;
        if (!skip && args->n_groups > 0) {
            choose_in_groups(args, p, expert);
        } else if (!skip) {
            choose(p, args->bias.data, 0, E, expert, K, 0);
        }
    }
    return SY_OK;
}

/* Sum of p over all choices of a token, dropped ones too; 1 where all are 0. */
static float choice_sum(const float *p, const int32_t *expert, int64_t K)
{
    float sum = 0;
    for (int64_t k = 0; k < K; k++) {
        sum += expert[k] < 0 ? 0.0F : p[expert[k]];
    }
    return sum == 0.0F ? 1.0F : sum;
}

sy_status sy__cpu_topk_weigh(sy_stream *stream, const sy_topk_weigh_args *args)
{
    const int64_t T = args->p.shape[0], E = args->p.shape[1], K = args->expert.shape[1];
    const uint8_t *kept = args->kept.data;
    const float scale = (float)args->scale;
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (T * K > SY_CPU_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) {
        const float *p = (const float *)args->p.data + t * E;
        const int32_t *expert = (const int32_t *)args->expert.data + t * K;
        float *weight = (float *)args->weight.data + t * K;
        const float sum = args->normalize ? choice_sum(p, expert, K) : 1.0F;
        for (int64_t k = 0; k < K; k++) {
            const bool keep = expert[k] >= 0 && (kept == NULL || kept[t * K + k] != 0);
            weight[k] = keep ? scale * (p[expert[k]] / sum) : 0.0F;
        }
    }
    return SY_OK;
}

/* <w, g> over the choices, w = p / sum. */
static float choice_mean(const float *p, const int32_t *expert, const float *g, int64_t K,
                         float sum)
{
    float mean = 0;
    for (int64_t k = 0; k < K; k++) {
        mean += expert[k] < 0 ? 0.0F : p[expert[k]] / sum * g[k];
    }
    return mean;
}

/* dz of one token; the four rules differ in what stands before and inside the bracket:
   A w (g - <w, g>), B p (g - <p, g>) on every expert, C s (1 - s) / sum (g - <w, g>), E s (1 - s)
   g. */
static void topk_backward_row(const sy_topk_backward_args *args, int64_t t)
{
    const int64_t E = args->p.shape[1], K = args->expert.shape[1];
    const bool softmax = args->score == SY_SCORE_SOFTMAX;
    const float *p = (const float *)args->p.data + t * E;
    const float *g = (const float *)args->g.data + t * K;
    const int32_t *expert = (const int32_t *)args->expert.data + t * K;
    float *dz = (float *)args->dz.data + t * E;
    const float sum = args->normalize ? choice_sum(p, expert, K) : 1.0F;
    const float mean = args->normalize || softmax ? choice_mean(p, expert, g, K, sum) : 0.0F;
    const float scale = (float)args->scale / sum;
    memset(dz, 0, (size_t)E * sizeof *dz);
    if (softmax && !args->normalize) {
        sy__cpu_scale_run(dz, -scale * mean, p, E);
    }
    for (int64_t k = 0; k < K; k++) {
        if (expert[k] >= 0) {
            const float s = p[expert[k]], slope = softmax ? s : s * (1.0F - s);
            dz[expert[k]] = scale * slope * (g[k] - mean);
        }
    }
}

sy_status sy__cpu_topk_backward(sy_stream *stream, const sy_topk_backward_args *args)
{
    const int64_t T = args->p.shape[0], E = args->p.shape[1], K = args->expert.shape[1];
    const int32_t *expert = args->expert.data;
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (T * E > SY_CPU_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) {
        if (K > 0 && expert[t * K] >= 0) {
            topk_backward_row(args, t);
        } else {
            memset((float *)args->dz.data + t * E, 0, (size_t)E * sizeof(float));
        }
    }
    return SY_OK;
}

sy_status sy__cpu_share_kept(sy_stream *stream, const sy_share_kept_args *args)
{
    const int64_t T = args->weight.shape[0], K = args->weight.shape[1];
    const float scale = (float)args->scale;
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (T * K > SY_CPU_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) {
        const uint8_t *kept = (const uint8_t *)args->kept.data + t * K;
        float *weight = (float *)args->weight.data + t * K, sum = 0;
        for (int64_t k = 0; k < K; k++) {
            sum += kept[k] != 0 ? weight[k] : 0.0F;
        }
        for (int64_t k = 0; k < K; k++) {
            weight[k] = kept[k] != 0 && sum > 0 ? scale * (weight[k] / sum) : 0.0F;
        }
        ((float *)args->sum.data)[t] = sum;
    }
    return SY_OK;
}

sy_status sy__cpu_share_kept_backward(sy_stream *stream, const sy_share_kept_backward_args *args)
{
    const int64_t T = args->g.shape[0], K = args->g.shape[1];
    const float scale = (float)args->scale;
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (T * K > SY_CPU_PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) {
        const uint8_t *kept = (const uint8_t *)args->kept.data + t * K;
        const float *weight = (const float *)args->weight.data + t * K;
        const float sum = ((const float *)args->sum.data)[t];
        float *g = (float *)args->g.data + t * K, along = 0;
        for (int64_t k = 0; k < K; k++) {
            along += weight[k] * g[k];
        }
        for (int64_t k = 0; k < K; k++) {
            g[k] = kept[k] != 0 && sum > 0 ? (scale * g[k] - along) / sum : 0.0F;
        }
    }
    return SY_OK;
}

/* Counts and statistics of routing, balance loss and z-loss (docs/NUMERICS.md 3). Sums over
   tokens: blocks of a fixed number of tokens in double, added in ascending order. */
#include "backend/cpu/tile_impl.h"

#include <float.h>
#include <math.h>

#include "backend/cpu/vmath_impl.h"

enum { TOKEN_BLOCK = 256 };

/* Two sums over the tokens of a block. */
typedef struct pair {
    double first, second;
} pair;

static sy_status require_pairs_fit(int64_t T, int64_t other_bytes)
{
    sy_status st = SY_OK;
    const int64_t bytes = sy__cpu_blocks(T, TOKEN_BLOCK) * (int64_t)sizeof(pair) + other_bytes;
    SY_REQUIRE(bytes <= SY_WORKSPACE_BYTES, SY_ERR_UNSUPPORTED,
               "statistics of %lld routed tokens need more than the workspace of the cpu backend; "
               "use smaller micro-batches",
               (long long)T);
cleanup:
    return st;
}

static float sum_run(const float *x, int64_t n)
{
    float sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += x[i];
    }
    return sum;
}

static void add_pairs(const pair *block, int64_t n, double factor, double *sums)
{
    pair total = {0, 0};
    for (int64_t b = 0; b < n; b++) {
        total.first += block[b].first;
        total.second += block[b].second;
    }
    sums[0] += factor * total.first;
    sums[1] += factor * total.second;
}

sy_status sy__cpu_expert_count(sy_stream *stream, const sy_expert_count_args *args)
{
    (void)stream;
    const int64_t N = sy_tensor_numel(&args->expert);
    const int64_t n_scopes = args->count.shape[0], E = args->count.shape[1];
    const int32_t *expert = args->expert.data;
    int64_t *count = args->count.data;
    memset(count, 0, (size_t)(n_scopes * E) * sizeof *count);
    for (int64_t s = 0; s < n_scopes; s++) {
        for (int64_t i = s * (N / n_scopes); i < (s + 1) * (N / n_scopes); i++) {
            if (expert[i] >= 0) {
                count[s * E + expert[i]]++;
            }
        }
    }
    return SY_OK;
}

/* Sum of p and, in *plogp, of p log p; a p below the normal numbers adds nothing to the latter. */
SY_CPU_CLONES static float entropy_run(const float *p, int64_t n, float *plogp)
{
    float sum_lane[SY_CPU_LANES] = {0}, log_lane[SY_CPU_LANES] = {0};
    int64_t i = 0;
    for (; i + SY_CPU_LANES <= n; i += SY_CPU_LANES) {
        for (int l = 0; l < SY_CPU_LANES; l++) {
            const float x = p[i + l];
            sum_lane[l] += x;
            log_lane[l] += x >= FLT_MIN ? x * sy__log(x) : 0.0F;
        }
    }
    for (int l = 0; i + l < n; l++) {
        const float x = p[i + l];
        sum_lane[l] += x;
        log_lane[l] += x >= FLT_MIN ? x * sy__log(x) : 0.0F;
    }
    *plogp = sy__fold(log_lane);
    return sy__fold(sum_lane);
}

/* Entropy of p / sum p in nats, and the largest p, over the routed tokens of a block. */
static pair stats_of_block(const sy_router_stats_args *args, int64_t first, int64_t end)
{
    const int64_t E = args->p.shape[1], K = args->expert.shape[1];
    const int32_t *expert = args->expert.data;
    pair sums = {0, 0};
    for (int64_t t = first; t < end; t++) {
        if (K == 0 || expert[t * K] < 0) {
            continue;
        }
        const float *p = (const float *)args->p.data + t * E;
        float plogp;
        const double sum = (double)entropy_run(p, E, &plogp);
        sums.first += log(sum) - (double)plogp / sum;
        sums.second += (double)sy__cpu_max_run(p, E);
    }
    return sums;
}

/* Where in their sequences the dropped choices stand. */
static void count_dropped(const sy_router_stats_args *args)
{
    const int64_t K = args->expert.shape[1], n_parts = args->dropped_at.shape[0];
    const int32_t *expert = args->expert.data;
    const uint8_t *kept = args->kept.data;
    int64_t *dropped_at = args->dropped_at.data;
    for (int64_t t = 0; t < args->expert.shape[0] && kept != NULL && dropped_at != NULL; t++) {
        int64_t n = 0;
        for (int64_t k = t * K; k < (t + 1) * K; k++) {
            n += expert[k] >= 0 && kept[k] == 0;
        }
        if (n > 0) {
            dropped_at[t % args->S * n_parts / args->S] += n;
        }
    }
}

sy_status sy__cpu_router_stats(sy_stream *stream, const sy_router_stats_args *args)
{
    sy_status st = SY_OK;
    const int64_t T = args->p.shape[0], E = args->p.shape[1], N = sy_tensor_numel(&args->expert);
    const int32_t *expert = args->expert.data;
    const uint8_t *kept = args->kept.data;
    int64_t *load = args->load.data, *kept_load = args->kept_load.data;
    SY_TRY(require_pairs_fit(T, 0));
    for (int64_t i = 0; i < N; i++) {
        if (expert[i] >= 0) {
            load[expert[i]]++;
            kept_load[expert[i]] += kept == NULL || kept[i] != 0;
        }
    }
    count_dropped(args);
    const int64_t n_blocks = sy__cpu_blocks(T, TOKEN_BLOCK);
    pair *block = sy_stream_workspace(stream);
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (T * E > SY_CPU_PARALLEL_MIN / 4)
    for (int64_t b = 0; b < n_blocks; b++) {
        block[b] = stats_of_block(args, b * TOKEN_BLOCK, sy__cpu_min(T, (b + 1) * TOKEN_BLOCK));
    }
    add_pairs(block, n_blocks, 1.0, args->sums.data);
cleanup:
    return st;
}

/* Has the token, before its choice k, chosen another expert of that one's group of n? */
static bool visited_before(const int32_t *expert, int64_t k, int64_t n)
{
    for (int64_t j = 0; j < k; j++) {
        if (expert[j] >= 0 && expert[j] / n == expert[k] / n) {
            return true;
        }
    }
    return false;
}

/* Choices and visits of each group, and what a score of its experts costs. */
static void group_costs(const sy_group_loss_args *args, float *cost)
{
    const int64_t D = args->count.shape[1], n = args->p.shape[1] / D, K = args->expert.shape[1];
    int64_t *choices = args->count.data, *visits = choices + D, total = 0;
    memset(choices, 0, (size_t)(2 * D) * sizeof *choices);
    for (int64_t t = 0; t < args->expert.shape[0]; t++) {
        const int32_t *expert = (const int32_t *)args->expert.data + t * K;
        for (int64_t k = 0; k < K; k++) {
            if (expert[k] >= 0) {
                choices[expert[k] / n]++;
                visits[expert[k] / n] += !visited_before(expert, k, n);
                total++;
            }
        }
    }
    for (int64_t d = 0; d < D && total > 0; d++) { /* total = K N */
        const double by_visits = args->visits_coeff * (double)K / args->groups_kept;
        cost[d] =
            (float)((args->choices_coeff * (double)choices[d] + by_visits * (double)visits[d]) *
                    (double)D / (double)total);
    }
}

/* Adds one token's gradient; returns <cost, p>. */
static double group_token(const sy_group_loss_args *args, const float *cost, int64_t t)
{
    const int64_t E = args->p.shape[1], D = args->count.shape[1], n = E / D;
    const float *p = (const float *)args->p.data + t * E;
    float *dz = (float *)args->dz.data + t * E, mean = 0;
    for (int64_t d = 0; d < D; d++) {
        mean += cost[d] * sum_run(p + d * n, n);
    }
    for (int64_t d = 0; d < D; d++) {
        const float slope = (float)args->per_token * (cost[d] - mean);
        for (int64_t e = d * n; e < (d + 1) * n; e++) {
            dz[e] += slope * p[e];
        }
    }
    return (double)mean;
}

sy_status sy__cpu_group_loss(sy_stream *stream, const sy_group_loss_args *args)
{
    sy_status st = SY_OK;
    const int64_t T = args->p.shape[0], E = args->p.shape[1], K = args->expert.shape[1];
    const int64_t n_blocks = sy__cpu_blocks(T, TOKEN_BLOCK);
    const int32_t *expert = args->expert.data;
    double sums[2] = {0, 0};
    SY_TRY(require_pairs_fit(T, E * (int64_t)sizeof(float)));
    pair *block = sy_stream_workspace(stream);
    float *cost = (float *)(void *)(block + n_blocks);
    group_costs(args, cost);
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (T * E > SY_CPU_PARALLEL_MIN / 4)
    for (int64_t b = 0; b < n_blocks; b++) {
        block[b] = (pair){0, 0};
        for (int64_t t = b * TOKEN_BLOCK; t < sy__cpu_min(T, (b + 1) * TOKEN_BLOCK); t++) {
            if (K > 0 && expert[t * K] >= 0) {
                block[b].first += group_token(args, cost, t);
            }
        }
    }
    add_pairs(block, n_blocks, args->per_token, sums);
    *(double *)args->sums.data += sums[0];
cleanup:
    return st;
}

/* f [n_scopes, E]: each expert's share of the choices of its scope, times its cost. */
static void load_fractions(const sy_tensor *count, const float *cost, float *f)
{
    const int64_t n_scopes = count->shape[0], E = count->shape[1];
    for (int64_t s = 0; s < n_scopes; s++) {
        const int64_t *n = (const int64_t *)count->data + s * E;
        int64_t total = 0;
        for (int64_t e = 0; e < E; e++) {
            total += n[e];
        }
        for (int64_t e = 0; e < E; e++) {
            f[s * E + e] = total == 0 ? 0.0F : (float)((double)n[e] / (double)total);
            f[s * E + e] *= cost != NULL ? cost[e] : 1.0F;
        }
    }
}

/* dz += balance * slope * (f - mean) + peak * softmax(z), slope p or p (1 - p). */
SY_CPU_CLONES static void balance_softmax_run(float *dz, const float *p, const float *f, float mean,
                                              float balance, float peak, int64_t n)
{
#pragma GCC ivdep
    for (int64_t e = 0; e < n; e++) {
        dz[e] += p[e] * (balance * (f[e] - mean) + peak);
    }
}

SY_CPU_CLONES static void balance_sigmoid_run(float *dz, const float *p, const float *f, float mean,
                                              float balance, int64_t n)
{
#pragma GCC ivdep
    for (int64_t e = 0; e < n; e++) {
        dz[e] += balance * (p[e] * (1.0F - p[e])) * (f[e] - mean);
    }
}

SY_CPU_CLONES static void peak_run(float *dz, const float *z, float lse, float peak, int64_t n)
{
#pragma GCC ivdep
    for (int64_t e = 0; e < n; e++) {
        dz[e] += peak * sy__exp(z[e] - lse);
    }
}

/* Adds one token's gradient; returns E <f, q> and lse^2. */
static pair balance_token(const sy_balance_loss_args *args, const float *f, int64_t t)
{
    const int64_t E = args->p.shape[1];
    const float *p = (const float *)args->p.data + t * E;
    const float lse = ((const float *)args->lse.data)[t];
    float *dz = (float *)args->dz.data + t * E;
    const bool softmax = args->score == SY_SCORE_SOFTMAX;
    const float sum = softmax ? 1.0F : sum_run(p, E);
    const float mean = sy__cpu_dot_run(f, p, E) / sum;
    const float balance = (float)(args->aux_coeff * args->per_token * (double)E) / sum;
    const float peak = (float)(args->z_coeff * args->per_token * 2.0 * (double)lse);
    if (softmax) {
        balance_softmax_run(dz, p, f, mean, balance, peak, E);
    } else {
        balance_sigmoid_run(dz, p, f, mean, balance, E);
        peak_run(dz, (const float *)args->z.data + t * E, lse, peak, E);
    }
    return (pair){(double)E * (double)mean, (double)lse * (double)lse};
}

sy_status sy__cpu_balance_loss(sy_stream *stream, const sy_balance_loss_args *args)
{
    sy_status st = SY_OK;
    const int64_t T = args->p.shape[0], E = args->p.shape[1], n_scopes = args->count.shape[0];
    const int64_t n_blocks = sy__cpu_blocks(T, TOKEN_BLOCK);
    const uint8_t *routed = args->routed.data;
    SY_TRY(require_pairs_fit(T, n_scopes * E * (int64_t)sizeof(float)));
    pair *block = sy_stream_workspace(stream);
    float *f = (float *)(void *)(block + n_blocks);
    load_fractions(&args->count, args->cost.data, f);
    const int threads = sy__cpu_threads(stream);
#pragma omp parallel for num_threads(threads) schedule(static) if (T * E > SY_CPU_PARALLEL_MIN / 4)
    for (int64_t b = 0; b < n_blocks; b++) {
        block[b] = (pair){0, 0};
        for (int64_t t = b * TOKEN_BLOCK; t < sy__cpu_min(T, (b + 1) * TOKEN_BLOCK); t++) {
            if (routed == NULL || routed[t] != 0) {
                const pair token = balance_token(args, f + t / (T / n_scopes) * E, t);
                block[b].first += token.first;
                block[b].second += token.second;
            }
        }
    }
    add_pairs(block, n_blocks, args->per_token, args->sums.data);
cleanup:
    return st;
}

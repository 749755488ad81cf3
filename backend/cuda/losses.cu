/* Counts and statistics of routing, balance loss and z-loss (docs/NUMERICS.md 3). Integers are
   added atomically, which has no order to depend on; sums of floats are kept per block and then
   added in order. */
#include "backend/cuda/kernel_impl.cuh"

namespace
{

enum { WARPS = 8, THREADS = 32 * WARPS };

__device__ inline int lane()
{
    return (int)threadIdx.x % 32;
}

__device__ inline void count_up(int64_t *at)
{
    atomicAdd(reinterpret_cast<unsigned long long *>(at), 1ull);
}

/* Two sums of a block's tokens, from lane 0 of each warp. */
__device__ inline void leave_sums(double *part, double first, double second)
{
    first = block_sum(lane() == 0 ? first : 0.0);
    second = block_sum(lane() == 0 ? second : 0.0);
    if (threadIdx.x == 0) {
        part[2 * blockIdx.x] = first;
        part[2 * blockIdx.x + 1] = second;
    }
}

/* sums [2], or the first of them alone, += the parts; one block. */
__global__ void total_kernel(const double *part, int64_t n_parts, double *sums, bool both)
{
    double first = 0, second = 0;
    for (int64_t i = threadIdx.x; i < n_parts; i += blockDim.x) {
        first += part[2 * i];
        second += part[2 * i + 1];
    }
    first = block_sum(first);
    second = block_sum(second);
    if (threadIdx.x == 0) {
        sums[0] += first;
        if (both) {
            sums[1] += second;
        }
    }
}

__global__ void count_kernel(const int32_t *expert, int64_t *count, int64_t n, int64_t per_scope,
                             int64_t E)
{
    const int64_t i = grid_index();
    if (i < n && expert[i] >= 0) {
        count_up(&count[i / per_scope * E + expert[i]]);
    }
}

/* Choices by expert, kept ones, and where in their sequences the dropped ones stand. */
struct loads {
    int64_t *all, *kept, *dropped_at; /* dropped_at [n_parts], or NULL */
    int64_t n_parts, S;
};

/* Choice i, of token t. */
__device__ inline void count_choice(const int32_t *expert, const uint8_t *kept, const loads &l,
                                    int64_t i, int64_t t)
{
    count_up(&l.all[expert[i]]);
    if (!kept || kept[i]) {
        count_up(&l.kept[expert[i]]);
    } else if (l.dropped_at) {
        count_up(&l.dropped_at[t % l.S * l.n_parts / l.S]);
    }
}

__global__ void stats_kernel(const float *p, const int32_t *expert, const uint8_t *kept, loads l,
                             int64_t n_tokens, int32_t E, int32_t K, double *part)
{
    const int64_t t = grid_index() / 32;
    const bool routed = t < n_tokens && K > 0 && expert[t * K] >= 0;
    float sum = 0, entropy = 0, max = 0;
    for (int k = lane(); k < K && t < n_tokens; k += 32) {
        if (expert[t * K + k] >= 0) {
            count_choice(expert, kept, l, t * K + k, t);
        }
    }
    for (int e = lane(); e < E && routed; e += 32) {
        sum += p[t * E + e];
        max = fmaxf(max, p[t * E + e]);
    }
    sum = warp_sum(sum);
    max = warp_max(max);
    for (int e = lane(); e < E && routed; e += 32) {
        const float q = p[t * E + e] / sum;
        entropy -= q > 0 ? q * logf(q) : 0;
    }
    leave_sums(part, warp_sum(entropy), max);
}

struct coefficients {
    float aux, z, per_token; /* aux and z with per_token in them */
    bool sigmoids;
};

__global__ void balance_kernel(const float *z, const float *p, const float *lse,
                               const uint8_t *routed, const int64_t *count, const float *cost,
                               float *dz, int64_t n_tokens, int32_t E, int64_t per_scope,
                               coefficients c, double *part)
{
    const int64_t t = grid_index() / 32;
    const bool used = t < n_tokens && (!routed || routed[t]);
    const int64_t *mine = count + (used ? t / per_scope * E : 0);
    int64_t n_choices = 0;
    float sum = 0, mean_f = 0;
    for (int e = lane(); e < E && used; e += 32) {
        n_choices += mine[e];
        sum += p[t * E + e];
    }
    n_choices = warp_sum(n_choices);
    sum = c.sigmoids ? warp_sum(sum) : 1;
    const float share = n_choices > 0 ? 1 / (float)n_choices : 0;
    for (int e = lane(); e < E && used; e += 32) {
        mean_f += (float)mine[e] * share * (cost ? cost[e] : 1) * p[t * E + e] / sum;
    }
    mean_f = warp_sum(mean_f);
    const float l = used ? lse[t] : 0;
    for (int e = lane(); e < E && used; e += 32) {
        const float q = p[t * E + e];
        const float slope = c.sigmoids ? q * (1 - q) / sum : q;
        const float f = (float)mine[e] * share * (cost ? cost[e] : 1);
        const float balance = c.aux * (float)E * slope * (f - mean_f);
        dz[t * E + e] += balance + c.z * 2 * l * expf(z[t * E + e] - l);
    }
    leave_sums(part, used ? (double)c.per_token * E * mean_f : 0,
               used ? (double)c.per_token * l * l : 0);
}

/* h and v of sy_group_loss_args; one thread per choice. */
__global__ void groups_kernel(const int32_t *expert, int64_t *choices, int64_t *visits, int64_t n,
                              int32_t K, int32_t size)
{
    const int64_t i = grid_index();
    if (i >= n || expert[i] < 0) {
        return;
    }
    const int group = expert[i] / size;
    bool first = true;
    for (int64_t j = i - i % K; j < i; j++) {
        first = first && (expert[j] < 0 || expert[j] / size != group);
    }
    count_up(&choices[group]);
    if (first) {
        count_up(&visits[group]);
    }
}

struct group_costs {
    const int64_t *choices, *visits;
    int32_t n, size;             /* groups, experts in one */
    float by_choices, by_visits; /* the coefficients times n, the latter times K / groups_kept */
};

/* c of the group of expert e times all choices. */
__device__ inline float cost_of(const group_costs &g, int e)
{
    const int d = e / g.size;
    return g.by_choices * (float)g.choices[d] + g.by_visits * (float)g.visits[d];
}

__global__ void group_loss_kernel(const float *p, const int32_t *expert, float *dz,
                                  int64_t n_tokens, int32_t E, int32_t K, group_costs g,
                                  float per_token, double *part)
{
    const int64_t t = grid_index() / 32;
    const bool routed = t < n_tokens && K > 0 && expert[t * K] >= 0;
    int64_t n_choices = 0;
    float mean = 0;
    for (int d = lane(); d < g.n && routed; d += 32) {
        n_choices += g.choices[d];
    }
    const float share = 1 / (float)warp_sum(n_choices);
    for (int e = lane(); e < E && routed; e += 32) {
        mean += share * cost_of(g, e) * p[t * E + e];
    }
    mean = warp_sum(mean);
    for (int e = lane(); e < E && routed; e += 32) {
        dz[t * E + e] += per_token * p[t * E + e] * (share * cost_of(g, e) - mean);
    }
    leave_sums(part, routed ? (double)per_token * mean : 0, 0);
}

sy_status add_parts(sy_stream *stream, unsigned n_parts, const sy_tensor &sums)
{
    return launch(stream, "sums of a loss", n_parts > 0, THREADS, 0, total_kernel,
                  (double *)stream->workspace, (int64_t)n_parts, data<double>(sums),
                  sums.shape[0] > 1);
}

} // namespace

sy_status sy__cuda_expert_count(sy_stream *stream, const sy_expert_count_args *args)
{
    sy_status st = SY_OK;
    const int64_t n = args->expert.shape[0], n_scopes = args->count.shape[0];
    SY_TRY(sy__cuda_zero(stream, args->count.data, sy_tensor_bytes(&args->count)));
    SY_TRY(launch(stream, "expert_count", blocks_for(n, THREADS), THREADS, 0, count_kernel,
                  data<int32_t>(args->expert), data<int64_t>(args->count), n,
                  n_scopes > 0 ? n / n_scopes : 1, args->count.shape[1]));
cleanup:
    return st;
}

sy_status sy__cuda_router_stats(sy_stream *stream, const sy_router_stats_args *args)
{
    sy_status st = SY_OK;
    const int64_t n_tokens = args->p.shape[0];
    const unsigned n_blocks = blocks_for(n_tokens, WARPS);
    const loads l = {data<int64_t>(args->load), data<int64_t>(args->kept_load),
                     data<int64_t>(args->dropped_at), args->dropped_at.shape[0],
                     args->S > 0 ? args->S : 1};
    SY_TRY(require_workspace("router_stats", (int64_t)n_blocks * 16));
    SY_TRY(launch(stream, "router_stats", n_blocks, THREADS, 0, stats_kernel, data<float>(args->p),
                  data<int32_t>(args->expert), data<uint8_t>(args->kept), l, n_tokens,
                  (int32_t)args->p.shape[1], (int32_t)args->expert.shape[1],
                  (double *)stream->workspace));
    SY_TRY(add_parts(stream, n_blocks, args->sums));
cleanup:
    return st;
}

sy_status sy__cuda_balance_loss(sy_stream *stream, const sy_balance_loss_args *args)
{
    sy_status st = SY_OK;
    const int64_t n_tokens = args->p.shape[0], n_scopes = args->count.shape[0];
    const unsigned n_blocks = blocks_for(n_tokens, WARPS);
    const double per = args->per_token;
    const coefficients c = {(float)(per * args->aux_coeff), (float)(per * args->z_coeff),
                            (float)per, args->score == SY_SCORE_SIGMOID};
    SY_TRY(require_workspace("balance_loss", (int64_t)n_blocks * 16));
    SY_TRY(launch(stream, "balance_loss", n_blocks, THREADS, 0, balance_kernel,
                  data<float>(args->z), data<float>(args->p), data<float>(args->lse),
                  data<uint8_t>(args->routed), data<int64_t>(args->count), data<float>(args->cost),
                  data<float>(args->dz), n_tokens, (int32_t)args->p.shape[1],
                  n_scopes > 0 ? n_tokens / n_scopes : 1, c, (double *)stream->workspace));
    SY_TRY(add_parts(stream, n_blocks, args->sums));
cleanup:
    return st;
}

sy_status sy__cuda_group_loss(sy_stream *stream, const sy_group_loss_args *args)
{
    sy_status st = SY_OK;
    const int64_t n_tokens = args->p.shape[0], n = sy_tensor_numel(&args->expert);
    const int32_t E = (int32_t)args->p.shape[1], K = (int32_t)args->expert.shape[1];
    const int32_t D = (int32_t)args->count.shape[1];
    const unsigned n_blocks = blocks_for(n_tokens, WARPS);
    int64_t *choices = data<int64_t>(args->count), *visits = choices + D;
    const group_costs g = {choices,
                           visits,
                           D,
                           E / D,
                           (float)(D * args->choices_coeff),
                           (float)(D * args->visits_coeff * K / args->groups_kept)};
    SY_TRY(require_workspace("group_loss", (int64_t)n_blocks * 16));
    SY_TRY(sy__cuda_zero(stream, choices, sy_tensor_bytes(&args->count)));
    SY_TRY(launch(stream, "group_loss", blocks_for(n, THREADS), THREADS, 0, groups_kernel,
                  data<int32_t>(args->expert), choices, visits, n, K, g.size));
    SY_TRY(launch(stream, "group_loss", n_blocks, THREADS, 0, group_loss_kernel,
                  data<float>(args->p), data<int32_t>(args->expert), data<float>(args->dz),
                  n_tokens, E, K, g, (float)args->per_token, (double *)stream->workspace));
    SY_TRY(add_parts(stream, n_blocks, args->sums));
cleanup:
    return st;
}

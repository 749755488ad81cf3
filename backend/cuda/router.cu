/* The router: scores, choice, combine weights and their gradient. One warp per token. */
#include "backend/cuda/kernel_impl.cuh"

namespace
{

enum { WARPS = 8, THREADS = 32 * WARPS };

__device__ inline int64_t token_of_warp()
{
    return grid_index() / 32;
}

__device__ inline int lane()
{
    return (int)threadIdx.x % 32;
}

/* ---- scores ---- */

__global__ void scores_kernel(const float *z, float *p, float *lse, int64_t n_tokens, int32_t E,
                              bool sigmoids)
{
    const int64_t t = token_of_warp();
    if (t >= n_tokens) {
        return; /* the whole warp */
    }
    const float *row = z + t * E;
    float max = -INFINITY, sum = 0;
    for (int e = lane(); e < E; e += 32) {
        max = fmaxf(max, row[e]);
    }
    max = warp_max(max);
    for (int e = lane(); e < E; e += 32) {
        sum += expf(row[e] - max);
    }
    sum = warp_sum(sum);
    if (lane() == 0) {
        lse[t] = max + logf(sum);
    }
    for (int e = lane(); e < E; e += 32) {
        p[t * E + e] = sigmoids ? sigmoid(row[e]) : expf(row[e] - max) / sum;
    }
}

/* ---- choice ---- */

struct candidate {
    float value;
    int32_t expert;
};

/* Does a come before b? The larger value, of equals the lower expert. */
__device__ inline bool before(candidate a, candidate b)
{
    return a.value > b.value || (a.value == b.value && a.expert < b.expert);
}

__device__ inline candidate warp_first(candidate c)
{
    for (int i = 16; i > 0; i /= 2) {
        const candidate other = {__shfl_xor_sync(~0u, c.value, i),
                                 __shfl_xor_sync(~0u, c.expert, i)};
        c = before(other, c) ? other : c;
    }
    return c;
}

/* The better of `best` and the first of this lane's experts that come after the last one: nothing
 * need be marked. */
__device__ inline candidate next_of(const float *p, const float *bias, int first, int end,
                                    candidate last, candidate best)
{
    for (int e = first + lane(); e < end; e += 32) {
        candidate c = {p[e] + (bias ? bias[e] : 0), e};
        c.value = c.value == c.value ? c.value : -INFINITY;
        best = before(last, c) && before(c, best) ? c : best;
    }
    return best;
}

__global__ void topk_kernel(const float *p, const float *bias, const uint8_t *routed,
                            int32_t *expert, int32_t *token, int64_t n_tokens, int32_t E, int32_t K)
{
    const int64_t t = token_of_warp();
    if (t >= n_tokens) {
        return;
    }
    const bool skip = routed && !routed[t];
    candidate last = {INFINITY, -1};
    for (int k = 0; k < K; k++) {
        last = warp_first(next_of(p + t * E, bias, 0, E, last, {-INFINITY, E}));
        if (lane() == 0) {
            expert[t * K + k] = skip ? -1 : last.expert;
            token[t * K + k] = (int32_t)t;
        }
    }
}

struct groups {
    int32_t n, kept, size; /* size: experts in one */
    bool by_two;
};

/* What a group counts by; the same in every lane. */
__device__ inline float group_value(const float *p, const float *bias, int first, groups g)
{
    const int end = first + g.size;
    const candidate a = warp_first(next_of(p, bias, first, end, {INFINITY, -1}, {-INFINITY, end}));
    if (!g.by_two || g.size == 1) {
        return a.value;
    }
    return a.value + warp_first(next_of(p, bias, first, end, a, {-INFINITY, end})).value;
}

/* The last of the kept groups: groups are chosen as experts are, and all up to it are kept. */
__device__ inline candidate last_kept(const float *value, groups g)
{
    candidate last = {INFINITY, -1};
    for (int i = 0; i < g.kept; i++) {
        last = warp_first(next_of(value, nullptr, 0, g.n, last, {-INFINITY, g.n}));
    }
    return last;
}

__global__ void grouped_topk_kernel(const float *p, const float *bias, const uint8_t *routed,
                                    int32_t *expert, int32_t *token, int64_t n_tokens, int32_t E,
                                    int32_t K, groups g)
{
    SY__DYNAMIC_SHARED(float, shared); /* [WARPS, g.n] */
    float *value = shared + threadIdx.x / 32 * (unsigned)g.n;
    const int64_t t = token_of_warp();
    if (t >= n_tokens) {
        return;
    }
    const bool skip = routed && !routed[t];
    for (int d = 0; d < g.n; d++) {
        const float v = group_value(p + t * E, bias, d * g.size, g);
        if (lane() == 0) {
            value[d] = v;
        }
    }
    __syncwarp();
    const candidate worst = last_kept(value, g);
    candidate last = {INFINITY, -1};
    for (int k = 0; k < K; k++) {
        candidate best = {-INFINITY, E};
        for (int d = 0; d < g.n; d++) {
            if (!before(worst, {value[d], d})) {
                best = next_of(p + t * E, bias, d * g.size, (d + 1) * g.size, last, best);
            }
        }
        last = warp_first(best);
        if (lane() == 0) {
            expert[t * K + k] = skip ? -1 : last.expert;
            token[t * K + k] = (int32_t)t;
        }
    }
}

/* ---- weights ---- */

/* Sum of p over a token's choices, dropped ones too; 1 where all are 0; the same in every lane. */
__device__ inline float choice_sum(const float *p, const int32_t *expert, int32_t K)
{
    float sum = 0;
    for (int k = 0; k < K; k++) {
        sum += expert[k] >= 0 ? p[expert[k]] : 0;
    }
    return sum == 0 ? 1 : sum;
}

__global__ void weigh_kernel(const float *p, const int32_t *expert, const uint8_t *kept,
                             float *weight, int64_t n_tokens, int32_t E, int32_t K, bool normalize,
                             float scale)
{
    const int64_t t = grid_index();
    if (t >= n_tokens) {
        return;
    }
    const int32_t *mine = expert + t * K;
    const float sum = normalize ? choice_sum(p + t * E, mine, K) : 1;
    for (int k = 0; k < K; k++) {
        const bool keep = mine[k] >= 0 && (!kept || kept[t * K + k]);
        weight[t * K + k] = keep ? scale * p[t * E + mine[k]] / sum : 0;
    }
}

/* First dL/dp over all experts, then through the score: softmax dz = p (dp - <p, dp>), sigmoid dz =
   p (1 - p) dp. */
__global__ void topk_backward_kernel(const float *p, const int32_t *expert, const float *g,
                                     float *dz, int64_t n_tokens, int32_t E, int32_t K,
                                     bool sigmoids, bool normalize, float scale)
{
    const int64_t t = token_of_warp();
    if (t >= n_tokens) {
        return;
    }
    const int32_t *mine = expert + t * K;
    const float *row = p + t * E;
    const bool routed = K > 0 && mine[0] >= 0;
    const float sum = normalize && routed ? choice_sum(row, mine, K) : 1;
    float mean_g = 0, inner = 0; /* mean_g: the path through the sum */
    for (int k = 0; k < K && normalize; k++) {
        mean_g += mine[k] >= 0 ? row[mine[k]] / sum * g[t * K + k] : 0;
    }
    for (int k = 0; k < K && !sigmoids; k++) {
        inner += mine[k] >= 0 ? row[mine[k]] * (scale / sum * (g[t * K + k] - mean_g)) : 0;
    }
    for (int e = lane(); e < E; e += 32) {
        float dp = 0;
        for (int k = 0; k < K; k++) {
            dp = mine[k] == e ? scale / sum * (g[t * K + k] - mean_g) : dp;
        }
        const float slope = sigmoids ? row[e] * (1 - row[e]) : row[e];
        dz[t * E + e] = routed ? slope * (dp - inner) : 0;
    }
}

__global__ void share_kept_kernel(float *weight, const uint8_t *kept, float *sums, int64_t n_tokens,
                                  int32_t K, float scale)
{
    const int64_t t = grid_index();
    if (t >= n_tokens) {
        return;
    }
    float sum = 0;
    for (int64_t i = t * K; i < (t + 1) * K; i++) {
        sum += kept[i] ? weight[i] : 0;
    }
    for (int64_t i = t * K; i < (t + 1) * K; i++) {
        weight[i] = kept[i] && sum > 0 ? scale * (weight[i] / sum) : 0;
    }
    sums[t] = sum;
}

__global__ void share_kept_backward_kernel(const float *weight, const uint8_t *kept,
                                           const float *sums, float *g, int64_t n_tokens, int32_t K,
                                           float scale)
{
    const int64_t t = grid_index();
    if (t >= n_tokens) {
        return;
    }
    const float sum = sums[t];
    float along = 0;
    for (int64_t i = t * K; i < (t + 1) * K; i++) {
        along += weight[i] * g[i];
    }
    for (int64_t i = t * K; i < (t + 1) * K; i++) {
        g[i] = kept[i] && sum > 0 ? (scale * g[i] - along) / sum : 0;
    }
}

} // namespace

sy_status sy__cuda_router_scores(sy_stream *stream, const sy_router_scores_args *args)
{
    const int64_t n_tokens = args->z.shape[0];
    return launch(stream, "router_scores", blocks_for(n_tokens, WARPS), THREADS, 0, scores_kernel,
                  data<float>(args->z), data<float>(args->p), data<float>(args->lse), n_tokens,
                  (int32_t)args->z.shape[1], args->score == SY_SCORE_SIGMOID);
}

sy_status sy__cuda_topk(sy_stream *stream, const sy_topk_args *args)
{
    const int64_t n_tokens = args->p.shape[0];
    if (args->n_groups > 0) {
        const groups g = {args->n_groups, args->groups_kept,
                          (int32_t)args->p.shape[1] / args->n_groups, args->by_two};
        return launch(stream, "topk", blocks_for(n_tokens, WARPS), THREADS,
                      (size_t)WARPS * (size_t)g.n * sizeof(float), grouped_topk_kernel,
                      data<float>(args->p), data<float>(args->bias), data<uint8_t>(args->routed),
                      data<int32_t>(args->expert), data<int32_t>(args->token), n_tokens,
                      (int32_t)args->p.shape[1], (int32_t)args->expert.shape[1], g);
    }
    return launch(stream, "topk", blocks_for(n_tokens, WARPS), THREADS, 0, topk_kernel,
                  data<float>(args->p), data<float>(args->bias), data<uint8_t>(args->routed),
                  data<int32_t>(args->expert), data<int32_t>(args->token), n_tokens,
                  (int32_t)args->p.shape[1], (int32_t)args->expert.shape[1]);
}

sy_status sy__cuda_topk_weigh(sy_stream *stream, const sy_topk_weigh_args *args)
{
    const int64_t n_tokens = args->p.shape[0];
    return launch(stream, "topk_weigh", blocks_for(n_tokens, THREADS), THREADS, 0, weigh_kernel,
                  data<float>(args->p), data<int32_t>(args->expert), data<uint8_t>(args->kept),
                  data<float>(args->weight), n_tokens, (int32_t)args->p.shape[1],
                  (int32_t)args->expert.shape[1], args->normalize, (float)args->scale);
}

sy_status sy__cuda_topk_backward(sy_stream *stream, const sy_topk_backward_args *args)
{
    const int64_t n_tokens = args->p.shape[0];
    return launch(stream, "topk_backward", blocks_for(n_tokens, WARPS), THREADS, 0,
                  topk_backward_kernel, data<float>(args->p), data<int32_t>(args->expert),
                  data<float>(args->g), data<float>(args->dz), n_tokens, (int32_t)args->p.shape[1],
                  (int32_t)args->expert.shape[1], args->score == SY_SCORE_SIGMOID, args->normalize,
                  (float)args->scale);
}

sy_status sy__cuda_share_kept(sy_stream *stream, const sy_share_kept_args *args)
{
    const int64_t n_tokens = args->weight.shape[0];
    return launch(stream, "share_kept", blocks_for(n_tokens, THREADS), THREADS, 0,
                  share_kept_kernel, data<float>(args->weight), data<uint8_t>(args->kept),
                  data<float>(args->sum), n_tokens, (int32_t)args->weight.shape[1],
                  (float)args->scale);
}

sy_status sy__cuda_share_kept_backward(sy_stream *stream, const sy_share_kept_backward_args *args)
{
    const int64_t n_tokens = args->g.shape[0];
    return launch(stream, "share_kept_backward", blocks_for(n_tokens, THREADS), THREADS, 0,
                  share_kept_backward_kernel, data<float>(args->weight), data<uint8_t>(args->kept),
                  data<float>(args->sum), data<float>(args->g), n_tokens, (int32_t)args->g.shape[1],
                  (float)args->scale);
}

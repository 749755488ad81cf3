/* Row orders of an exchange, and places under a capacity. All rest on one thing: the rank of a
   choice among those of its key (expert or wire place), in a given order. Choices are cut into
   chunks; a chunk's keys are counted, the counts summed over the chunks before, and a warp then
   walks each chunk in order. No rank depends on which thread came first. */
#include "backend/cuda/kernel_impl.cuh"

namespace
{

enum { CHUNK = 1024, THREADS = 256, MAX_KEYS = 11 << 10 /* counters in 48 KiB of shared memory */ };

/* The choices and their order: as they stand, or all first ones, then all second ones. */
struct choices {
    const int32_t *expert, *wire; /* wire NULL: the key is the expert */
    const uint8_t *kept;          /* NULL: all */
    int64_t n, n_tokens;          /* n_tokens > 0: column by column */
    int32_t n_keys;
    int32_t *fault;
};

__device__ inline int64_t choice_at(const choices &c, int64_t place)
{
    const int64_t K = c.n_tokens > 0 ? c.n / c.n_tokens : 1;
    return c.n_tokens > 0 ? place % c.n_tokens * K + place / c.n_tokens : place;
}

/* -1: the choice makes no row. */
__device__ inline int32_t key_of(const choices &c, int64_t n)
{
    const int32_t expert = c.expert[n];
    if (expert >= c.n_keys) {
        *c.fault = SY__CUDA_EXPERT_OUT_OF_RANGE;
        return -1;
    }
    return expert < 0 || (c.kept && !c.kept[n]) ? -1 : c.wire ? c.wire[expert] : expert;
}

/* Workspace: counts [n_chunks][n_keys + 1], the last one of all keys together; first [n_keys + 1].
 */
struct ranks {
    int32_t *count;
    int64_t *first;
};

__global__ void count_keys_kernel(choices c, ranks r)
{
    SY__DYNAMIC_SHARED(int32_t, count);
    const int32_t n_counts = c.n_keys + 1;
    for (int32_t i = (int32_t)threadIdx.x; i < n_counts; i += THREADS) {
        count[i] = 0;
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < CHUNK; i += THREADS) {
        const int64_t place = (int64_t)blockIdx.x * CHUNK + i;
        const int32_t key = place < c.n ? key_of(c, choice_at(c, place)) : -1;
        if (key >= 0) {
            atomicAdd(&count[key], 1);
            atomicAdd(&count[c.n_keys], 1);
        }
    }
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x; i < n_counts; i += THREADS) {
        r.count[(int64_t)blockIdx.x * n_counts + i] = count[i];
    }
}

/* x becomes the sum of the x before it, over n elements, by the first warp; returns the total. */
template <class F> __device__ void warp_prefix(int64_t n, F element)
{
    const int lane = (int)threadIdx.x;
    int64_t before = 0;
    for (int64_t i0 = 0; i0 < n; i0 += 32) {
        const int64_t i = i0 + lane;
        const int64_t mine = i < n ? element(i, -1) : 0;
        int64_t sum = mine;
        for (int by = 1; by < 32; by *= 2) {
            const int64_t other = __shfl_up_sync(~0u, sum, by);
            sum += lane >= by ? other : 0;
        }
        if (i < n) {
            element(i, before + sum - mine);
        }
        before += __shfl_sync(~0u, sum, 31);
    }
}

/* Counts become ranks of the chunks' first choices; first: where a key's rows begin, capacity apart
   or close together. One block. */
__global__ void rank_chunks_kernel(ranks r, int64_t n_chunks, int32_t n_keys, int64_t capacity,
                                   int32_t *total, int32_t *fault)
{
    const int32_t n_counts = n_keys + 1;
    for (int32_t key = (int32_t)threadIdx.x; key < n_counts; key += THREADS) {
        int32_t sum = 0;
        for (int64_t chunk = 0; chunk < n_chunks; chunk++) {
            const int32_t here = r.count[chunk * n_counts + key];
            r.count[chunk * n_counts + key] = sum;
            sum += here;
        }
        r.first[key] = sum;
        if (total && key < n_keys) {
            total[key] = sum;
            if (capacity > 0 && sum > capacity) {
                *fault = SY__CUDA_OVER_CAPACITY;
            }
        }
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        warp_prefix(n_keys, [&](int64_t i, int64_t sum) {
            const int64_t size = capacity > 0 ? capacity : r.first[i];
            if (sum >= 0) {
                r.first[i] = sum;
            }
            return size;
        });
    }
}

/* Walk a chunk with one warp: visit(choice, key, rank in the key, rank among all) in order. */
template <class F> __device__ void walk_chunk(const choices &c, const ranks &r, F visit)
{
    SY__DYNAMIC_SHARED(int32_t, next);
    const int32_t n_counts = c.n_keys + 1;
    const int lane = (int)threadIdx.x;
    const unsigned below = (1u << lane) - 1;
    for (int32_t i = lane; i < n_counts; i += 32) {
        next[i] = r.count[(int64_t)blockIdx.x * n_counts + i];
    }
    __syncwarp();
    for (int64_t i = 0; i < CHUNK; i += 32) {
        const int64_t place = (int64_t)blockIdx.x * CHUNK + i + lane;
        const int64_t n = place < c.n ? choice_at(c, place) : 0;
        const int32_t key = place < c.n ? key_of(c, n) : -1;
        const unsigned same = __match_any_sync(~0u, key), any = __ballot_sync(~0u, key >= 0);
        const int32_t rank = key >= 0 ? next[key] + __popc(same & below) : 0;
        const int32_t rank_of_all = next[c.n_keys] + __popc(any & below);
        if (place < c.n) {
            visit(n, key, rank, rank_of_all);
        }
        __syncwarp();
        if (key >= 0 && (same & below) == 0) {
            next[key] += __popc(same);
        }
        if (lane == 0) {
            next[c.n_keys] += __popc(any);
        }
        __syncwarp();
    }
}

sy_status rank(sy_stream *stream, const char *op, const choices &c, int64_t capacity,
               int32_t *total, int64_t more_bytes, ranks *out, void **more)
{
    sy_status st = SY_OK;
    const int64_t n_chunks = blocks_for(c.n, CHUNK), n_counts = c.n_keys + 1;
    const int64_t first_bytes = sy__align_up(n_counts * (int64_t)sizeof(int64_t));
    const int64_t count_bytes = sy__align_up(n_chunks * n_counts * (int64_t)sizeof(int32_t));
    char *workspace = (char *)stream->workspace;
    out->first = (int64_t *)workspace;
    out->count = (int32_t *)(workspace + first_bytes);
    *more = workspace + first_bytes + count_bytes;
    SY_TRY(require_workspace(op, first_bytes + count_bytes + more_bytes));
    SY_REQUIRE(c.n_keys < MAX_KEYS, SY_ERR_UNSUPPORTED, "op %s on cuda takes less than %d experts",
               op, (int)MAX_KEYS);
    SY_TRY(launch(stream, op, (unsigned)n_chunks, THREADS, (size_t)n_counts * sizeof(int32_t),
                  count_keys_kernel, c, *out));
    SY_TRY(launch(stream, op, 1, THREADS, 0, rank_chunks_kernel, *out, n_chunks, c.n_keys, capacity,
                  total, c.fault));
cleanup:
    return st;
}

/* ---- capacity ---- */

__global__ void keep_by_place_kernel(choices c, ranks r, int64_t capacity, uint8_t *kept)
{
    walk_chunk(c, r, [&](int64_t n, int32_t key, int32_t rank, int32_t) {
        kept[n] = key >= 0 && (capacity < 0 || rank < capacity);
    });
}

/* The choices of each expert side by side. */
__global__ void list_by_key_kernel(choices c, ranks r, int32_t *list)
{
    walk_chunk(c, r, [&](int64_t n, int32_t key, int32_t rank, int32_t) {
        if (key >= 0) {
            list[r.first[key] + rank] = (int32_t)n;
        }
    });
}

/* A NaN is the smallest priority. */
__device__ inline float priority_of(const float *priority, int64_t n)
{
    const float x = priority[n];
    return x == x ? x : -INFINITY;
}

/* A choice is kept where fewer than `capacity` of its expert come before it. K > 0: all first
   choices of the K of a token before all second ones, each with the priority of the first. */
__global__ void keep_by_priority_kernel(choices c, ranks r, const int32_t *list,
                                        const int32_t *total, const float *priority, int32_t K,
                                        int64_t capacity, uint8_t *kept)
{
    const int64_t n = grid_index();
    if (n >= c.n) {
        return;
    }
    const int32_t key = key_of(c, n), slot = K > 0 ? (int32_t)(n % K) : 0;
    const float mine = priority_of(priority, n - slot);
    int64_t n_before = 0;
    for (int64_t i = 0; key >= 0 && i < total[key]; i++) {
        const int32_t other = list[r.first[key] + i], other_slot = K > 0 ? other % K : 0;
        const float x = priority_of(priority, other - other_slot);
        const bool better = x > mine || (x == mine && other < n);
        n_before += other_slot < slot || (other_slot == slot && better);
    }
    kept[n] = key >= 0 && n_before < capacity;
}

/* ---- plan ---- */

struct row_lists {
    const int32_t *token;
    int32_t *row_token, *row_choice, *choice_row, *token_start, *token_row;
    int64_t n_tokens, capacity;
};

/* Tokens behind the one of choice n - 1, up to that of choice n, begin at list place `at`. */
__device__ inline void start_tokens(const row_lists &l, int64_t first, int64_t end, int32_t at)
{
    for (int64_t t = first; t < end; t++) {
        l.token_start[t] = at;
    }
}

__global__ void place_rows_kernel(choices c, ranks r, row_lists l)
{
    walk_chunk(c, r, [&](int64_t n, int32_t key, int32_t rank, int32_t rank_of_all) {
        const int32_t token = l.token[n];
        int32_t row = -1;
        if (key >= 0 && (l.capacity == 0 || rank < l.capacity)) {
            row = (int32_t)(r.first[key] + rank);
            l.row_token[row] = token;
            l.row_choice[row] = (int32_t)n;
            l.token_row[rank_of_all] = row;
        }
        l.choice_row[n] = row;
        start_tokens(l, n > 0 ? l.token[n - 1] + 1 : 0, token + 1, rank_of_all);
        if (n == c.n - 1) {
            start_tokens(l, token + 1, l.n_tokens + 1, rank_of_all + (key >= 0));
        }
    });
}

/* ---- receive ---- */

struct receive {
    const int32_t *count;
    int32_t *expert_start, *computed_from, *arrival_to, *fault;
    int64_t n_src, n_experts, R, n_arrival, align, stride;
    int64_t *arrival, *computed; /* workspace: first row of each (source, expert) block */
    int64_t *aligned;            /* workspace: rows of each expert */
};

/* One block. */
__global__ void receive_starts_kernel(receive r)
{
    const int64_t n_blocks = r.n_src * r.n_experts;
    for (int64_t e = threadIdx.x; e < r.n_experts; e += THREADS) {
        int64_t n = 0;
        for (int64_t s = 0; s < r.n_src; s++) {
            n += r.count[s * r.n_experts + e];
        }
        r.aligned[e] = (n + r.align - 1) / r.align * r.align;
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        warp_prefix(n_blocks, [&](int64_t b, int64_t sum) {
            const int64_t size = r.stride > 0 ? r.stride : r.count[b];
            if (sum >= 0) {
                r.arrival[b] = sum;
                if (sum + r.count[b] > r.n_arrival) {
                    *r.fault = SY__CUDA_ROWS_DO_NOT_FIT;
                }
            }
            return size;
        });
        warp_prefix(r.n_experts, [&](int64_t e, int64_t sum) {
            const int64_t size = r.aligned[e];
            if (sum >= 0) {
                r.expert_start[e] = (int32_t)sum;
                if (sum + size > r.R) {
                    *r.fault = SY__CUDA_ROWS_DO_NOT_FIT;
                }
            }
            return size;
        });
    }
    __syncthreads();
    for (int64_t e = threadIdx.x; e < r.n_experts; e += THREADS) {
        int64_t row = r.expert_start[e];
        for (int64_t s = 0; s < r.n_src; s++) {
            r.computed[s * r.n_experts + e] = row;
            row += r.count[s * r.n_experts + e];
        }
    }
    if (threadIdx.x == 0) {
        r.expert_start[r.n_experts] = (int32_t)r.R;
    }
}

__global__ void receive_rows_kernel(receive r)
{
    const int64_t b = blockIdx.x, first = r.arrival[b], row = r.computed[b];
    for (int64_t i = threadIdx.x; i < r.count[b]; i += THREADS) {
        if (row + i < r.R && first + i < r.n_arrival) {
            r.computed_from[row + i] = (int32_t)(first + i);
            r.arrival_to[first + i] = (int32_t)(row + i);
        }
    }
}

sy_status fill_absent(sy_stream *stream, const sy_tensor &t)
{
    return sy__cuda_try(cudaMemsetAsync(t.data, 0xff, (size_t)sy_tensor_bytes(&t),
                                        sy__cuda_stream_of(stream)->stream),
                        "a plan");
}

} // namespace

sy_status sy__cuda_capacity(sy_stream *stream, const sy_capacity_args *args)
{
    sy_status st = SY_OK;
    const bool by_place = args->capacity < 0 || !args->priority.data;
    const int64_t n = sy_tensor_numel(&args->expert);
    const choices c = {data<int32_t>(args->expert),
                       nullptr,
                       nullptr,
                       n,
                       by_place && args->by_choice ? args->expert.shape[0] : 0,
                       args->E,
                       sy__cuda_stream_of(stream)->fault};
    const size_t next_bytes = ((size_t)args->E + 1) * sizeof(int32_t);
    const unsigned n_chunks = blocks_for(n, CHUNK);
    int32_t *total = nullptr, *list = nullptr;
    ranks r;
    void *more;
    if (n == 0) {
        return SY_OK;
    }
    if (by_place) {
        SY_TRY(rank(stream, "capacity", c, 0, nullptr, 0, &r, &more));
        SY_TRY(launch(stream, "capacity", n_chunks, 32, next_bytes, keep_by_place_kernel, c, r,
                      args->capacity, data<uint8_t>(args->kept)));
        goto cleanup;
    }
    /* The totals lie in front of the list. */
    {
        const int64_t total_bytes = sy__align_up((int64_t)next_bytes);
        total = (int32_t *)((char *)stream->workspace + SY_WORKSPACE_BYTES - total_bytes);
        SY_TRY(rank(stream, "capacity", c, 0, total, total_bytes + n * (int64_t)sizeof *list, &r,
                    &more));
    }
    list = (int32_t *)more;
    SY_TRY(launch(stream, "capacity", n_chunks, 32, next_bytes, list_by_key_kernel, c, r, list));
    SY_TRY(launch(stream, "capacity", blocks_for(n, THREADS), THREADS, 0, keep_by_priority_kernel,
                  c, r, list, total, data<float>(args->priority),
                  args->by_choice ? (int32_t)args->expert.shape[1] : 0, args->capacity,
                  data<uint8_t>(args->kept)));
cleanup:
    return st;
}

sy_status sy__cuda_plan_rows(sy_stream *stream, const sy_plan_rows_args *args)
{
    sy_status st = SY_OK;
    const int32_t E = (int32_t)args->wire.shape[0];
    const choices c = {data<int32_t>(args->expert),
                       data<int32_t>(args->wire),
                       data<uint8_t>(args->kept),
                       args->expert.shape[0],
                       0,
                       E,
                       sy__cuda_stream_of(stream)->fault};
    const row_lists l = {data<int32_t>(args->token),       data<int32_t>(args->row_token),
                         data<int32_t>(args->row_choice),  data<int32_t>(args->choice_row),
                         data<int32_t>(args->token_start), data<int32_t>(args->token_row),
                         args->token_start.shape[0] - 1,   args->capacity};
    ranks r;
    void *more;
    SY_TRY(fill_absent(stream, args->row_token));
    SY_TRY(fill_absent(stream, args->row_choice));
    SY_TRY(fill_absent(stream, args->token_row));
    SY_TRY(sy__cuda_zero(stream, args->token_start.data, sy_tensor_bytes(&args->token_start)));
    SY_TRY(rank(stream, "plan_rows", c, args->capacity, data<int32_t>(args->count), 0, &r, &more));
    SY_TRY(launch(stream, "plan_rows", blocks_for(c.n, CHUNK), 32,
                  ((size_t)E + 1) * sizeof(int32_t), place_rows_kernel, c, r, l));
cleanup:
    return st;
}

sy_status sy__cuda_plan_receive(sy_stream *stream, const sy_plan_receive_args *args)
{
    sy_status st = SY_OK;
    const int64_t n_src = args->count.shape[0], n_experts = args->count.shape[1];
    const int64_t n_blocks = n_src * n_experts;
    int64_t *workspace = (int64_t *)stream->workspace;
    const receive r = {data<int32_t>(args->count),
                       data<int32_t>(args->expert_start),
                       data<int32_t>(args->computed_from),
                       data<int32_t>(args->arrival_to),
                       sy__cuda_stream_of(stream)->fault,
                       n_src,
                       n_experts,
                       args->computed_from.shape[0],
                       args->arrival_to.shape[0],
                       args->align,
                       args->stride,
                       workspace,
                       workspace + n_blocks,
                       workspace + 2 * n_blocks};
    SY_TRY(
        require_workspace("plan_receive", (2 * n_blocks + n_experts) * (int64_t)sizeof *workspace));
    SY_TRY(fill_absent(stream, args->computed_from));
    SY_TRY(fill_absent(stream, args->arrival_to));
    SY_TRY(launch(stream, "plan_receive", 1, THREADS, 0, receive_starts_kernel, r));
    SY_TRY(launch(stream, "plan_receive", (unsigned)n_blocks, THREADS, 0, receive_rows_kernel, r));
cleanup:
    return st;
}

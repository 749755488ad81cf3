/* Which choices an expert keeps when it may take `capacity` at most: by place in the batch, or by
 * priority. Serial: a count per choice. */
#include "backend/cpu/cpu_impl.h"

#include <math.h>
#include <string.h>

/* What choices are compared by. K: 0, or the slots of a token, all first ones coming before all
 * second ones. */
typedef struct order {
    const float *priority; /* by choice */
    int32_t K;
} order;

/* The room of an expert: a heap of the best choices with the worst on top. */
typedef struct heap {
    order by;
    int32_t *choice;
    int64_t n;
} heap;

static float priority_of(const order *by, int32_t choice)
{
    const float x = by->priority[by->K > 0 ? choice - choice % by->K : choice];
    return isnan(x) ? -INFINITY : x;
}

/* Would choice a be dropped before choice b? A NaN is the smallest priority; ties drop the later
 * token. */
static bool is_worse(const order *by, int32_t a, int32_t b)
{
    const float pa = priority_of(by, a), pb = priority_of(by, b);
    if (by->K > 0 && a % by->K != b % by->K) {
        return a % by->K > b % by->K;
    }
    return pa < pb || (pa == pb && a > b);
}

static void sift_down(const heap *h, int64_t at)
{
    for (;;) {
        int64_t worst = at;
        for (int64_t child = 2 * at + 1; child <= 2 * at + 2 && child < h->n; child++) {
            if (is_worse(&h->by, h->choice[child], h->choice[worst])) {
                worst = child;
            }
        }
        if (worst == at) {
            return;
        }
        const int32_t moved = h->choice[at];
        h->choice[at] = h->choice[worst];
        h->choice[worst] = moved;
        at = worst;
    }
}

/* Mark the `capacity` best of n choices of one expert. */
static void keep_best(const order *by, int32_t *choice, int64_t n, int64_t capacity, uint8_t *kept)
{
    const heap h = {*by, choice, sy__cpu_min(n, capacity)};
    for (int64_t i = h.n / 2; n > capacity && i-- > 0;) {
        sift_down(&h, i);
    }
    for (int64_t i = h.n; h.n > 0 && i < n; i++) {
        if (is_worse(by, choice[0], choice[i])) {
            choice[0] = choice[i];
            sift_down(&h, 0);
        }
    }
    for (int64_t i = 0; i < h.n; i++) {
        kept[choice[i]] = 1;
    }
}

/* Choices sorted by expert (count, prefix sum, place), then the best of each expert. */
static void keep_by_priority(const sy_capacity_args *args, int64_t *start, int32_t *by_expert)
{
    const int64_t N = sy_tensor_numel(&args->expert), E = args->E;
    const int32_t *expert = args->expert.data;
    const order by = {args->priority.data, args->by_choice ? (int32_t)args->expert.shape[1] : 0};
    memset(start, 0, (size_t)(E + 2) * sizeof *start);
    for (int64_t i = 0; i < N; i++) {
        if (expert[i] >= 0) {
            start[expert[i] + 2]++;
        }
    }
    for (int64_t e = 0; e < E; e++) {
        start[e + 2] += start[e + 1];
    }
    /* start[e + 1] now runs from the first to behind the last place of expert e. */
    for (int64_t i = 0; i < N; i++) {
        if (expert[i] >= 0) {
            by_expert[start[expert[i] + 1]++] = (int32_t)i;
        }
    }
    for (int64_t e = 0; e < E; e++) {
        keep_best(&by, by_expert + start[e], start[e + 1] - start[e], args->capacity,
                  args->kept.data);
    }
}

/* All first choices by token, then all second ones; or all choices by token. */
static void keep_by_place(const sy_capacity_args *args, int64_t *taken)
{
    const int64_t N = sy_tensor_numel(&args->expert);
    const int64_t step = args->by_choice ? args->expert.shape[1] : 1;
    const int32_t *expert = args->expert.data;
    uint8_t *kept = args->kept.data;
    memset(taken, 0, (size_t)args->E * sizeof *taken);
    for (int64_t k = 0; k < step; k++) {
        for (int64_t i = k; i < N; i += step) {
            kept[i] = expert[i] >= 0 && taken[expert[i]]++ < args->capacity;
        }
    }
}

sy_status sy__cpu_capacity(sy_stream *stream, const sy_capacity_args *args)
{
    sy_status st = SY_OK;
    const int64_t N = sy_tensor_numel(&args->expert);
    const int32_t *expert = args->expert.data;
    uint8_t *kept = args->kept.data;
    int64_t *start = sy_stream_workspace(stream);
    const int64_t start_bytes = (args->E + 2) * (int64_t)sizeof *start;
    SY_REQUIRE(start_bytes + N * (int64_t)sizeof(int32_t) <= SY_WORKSPACE_BYTES, SY_ERR_UNSUPPORTED,
               "op capacity: %lld choices of %d experts need more than the workspace of the cpu "
               "backend; use smaller micro-batches",
               (long long)N, args->E);
    for (int64_t i = 0; i < N; i++) {
        SY_REQUIRE(expert[i] < args->E, SY_ERR_INTERNAL,
                   "op capacity: choice %lld names expert %d of %d", (long long)i, expert[i],
                   args->E);
        kept[i] = args->capacity < 0 && expert[i] >= 0;
    }
    if (args->capacity >= 0 && args->priority.data == NULL) {
        keep_by_place(args, start);
    } else if (args->capacity >= 0) {
        keep_by_priority(args, start, (int32_t *)(void *)(start + args->E + 2));
    }
cleanup:
    return st;
}

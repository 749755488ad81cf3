/* Row orders of an exchange: count, prefix sum, place by token. Serial and linear: a few integers
 * per row, whose order decides. */
#include "backend/cpu/cpu_impl.h"

#include <string.h>

static void fill_absent(const sy_tensor *t)
{
    memset(t->data, 0xff, (size_t)sy_tensor_bytes(t));
}

static sy_status require_scratch(const char *op, int64_t n)
{
    sy_status st = SY_OK;
    SY_REQUIRE(n * (int64_t)sizeof(int64_t) <= SY_WORKSPACE_BYTES, SY_ERR_UNSUPPORTED,
               "op %s: %lld experts need more than the workspace of the cpu backend", op,
               (long long)n);
cleanup:
    return st;
}

/* Rows by wire place. */
static sy_status count_rows(const sy_plan_rows_args *args)
{
    sy_status st = SY_OK;
    const int64_t N = sy_tensor_numel(&args->expert), E = args->wire.shape[0];
    const int32_t *expert = args->expert.data, *wire = args->wire.data;
    const uint8_t *kept = args->kept.data;
    int32_t *count = args->count.data;
    memset(count, 0, (size_t)E * sizeof *count);
    for (int64_t i = 0; i < N; i++) {
        SY_REQUIRE(expert[i] < E, SY_ERR_INTERNAL,
                   "op plan_rows: choice %lld names expert %d of %lld", (long long)i, expert[i],
                   (long long)E);
        if (expert[i] >= 0 && (kept == NULL || kept[i] != 0)) {
            count[wire[expert[i]]]++;
        }
    }
    for (int64_t w = 0; w < E && args->capacity > 0; w++) {
        SY_REQUIRE(count[w] <= args->capacity, SY_ERR_INTERNAL,
                   "op plan_rows: wire place %lld has %d kept choices, more than its capacity %lld",
                   (long long)w, count[w], (long long)args->capacity);
    }
cleanup:
    return st;
}

/* Give every choice its row, in token order; next [E]: the row that the next choice of a wire place
 * gets. */
static void place_rows(const sy_plan_rows_args *args, int64_t *next)
{
    const int64_t N = sy_tensor_numel(&args->expert), T = args->token_start.shape[0] - 1;
    const int32_t *token = args->token.data, *expert = args->expert.data, *wire = args->wire.data;
    const uint8_t *kept = args->kept.data;
    int32_t *row_token = args->row_token.data, *row_choice = args->row_choice.data;
    int32_t *choice_row = args->choice_row.data, *token_row = args->token_row.data;
    int32_t *token_start = args->token_start.data, n_rows = 0;
    int64_t t = 0;
    for (int64_t i = 0; i < N; i++) {
        for (; t <= token[i]; t++) {
            token_start[t] = n_rows;
        }
        if (expert[i] < 0 || (kept != NULL && kept[i] == 0)) {
            continue;
        }
        const int32_t row = (int32_t)next[wire[expert[i]]]++;
        row_token[row] = token[i];
        row_choice[row] = (int32_t)i;
        choice_row[i] = row;
        token_row[n_rows++] = row;
    }
    for (; t <= T; t++) {
        token_start[t] = n_rows;
    }
}

sy_status sy__cpu_plan_rows(sy_stream *stream, const sy_plan_rows_args *args)
{
    sy_status st = SY_OK;
    const int64_t E = args->wire.shape[0];
    const int32_t *count = args->count.data;
    int64_t *next = sy_stream_workspace(stream), row = 0;
    SY_TRY(require_scratch("plan_rows", E));
    SY_TRY(count_rows(args));
    for (int64_t w = 0; w < E; w++) {
        next[w] = row;
        row += args->capacity > 0 ? args->capacity : count[w];
    }
    fill_absent(&args->row_token);
    fill_absent(&args->row_choice);
    fill_absent(&args->choice_row);
    fill_absent(&args->token_row);
    place_rows(args, next);
cleanup:
    return st;
}

/* expert_start, and next [E_loc]: the first computed row of each expert. */
static sy_status start_experts(const sy_plan_receive_args *args, int64_t *next)
{
    sy_status st = SY_OK;
    const int64_t n_src = args->count.shape[0], E_loc = args->count.shape[1];
    const int64_t R = args->computed_from.shape[0], n_arrival = args->arrival_to.shape[0];
    const int32_t *count = args->count.data;
    int32_t *expert_start = args->expert_start.data;
    int64_t row = 0, n_rows = 0;
    for (int64_t e = 0; e < E_loc; e++) {
        next[e] = row;
        expert_start[e] = (int32_t)row;
        int64_t n = 0;
        for (int64_t s = 0; s < n_src; s++) {
            n += count[s * E_loc + e];
        }
        n_rows += n;
        row += (n + args->align - 1) / args->align * args->align;
    }
    const int64_t arriving = args->stride > 0 ? n_src * E_loc * args->stride : n_rows;
    SY_REQUIRE(row <= R && arriving <= n_arrival, SY_ERR_INTERNAL,
               "op plan_receive: %lld aligned rows of %lld arriving do not fit into %lld computed "
               "and %lld arrival rows",
               (long long)row, (long long)arriving, (long long)R, (long long)n_arrival);
    expert_start[E_loc] = (int32_t)R;
cleanup:
    return st;
}

sy_status sy__cpu_plan_receive(sy_stream *stream, const sy_plan_receive_args *args)
{
    sy_status st = SY_OK;
    const int64_t n_blocks = args->count.shape[0] * args->count.shape[1];
    const int64_t E_loc = args->count.shape[1];
    const int32_t *count = args->count.data;
    int32_t *computed_from = args->computed_from.data, *arrival_to = args->arrival_to.data;
    int64_t *next = sy_stream_workspace(stream), arrival = 0;
    SY_TRY(require_scratch("plan_receive", E_loc));
    SY_TRY(start_experts(args, next));
    fill_absent(&args->computed_from);
    fill_absent(&args->arrival_to);
    for (int64_t block = 0; block < n_blocks; block++) {
        int64_t computed = next[block % E_loc];
        for (int64_t i = 0; i < count[block]; i++, computed++) {
            computed_from[computed] = (int32_t)(arrival + i);
            arrival_to[arrival + i] = (int32_t)computed;
        }
        next[block % E_loc] = computed;
        arrival += args->stride > 0 ? args->stride : count[block];
    }
cleanup:
    return st;
}

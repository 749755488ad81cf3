/* Row orders of an exchange: count, prefix sum, place by token. */
#include "backend/ref/ref_impl.h"

static void fill_i32(const sy_tensor *t, int32_t value)
{
    int32_t *x = t->data;
    for (int64_t i = 0; i < t->shape[0]; i++) {
        x[i] = value;
    }
}

/* Wire place of choice n, or -1 if it makes no row. */
static int32_t place_of(const sy_plan_rows_args *args, int64_t n)
{
    const int32_t expert = ((const int32_t *)args->expert.data)[n];
    const uint8_t *kept = args->kept.data;
    return expert < 0 || (kept && !kept[n]) ? -1 : ((const int32_t *)args->wire.data)[expert];
}

/* Rows of one wire place, in the order of their choices. */
static sy_status place_rows(const sy_plan_rows_args *args, int32_t place, int64_t first)
{
    sy_status st = SY_OK;
    int32_t n_rows = 0;
    for (int64_t n = 0; n < args->expert.shape[0]; n++) {
        if (place_of(args, n) != place) {
            continue;
        }
        SY_REQUIRE(args->capacity == 0 || n_rows < args->capacity, SY_ERR_INTERNAL,
                   "op plan_rows: wire place %d has more kept choices than its capacity %lld",
                   place, (long long)args->capacity);
        const int64_t row = first + n_rows++;
        ((int32_t *)args->row_token.data)[row] = ((const int32_t *)args->token.data)[n];
        ((int32_t *)args->row_choice.data)[row] = (int32_t)n;
        ((int32_t *)args->choice_row.data)[n] = (int32_t)row;
    }
    ((int32_t *)args->count.data)[place] = n_rows;
cleanup:
    return st;
}

/* The rows of each token, from choice_row. */
static void token_lists(const sy_plan_rows_args *args)
{
    const int64_t N = args->token.shape[0], T = args->token_start.shape[0] - 1;
    const int32_t *token = args->token.data, *choice_row = args->choice_row.data;
    int32_t *token_start = args->token_start.data, *token_row = args->token_row.data;
    int32_t n_rows = 0;
    int64_t n = 0;
    for (int64_t t = 0; t < T; t++) {
        token_start[t] = n_rows;
        for (; n < N && token[n] == t; n++) {
            if (choice_row[n] >= 0) {
                token_row[n_rows++] = choice_row[n];
            }
        }
    }
    token_start[T] = n_rows;
}

sy_status sy__ref_plan_rows(sy_stream *stream, const sy_plan_rows_args *args)
{
    (void)stream;
    sy_status st = SY_OK;
    const int64_t E = args->wire.shape[0];
    const int32_t *count = args->count.data;
    int64_t first = 0;
    fill_i32(&args->row_token, -1);
    fill_i32(&args->row_choice, -1);
    fill_i32(&args->choice_row, -1);
    fill_i32(&args->token_row, -1);
    for (int64_t place = 0; place < E; place++) {
        SY_TRY(place_rows(args, (int32_t)place, first));
        first += args->capacity > 0 ? args->capacity : count[place];
    }
    token_lists(args);
cleanup:
    return st;
}

/* First arrival row of the block (source, expert). */
static int64_t arrival_first(const sy_plan_receive_args *args, int64_t source, int64_t expert)
{
    const int64_t E_loc = args->count.shape[1], block = source * E_loc + expert;
    const int32_t *count = args->count.data;
    int64_t first = 0;
    if (args->stride > 0) {
        return block * args->stride;
    }
    for (int64_t b = 0; b < block; b++) {
        first += count[b];
    }
    return first;
}

sy_status sy__ref_plan_receive(sy_stream *stream, const sy_plan_receive_args *args)
{
    (void)stream;
    sy_status st = SY_OK;
    const int64_t n_src = args->count.shape[0], E_loc = args->count.shape[1];
    const int64_t R = args->computed_from.shape[0], n_arrival = args->arrival_to.shape[0];
    const int32_t *count = args->count.data;
    int32_t *expert_start = args->expert_start.data;
    int64_t row = 0;
    fill_i32(&args->computed_from, -1);
    fill_i32(&args->arrival_to, -1);
    for (int64_t e = 0; e < E_loc; e++) {
        expert_start[e] = (int32_t)row;
        for (int64_t s = 0; s < n_src; s++) {
            const int64_t first = arrival_first(args, s, e), n = count[s * E_loc + e];
            SY_REQUIRE(row + n <= R && first + n <= n_arrival, SY_ERR_INTERNAL,
                       "op plan_receive: rows do not fit: %lld computed rows, %lld arrival rows",
                       (long long)R, (long long)n_arrival);
            for (int64_t i = 0; i < n; i++, row++) {
                ((int32_t *)args->computed_from.data)[row] = (int32_t)(first + i);
                ((int32_t *)args->arrival_to.data)[first + i] = (int32_t)row;
            }
        }
        row = (row + args->align - 1) / args->align * args->align;
    }
    SY_REQUIRE(row <= R, SY_ERR_INTERNAL,
               "op plan_receive: %lld aligned rows do not fit into %lld computed rows",
               (long long)row, (long long)R);
    expert_start[E_loc] = (int32_t)R;
cleanup:
    return st;
}

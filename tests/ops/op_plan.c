/* Cases of the row plans. The judges build the same orders by sorting. */
#include <stdlib.h>

#include "tests/ops/op_test.h"

static op_operand *ints(op_instance *in, const char *name, int64_t n)
{
    return op_tensor(in, name, OP_I32, 0, OP_SHAPE(n));
}

static void fill_wire(op_instance *in, op_operand *wire)
{
    for (int64_t e = 0; e < wire->shape[0]; e++) {
        const int64_t j = op_draw(in, e + 1);
        *op_at(wire, e) = *op_at(wire, j);
        *op_at(wire, j) = (double)e;
    }
}

/* Drop at random, and above capacity. */
static void fill_kept(op_instance *in, op_operand *kept, const op_operand *expert, int64_t C)
{
    int64_t taken[256] = {0};
    op_ints(in, kept, 0, 3);
    for (int64_t n = 0; n < op_numel(kept); n++) {
        const double e = *op_at(expert, n);
        const bool room = e < 0 || C == 0 || taken[(int64_t)e] < C;
        *op_at(kept, n) = *op_at(kept, n) > 0 && room;
        taken[e < 0 ? 255 : (int64_t)e] += *op_at(kept, n) > 0;
    }
}

/* C: capacity; mode bit 1: kept, bit 2: tokens without experts; scaled: all first choices to expert
 * 0. */
static void build_plan_rows(op_instance *in, const op_case *c)
{
    const int64_t N = c->T * c->K, n_rows = c->C > 0 ? c->E * c->C : N;
    OP_ARGS(in, plan_rows)->capacity = c->C;
    op_operand *token = ints(in, "token", N);
    for (int64_t n = 0; n < N; n++) {
        *op_at(token, n) = (double)(n / c->K);
    }
    op_operand *expert =
        op_choices(in, ints(in, "expert", N), c->K, c->E, c->mode & 2 ? 3 : 0, c->scaled);
    if (c->mode & 1) {
        fill_kept(in, op_tensor(in, "kept", OP_U8, 0, OP_SHAPE(N)), expert, c->C);
    }
    fill_wire(in, ints(in, "wire", c->E));
    ints(in, "count", c->E);
    ints(in, "row_token", n_rows);
    ints(in, "row_choice", n_rows);
    ints(in, "choice_row", N);
    ints(in, "token_start", c->T + 1);
    ints(in, "token_row", N);
}

static const op_case plan_rows_cases[] = {
    {.T = 6, .E = 4, .K = 2, .mode = 1},
    {.T = 6, .E = 4, .K = 2},
    {.T = 6, .E = 4, .K = 2, .C = 3, .mode = 3},
    {.T = 0, .E = 4, .K = 2},
    {.T = 0, .E = 4, .K = 2, .C = 2},
    {.T = 1, .E = 1, .K = 1},
    {.T = 5, .E = 3, .K = 3},
    {.T = 31, .E = 8, .K = 2, .scaled = 1},
    {.T = 31, .E = 8, .K = 2, .scaled = 1, .C = 31},
    {.T = 31, .E = 16, .K = 3, .C = 4, .mode = 3},
    {.T = 300, .E = 130, .K = 8, .mode = 3},
    {.T = 300, .E = 16, .K = 2, .C = 50, .mode = 1},
};

typedef struct plan_row {
    int64_t place, token, choice;
} plan_row;

static int by_place_then_choice(const void *a, const void *b)
{
    const plan_row *x = a, *y = b;
    return x->place != y->place ? (x->place < y->place ? -1 : 1) : (x->choice < y->choice ? -1 : 1);
}

static int64_t sorted_rows(const op_instance *in, plan_row *rows)
{
    const op_operand *expert = op_see(in, "expert"), *kept = op_see(in, "kept");
    const op_operand *token = op_see(in, "token"), *wire = op_see(in, "wire");
    int64_t n_rows = 0;
    for (int64_t n = 0; n < op_numel(expert); n++) {
        const int64_t e = (int64_t)expert->values[n];
        if (e >= 0 && (!kept->values || kept->values[n] > 0)) {
            rows[n_rows++] = (plan_row){(int64_t)wire->values[e], (int64_t)token->values[n], n};
        }
    }
    qsort(rows, (size_t)n_rows, sizeof *rows, by_place_then_choice);
    return n_rows;
}

static const double *values_of(const op_instance *in, const op_result *result, const char *name)
{
    return result->values[op_see(in, name) - in->operand];
}

/* Each token's list names its own rows, by choice, and every row is in one list. */
static const char *judge_token_lists(const op_instance *in, const op_result *result, int64_t n_rows)
{
    const double *start = values_of(in, result, "token_start");
    const double *list = values_of(in, result, "token_row");
    const double *row_token = values_of(in, result, "row_token");
    const double *row_choice = values_of(in, result, "row_choice");
    if (start[0] != 0 || start[in->c->T] != (double)n_rows) {
        return "token_start does not span the rows";
    }
    for (int64_t t = 0; t < in->c->T; t++) {
        double last = -1;
        for (int64_t j = (int64_t)start[t]; j < (int64_t)start[t + 1]; j++) {
            const int64_t row = (int64_t)list[j];
            if (row_token[row] != (double)t || row_choice[row] <= last) {
                return "a token's list holds another token's row, or is out of order";
            }
            last = row_choice[row];
        }
    }
    for (int64_t j = n_rows; j < op_numel(op_see(in, "token_row")); j++) {
        if (list[j] != -1) {
            return "token_row goes on behind its end";
        }
    }
    return NULL;
}

static const char *judge_plan_rows(const op_instance *in, const op_result *result)
{
    const double *row_token = values_of(in, result, "row_token");
    const double *row_choice = values_of(in, result, "row_choice");
    const double *choice_row = values_of(in, result, "choice_row");
    const double *count = values_of(in, result, "count");
    const int64_t N = op_numel(op_see(in, "token")), C = in->c->C;
    int64_t n_filled = 0, at = 0, place = -1, in_place = 0;
    plan_row *rows = malloc((size_t)(N + 1) * sizeof *rows);
    const int64_t n_rows = sorted_rows(in, rows);
    const char *wrong = NULL;
    for (int64_t i = 0; i < n_rows; i++) {
        in_place = rows[i].place == place ? in_place + 1 : 0;
        place = rows[i].place;
        at = C > 0 ? place * C + in_place : i;
        if (row_token[at] != (double)rows[i].token || row_choice[at] != (double)rows[i].choice ||
            choice_row[rows[i].choice] != (double)at || count[place] <= (double)in_place) {
            wrong = "the rows are not sorted by wire place and token";
        }
    }
    for (int64_t i = 0; i < op_numel(op_see(in, "row_token")); i++) {
        n_filled += row_token[i] != -1;
    }
    for (int64_t e = 0; e < in->c->E; e++) {
        n_filled -= (int64_t)count[e];
    }
    free(rows);
    wrong = n_filled != 0 ? "counts and filled rows differ" : wrong;
    return wrong ? wrong : judge_token_lists(in, result, n_rows);
}

/* C: stride; mode 1: R exceeds what is needed. Counts up to C where strided. */
static void build_plan_receive(op_instance *in, const op_case *c)
{
    sy_plan_receive_args *args = OP_ARGS(in, plan_receive);
    args->align = c->align;
    args->stride = c->C;
    op_operand *count = op_tensor(in, "count", OP_I32, 0, OP_SHAPE(c->src, c->E));
    op_ints(in, count, 0, c->C > 0 ? c->C : c->M);
    int64_t n_rows = 0, n_aligned = 0;
    for (int64_t e = 0; e < c->E; e++) {
        int64_t n = 0;
        for (int64_t s = 0; s < c->src; s++) {
            n += (int64_t)*op_at(count, s * c->E + e);
        }
        n_rows += n;
        n_aligned += (n + c->align - 1) / c->align * c->align;
    }
    ints(in, "expert_start", c->E + 1);
    ints(in, "computed_from", n_aligned + (c->mode ? 13 : 0));
    ints(in, "arrival_to", (c->C > 0 ? c->src * c->E * c->C : n_rows) + (c->mode ? 5 : 0));
}

/* The two maps invert each other, computed rows are sorted by (expert, source, arrival), and
 * experts start at aligned rows. */
static const char *judge_plan_receive(const op_instance *in, const op_result *result)
{
    const double *start = values_of(in, result, "expert_start");
    const double *from = values_of(in, result, "computed_from");
    const double *to = values_of(in, result, "arrival_to");
    const double *count = op_see(in, "count")->values;
    const int64_t R = op_numel(op_see(in, "computed_from")), E = in->c->E;
    if (start[E] != (double)R) {
        return "the last expert does not end at R";
    }
    int64_t arrival = 0, n_expected = 0, n_found = 0;
    for (int64_t s = 0; s < in->c->src; s++) {
        for (int64_t e = 0; e < E; e++) {
            const int64_t n = (int64_t)count[s * E + e];
            for (int64_t i = 0; i < n; i++) {
                const int64_t row = (int64_t)to[arrival + i];
                if (row < (int64_t)start[e] || row >= (int64_t)start[e + 1] ||
                    from[row] != (double)(arrival + i)) {
                    return "an arrival row does not lie with its expert";
                }
            }
            n_expected += n;
            arrival += in->c->C > 0 ? in->c->C : n;
        }
    }
    for (int64_t e = 0; e < E; e++) {
        double last = -1;
        if ((int64_t)start[e] % in->c->align != 0) {
            return "an expert starts at a row that is not aligned";
        }
        for (int64_t row = (int64_t)start[e]; row < (int64_t)start[e + 1]; row++) {
            if (from[row] >= 0 && from[row] <= last) {
                return "an expert's rows are not in arrival order";
            }
            last = from[row] >= 0 ? from[row] : last;
            n_found += from[row] >= 0;
        }
    }
    return n_found == n_expected ? NULL : "rows were lost or doubled";
}

static const op_case plan_receive_cases[] = {
    {.src = 2, .E = 3, .M = 4, .align = 1},
    {.src = 2, .E = 3, .M = 4, .align = 4},
    {.src = 1, .E = 1, .M = 1, .align = 1},
    {.src = 3, .E = 4, .M = 0, .align = 8},
    {.src = 3, .E = 4, .M = 0, .align = 8, .mode = 1},
    {.src = 3, .E = 2, .C = 5, .align = 1},
    {.src = 3, .E = 2, .C = 5, .align = 8, .mode = 1},
    {.src = 0, .E = 2, .M = 5, .align = 8, .mode = 1},
    {.src = 8, .E = 16, .M = 20, .align = 16, .mode = 1},
};

static const op_test tests[] = {
    {.op = SY_OP_plan_rows,
     .build = build_plan_rows,
     OP_CASES(plan_rows_cases),
     .judge = judge_plan_rows},
    {.op = SY_OP_plan_receive,
     .build = build_plan_receive,
     OP_CASES(plan_receive_cases),
     .judge = judge_plan_receive},
};
OP_GROUP_DEFINE(plan, tests);

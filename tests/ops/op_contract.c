/* The contract checks: a good call is taken, and each operand made wrong in turn is refused by
 * name, before anything runs. */
#include <stdio.h>

#include "tests/ops/op_test.h"

/* Does calling with these args end in SY_ERR_INTERNAL, with the op and this part in the message? */
static bool refused(op_loaded *l, const char *part, char *why, size_t bytes)
{
    char wanted[80];
    sy_status st = op_launch(l);
    snprintf(wanted, sizeof wanted, "op %s: ", l->in->info->name);
    const bool ok = st == SY_ERR_INTERNAL && strstr(sy_error_message(), wanted) &&
                    strstr(sy_error_message(), part);
    snprintf(why, bytes, "%s, \"%s\"", sy_status_name(st), st == SY_OK ? "" : sy_error_message());
    op_must(sy_stream_sync(l->stream));
    return ok;
}

typedef void spoil(sy_tensor *t);

static void spoil_dtype(sy_tensor *t)
{
    t->dtype = t->dtype == SY_I64 ? SY_U8 : SY_I64;
}
static void spoil_dimensions(sy_tensor *t)
{
    t->n_dim = 0;
}
static void spoil_extent(sy_tensor *t)
{
    t->shape[0] = -3;
}
static void spoil_stride(sy_tensor *t)
{
    t->stride[t->n_dim - 1] = 2;
}
static void spoil_pointer(sy_tensor *t)
{
    t->data = NULL;
}

static const struct {
    const char *what;
    spoil *apply;
} spoils[] = {{"another dtype", spoil_dtype},
              {"no dimension", spoil_dimensions},
              {"a negative extent", spoil_extent},
              {"stride 2", spoil_stride},
              {"no memory", spoil_pointer}};

/* Ops take some of these: any dtype, and absent operands. */
static bool is_fine(const op_instance *in, int32_t i, spoil *apply)
{
    static const char *const optional[] = {"doc",  "dropped_at",  "q_start", "weight", "wa",
                                           "dot",  "loss_weight", "dlogits", "bias",   "routed",
                                           "kept", "priority",    "param",   "dw",     "cost"};
    const char *name = in->info->operands[i].name;
    if (apply == spoil_dtype) {
        return in->test->op == SY_OP_fill || (in->test->op == SY_OP_gather_rows && i == 0);
    }
    if (apply == spoil_stride) {
        return in->operand[i].shape[in->operand[i].n_dim - 1] <= 1;
    }
    if (apply == spoil_pointer) {
        const bool required = (in->test->op == SY_OP_topk_weigh && strcmp(name, "weight") == 0) ||
                              (in->test->op == SY_OP_add_bias) ||
                              (in->test->op == SY_OP_embed_backward);
        for (size_t k = 0; k < sizeof optional / sizeof optional[0] && !required; k++) {
            if (strcmp(name, optional[k]) == 0) {
                return true;
            }
        }
    }
    return false;
}

static void spoil_each(op_runner *runner, op_loaded *l)
{
    for (int32_t i = 0; i < l->in->info->n_operands; i++) {
        const op_operand *o = &l->in->operand[i];
        sy_tensor *t = (sy_tensor *)(void *)(l->args.bytes + l->in->info->operands[i].offset);
        const sy_tensor good = *t;
        for (size_t k = 0; k < sizeof spoils / sizeof spoils[0]; k++) {
            char why[400], part[40];
            if (!o->values || op_numel(o) == 0 || is_fine(l->in, i, spoils[k].apply)) {
                continue;
            }
            spoils[k].apply(t);
            /* x of cast may have any dtype, so there y is to blame */
            snprintf(part, sizeof part, "%s", l->in->test->op == SY_OP_cast ? "" : o->about->name);
            const bool ok = refused(l, part, why, sizeof why);
            *t = good;
            op_verdict(runner, ok, "%s: %s with %s was not refused: %s", l->in->info->name,
                       o->about->name, spoils[k].what, why);
        }
    }
}

/* An output laid over another operand that it may not alias: shifted by one element, so that it is
 * never the very tensor. */
static void overlap_each(op_runner *runner, op_loaded *l)
{
    for (int32_t i = 0; i < l->in->info->n_operands; i++) {
        sy_tensor *y = (sy_tensor *)(void *)(l->args.bytes + l->in->info->operands[i].offset);
        const sy_tensor good = *y;
        for (int32_t j = 0; j < l->in->info->n_operands && op_written(l->in, i); j++) {
            const sy_tensor *x =
                (const sy_tensor *)(const void *)(l->args.bytes + l->in->info->operands[j].offset);
            char why[400];
            if (i == j || !l->in->operand[j].values || op_numel(&l->in->operand[j]) < 2 ||
                op_numel(&l->in->operand[i]) == 0 || l->in->operand[i].alias == j) {
                continue;
            }
            y->data = (char *)x->data + sy_dtype_bytes(x->dtype);
            const bool ok = refused(l, "overlaps", why, sizeof why);
            *y = good;
            op_verdict(runner, ok, "%s: %s over %s was not refused: %s", l->in->info->name,
                       l->in->operand[i].about->name, l->in->operand[j].about->name, why);
        }
    }
}

/* ---- scalars and extents that operands share ---- */

#define BREAKS(X)                                                                                  \
    X(gemm, "beta 0.5", "beta is 0 or 1", a->beta = 0.5)                                           \
    X(gemm, "inner extents that differ", ": b is ", a->trans_b = !a->trans_b)                      \
    X(grouped_gemm, "beta 0.5", "beta is ", a->beta = 0.5)                                         \
    X(grouped_gemm, "an unknown form", "form is ", a->form = (sy_grouped_form)9)                   \
    X(grouped_gemm, "a border too few", ": b is ", a->start.shape[0]--)                            \
    X(scale, "factor NaN", "factor is ", a->factor = 0.0 / 0.0)                                    \
    X(jitter, "eps 1.5", "eps is ", a->eps = 1.5)                                                  \
    X(rmsnorm, "eps -1", "eps is ", a->eps = -1)                                                   \
    X(rmsnorm, "factor NaN", "factor is ", a->factor = 0.0 / 0.0)                                  \
    X(rmsnorm, "groups that are added", "one group", a->x.shape[1] = (a->add = a->x, 2))           \
    X(rmsnorm_backward, "beta 2", "beta is ", a->beta = 2)                                         \
    X(rope, "an odd head size", "is even",                                                         \
      a->x.shape[2] = a->table.shape[1] = a->table.stride[0] = 3)                                  \
    X(attention, "B that does not divide the rows", "multiples of B", a->B = 5)                    \
    X(attention, "B = 0", "B is positive", a->B = 0)                                               \
    X(attention, "no key heads", "heads of q", a->k.shape[1] = a->v.shape[1] = 0)                  \
    X(attention_backward, "fewer keys than queries", "the same rows",                              \
      a->k.shape[0] = a->v.shape[0] = 4)                                                           \
    X(swiglu, "an odd width", ": x is ", a->x.shape[1]--)                                          \
    X(activation, "SwiGLU", "act is one", a->act = SY_ACT_SWIGLU)                                  \
    X(activation_backward, "parts that do not fit", ": x is ", a->act = SY_ACT_SWIGLU_LINEAR)      \
    X(xent, "a target too few", ": targets is ", a->targets.shape[0]--)                            \
    X(gather_rows, "another width", ": y is ", a->y.shape[1]--)                                    \
    X(combine_rows, "beta 2", "beta is ", a->beta = 2)                                             \
    X(combine_rows, "no end of the last token", ": token_start is ", a->token_start.shape[0]--)    \
    X(router_scores, "an unknown score", "score is ", a->score = (sy_score)7)                      \
    X(topk, "K > E", "K is at most E", a->p.shape[1] = a->p.stride[0] = a->bias.shape[0] = 1)      \
    X(topk, "groups that do not divide", "divide the experts", a->n_groups = a->groups_kept = 3)   \
    X(topk, "too many groups", "at most 1024 groups", a->n_groups = 1025)                          \
    X(topk, "no group kept", "1 to n_groups", a->n_groups = 5)                                     \
    X(topk, "K > kept", "kept groups hold", a->n_groups = 5; a->groups_kept = 1)                   \
    X(capacity, "no experts", "E is positive", a->E = 0)                                           \
    X(topk_backward, "another T", ": g is ", a->g.shape[0]--)                                      \
    X(expert_count, "scopes that do not divide", "of the scopes", a->count.shape[0] = 5)           \
    X(balance_loss, "scopes that do not divide", "of the scopes", a->count.shape[0] = 4)           \
    X(group_loss, "groups that do not divide", "divide the experts", a->count.shape[1] = 3;        \
      a->count.stride[0] = 3)                                                                      \
    X(group_loss, "no group kept", "groups_kept is", a->groups_kept = 0)                           \
    X(plan_rows, "capacity -1", "capacity is not", a->capacity = -1)                               \
    X(plan_rows, "too few rows", ": row_token is ", a->row_token.shape[0]--)                       \
    X(plan_receive, "align 0", "align is ", a->align = 0)                                          \
    X(plan_receive, "stride -1", "stride is ", a->stride = -1)                                     \
    X(plan_receive, "blocks that do not fit", "arrival rows", a->stride = 1000)                    \
    X(adamw, "beta1 = 1", "beta1 is ", a->beta1 = 1)                                               \
    X(adamw, "a short ctl", ": ctl is ", a->ctl.shape[0]--)                                        \
    X(adafactor_sums, "a part too far", "the part lies", a->shape.first++)                         \
    X(adafactor_moments, "a column too few", ": column_sum is ", a->column_sum.shape[0]--)         \
    X(adafactor_squares, "no rows", "rows and columns", a->shape.rows = 0)                         \
    X(adafactor, "beta1 = 1", "beta1 is ", a->beta1 = 1)

/* Each entry breaks a copy of good args: the message must be the one of that rule. */
#define BREAK_ONE(name, what, rule, change)                                                        \
    if (l->in->test->op == SY_OP_##name) {                                                         \
        op_loaded broken = *l;                                                                     \
        sy_##name##_args *a = (sy_##name##_args *)(void *)broken.args.bytes;                       \
        change;                                                                                    \
        const bool ok = refused(&broken, rule, why, sizeof why);                                   \
        op_verdict(runner, ok, "%s with %s was not refused: %s", #name, what, why);                \
    }
static void break_rules(op_runner *runner, op_loaded *l)
{
    char why[400];
    BREAKS(BREAK_ONE)
}

/* Column ranges of one matrix lie within each other's span and yet apart: q, k and v of a fused
 * projection. */
static void columns_are_apart(op_runner *runner)
{
    enum { T = 3, D = 4 };
    double fused[T * 3 * D] = {0}, w[D] = {0}, rstd[T];
    const sy_tensor all = sy_tensor_2d(fused, SY_F64, T, 3 * D);
    sy_rmsnorm_args args = {.w = sy_tensor_1d(w, SY_F64, D),
                            .rstd = sy_tensor_2d(rstd, SY_F64, T, 1)};
    for (int64_t first = 0; first <= 2 * D; first++) {
        const sy_tensor x = sy_tensor_cols(&all, D, D), y = sy_tensor_cols(&all, first, D);
        args.x = sy_tensor_heads(&x, 1);
        args.y = sy_tensor_heads(&y, 1);
        sy_error_clear();
        const sy_status st = sy_rmsnorm(runner->ref_stream, &args);
        const bool apart = first == 0 || first == 2 * D;
        op_verdict(runner, (st == SY_OK) == apart, "columns %d apart from %d: %s", (int)first, D,
                   st == SY_OK ? "taken" : sy_error_message());
    }
}

/* The first case of the table in which every operand that is there has elements. */
static bool is_full(const op_instance *in)
{
    for (int32_t i = 0; i < in->info->n_operands; i++) {
        if (in->operand[i].values && op_numel(&in->operand[i]) < 2 &&
            in->operand[i].shape[0] != 1) {
            return false;
        }
    }
    return true;
}

void op_contract_test(op_runner *runner, const op_test *test)
{
    if (test->op == SY_OP_rmsnorm) {
        columns_are_apart(runner);
    }
    const sy_dtype a = runner->dev[0]->wide;
    for (int32_t k = 0; k < test->n_cases; k++) {
        op_instance in;
        op_loaded l;
        op_instance_build(&in, runner, test, &test->cases[k], a, a);
        const bool full = is_full(&in);
        if (full) {
            op_load(&l, &in, runner->dev[0], runner->stream[0], a);
            spoil_each(runner, &l);
            overlap_each(runner, &l);
            break_rules(runner, &l);
            op_unload(&l);
        }
        op_instance_free(&in);
        if (full) {
            return;
        }
    }
    op_verdict(runner, false, "%s: no case has elements in every operand", sy_op_name(test->op));
}

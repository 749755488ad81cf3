#include "train/cost.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static double max2(double a, double b)
{
    return a > b ? a : b;
}

static double min2(double a, double b)
{
    return a < b ? a : b;
}

static double bytes_of(const sy_tensor *t)
{
    return t->data != NULL ? (double)sy_tensor_bytes(t) : 0;
}

/* ---- what an op asks for ---- */

/* The tensor of an operand, and the betas that decide whether it is read. */
static const sy_tensor *operand_of(const void *args, const sy_operand *o)
{
    return (const sy_tensor *)((const char *)args + o->offset);
}

static double beta_of(const void *args, const sy_operand *o)
{
    double beta = 0;
    memcpy(&beta, (const char *)args + o->beta_offset, sizeof beta);
    return beta;
}

/* Every operand once, those that are updated twice. */
static double operand_bytes(const sy_op_info *info, const void *args)
{
    double sum = 0;
    for (int32_t i = 0; i < info->n_operands; i++) {
        const sy_operand *o = &info->operands[i];
        const bool twice =
            o->role == SY_ROLE_UPDATE || (o->role == SY_ROLE_OUT_IF_ZERO && beta_of(args, o) != 0);
        sum += (twice ? 2 : 1) * bytes_of(operand_of(args, o));
    }
    return sum;
}

static int64_t side(const sy_tensor *t, bool trans, int32_t dim)
{
    return t->shape[trans ? 1 - dim : dim];
}

static void describe_product(sy_work *w)
{
    w->flops = 2.0 * (double)w->rows * (double)w->out * (double)w->in;
}

/* A linear layer's product is one of three: what it multiplies with, or adds to, is a weight. */
static void describe_gemm(const sy_gemm_args *a, sy_work *w)
{
    const int64_t M = side(&a->a, a->trans_a, 0), K = side(&a->a, a->trans_a, 1);
    const int64_t N = side(&a->b, a->trans_b, 1);
    const sy_grouped_form form = a->trans_a   ? SY_GROUPED_TN
                                 : a->trans_b ? SY_GROUPED_NT
                                              : SY_GROUPED_NN;
    const sy_tensor *weight = form == SY_GROUPED_TN ? &a->c : &a->b;
    w->kind += (int32_t)form;
    w->weights = bytes_of(weight) * (form == SY_GROUPED_TN && a->beta != 0 ? 2 : 1);
    w->bytes -= w->weights;
    w->rows = form == SY_GROUPED_TN ? K : M;
    w->out = form == SY_GROUPED_TN ? M : form == SY_GROUPED_NN ? K : N;
    w->in = form == SY_GROUPED_NN ? N : form == SY_GROUPED_TN ? N : K;
    w->groups = 1;
    describe_product(w);
}

static void describe_grouped(const sy_grouped_gemm_args *a, sy_work *w)
{
    const sy_tensor *weight = a->form == SY_GROUPED_TN ? &a->c : &a->b;
    w->kind += (int32_t)a->form;
    w->weights = bytes_of(weight) * (a->form == SY_GROUPED_TN ? 2 : 1);
    w->bytes -= w->weights;
    w->rows = a->a.shape[0];
    w->groups = weight->shape[0];
    w->out = weight->shape[1];
    w->in = weight->shape[2];
    describe_product(w);
    if (a->width.data != NULL) { /* experts of different size */
        w->flops *= a->mean_width / (double)weight->shape[a->units == SY_UNITS_ROWS ? 1 : 2];
    }
}

/* Pairs of a causal mask: 2 D + 2 D_v FLOPs each forward, 6 D + 4 D_v backward (five products; Dao
 * et al. 2022). */
static double attention_pairs(const sy_tensor *q, const sy_tensor *k, int32_t B)
{
    const double Sq = B > 0 ? (double)q->shape[0] / B : 0,
                 Skv = B > 0 ? (double)k->shape[0] / B : 0;
    return (double)B * (double)q->shape[1] * (Sq * (Skv - Sq) + Sq * (Sq + 1) / 2);
}

static void describe_attention(const sy_attention_args *a, sy_work *w)
{
    w->flops = 2 * (double)(a->q.shape[2] + a->v.shape[2]) * attention_pairs(&a->q, &a->k, a->B);
}

static void describe_attention_backward(const sy_attention_backward_args *a, sy_work *w)
{
    w->flops = (6 * (double)a->q.shape[2] + 4 * (double)a->v.shape[2]) *
               attention_pairs(&a->q, &a->k, a->B);
}

/* Of a table only the rows that are asked for move. */
static void describe_lookup(const sy_tensor *table, const sy_tensor *rows, double times, sy_work *w)
{
    w->bytes -= times * (bytes_of(table) - min2(bytes_of(table), bytes_of(rows)));
}

sy_work sy_work_of(sy_op op, const void *args)
{
    const sy_op_info *info = sy_op_describe(op);
    sy_work w = {.kind = (int32_t)op * SY_COST_FORMS, .bytes = operand_bytes(info, args)};
    w.narrow = operand_of(args, &info->operands[0])->dtype == SY_BF16;
    if (op == SY_OP_gemm) {
        describe_gemm(args, &w);
    } else if (op == SY_OP_grouped_gemm) {
        describe_grouped(args, &w);
    } else if (op == SY_OP_attention) {
        describe_attention(args, &w);
    } else if (op == SY_OP_attention_backward) {
        describe_attention_backward(args, &w);
    } else if (op == SY_OP_embed) {
        const sy_embed_args *a = args;
        describe_lookup(&a->w, &a->y, 1, &w);
    } else if (op == SY_OP_embed_backward) {
        const sy_embed_backward_args *a = args;
        describe_lookup(&a->dw, &a->dy, 2, &w);
    } else if (op == SY_OP_gather_rows) {
        const sy_gather_rows_args *a = args;
        describe_lookup(&a->x, &a->y, 1, &w);
    } else if (op == SY_OP_rope) {
        const sy_rope_args *a = args;
        describe_lookup(&a->table, &a->x, 1, &w);
    }
    return w;
}

sy_work sy_work_copy(int64_t bytes, bool zero)
{
    return (sy_work){.kind = SY_COST_COPY, .bytes = (zero ? 1.0 : 2.0) * (double)bytes};
}

const char *sy_cost_name(int32_t kind, char *buf, size_t buf_bytes)
{
    static const char *const forms[SY_COST_FORMS] = {"NT", "NN", "TN"};
    const sy_op op = (sy_op)(kind / SY_COST_FORMS);
    const bool product = op == SY_OP_gemm || op == SY_OP_grouped_gemm;
    if (kind == SY_COST_COPY) {
        snprintf(buf, buf_bytes, "copy");
    } else {
        snprintf(buf, buf_bytes, "%s%s%s", sy_op_name(op), product ? " " : "",
                 product ? forms[kind % SY_COST_FORMS] : "");
    }
    return buf;
}

/* ---- how long it takes ---- */

/* FLOPs with rows that only fill a tile, and at the rate of large products. */
static double effective_flops(const sy_machine *m, const sy_work *w)
{
    double flops = w->flops;
    if (w->rows > 0 && m->tile_rows > 1) {
        const double rows = (double)w->rows / (double)w->groups, tile = m->tile_rows;
        flops *= ceil(rows / tile) * tile / rows;
    }
    if (w->rows > 0 && (w->out < w->in ? w->out : w->in) < m->small_side) {
        flops /= m->small_factor;
    }
    return flops;
}

double sy_work_seconds(const sy_machine *m, const sy_work *w)
{
    const sy_rate *r = &m->rate[w->narrow][w->kind];
    const double far = w->groups > 0 ? w->weights : max2(0, w->bytes - m->near_bytes);
    const double compute = r->flop * effective_flops(m, w);
    const double memory = r->byte * w->bytes + r->far * far;
    if (w->bytes + w->weights <= 0) {
        return 0;
    }
    return r->call + (m->roofline ? max2(compute, memory) : compute + memory);
}

/* ---- collectives ---- */

/* Ranks of a group that stand on one node. */
static int32_t together(const sy_machine *m, const sy_traffic *t)
{
    const int32_t n = t->stride < m->ranks_per_node ? m->ranks_per_node / t->stride : 1;
    return n < t->size ? n : t->size;
}

static bool is(const sy_traffic *t, const char *name)
{
    return strcmp(t->collective, name) == 0;
}

/* How often the array passes a rank's link: twice for a sum that everybody gets. */
static double crossings(const sy_traffic *t)
{
    return is(t, "all_reduce") ? 2 : 1;
}

double sy_traffic_sent(const sy_traffic *t)
{
    return crossings(t) * (double)t->bytes * (t->size - 1) / t->size;
}

/* Rows for ranks of this node and for those beyond go at the same time, over links of their own. */
static double all_to_all_seconds(const sy_machine *m, const sy_traffic *t)
{
    const int32_t near = together(m, t);
    const double part = (double)t->bytes / t->size;
    const double inside = part * (near - 1) / m->in_node.bytes_per_s;
    const double beyond = part * (t->size - near) / m->between.bytes_per_s;
    const double start = near < t->size ? m->between.start_s : m->in_node.start_s;
    return start + max2(inside, beyond);
}

/* Rings through all ranks: those of a node share its way out, one link each. */
static double ring_seconds(const sy_machine *m, const sy_traffic *t)
{
    const int32_t near = together(m, t);
    double rate = m->in_node.bytes_per_s, start = m->in_node.start_s;
    if (near < t->size) {
        rate = min2(rate, near * m->between.bytes_per_s);
        start = m->between.start_s * ceil(log2((double)t->size / near)) + m->in_node.start_s;
    }
    return crossings(t) * start + sy_traffic_sent(t) / rate;
}

/* Linear between the points, and beyond the last one as between the last two. */
static double read_curve(const sy_curve *c, double bytes)
{
    int32_t i = 1;
    if (c->n == 1 || bytes <= c->bytes[0]) {
        return c->seconds[0];
    }
    while (i < c->n - 1 && bytes > c->bytes[i]) {
        i++;
    }
    const double slope = (c->seconds[i] - c->seconds[i - 1]) / (c->bytes[i] - c->bytes[i - 1]);
    return c->seconds[i] + slope * (bytes - c->bytes[i]);
}

static const sy_curve *curve_of(const sy_machine *m, const sy_traffic *t)
{
    static const char *const names[SY_N_CURVES] = {"all_to_all", "all_reduce", "reduce_scatter",
                                                   "all_gather"};
    for (int32_t i = 0; i < SY_N_CURVES; i++) {
        if (is(t, names[i]) && m->measured_ranks > 1 && m->curve[i].n > 0) {
            return &m->curve[i];
        }
    }
    return NULL;
}

double sy_traffic_seconds(const sy_machine *m, const sy_traffic *t)
{
    const sy_curve *curve = curve_of(m, t);
    if (t->size <= 1) {
        return 0;
    }
    if (curve != NULL) { /* measured by the bytes of an array; the share that travels differs */
        const double n = m->measured_ranks;
        const double share = ((t->size - 1.0) / t->size) / ((n - 1) / n);
        return read_curve(curve, (double)t->bytes * share);
    }
    return is(t, "all_to_all") || is(t, "send_recv") ? all_to_all_seconds(m, t)
                                                     : ring_seconds(m, t);
}

/* Causal attention said as cuDNN's operations, forward and backward (Dao et al. 2022): cuDNN knows
   these two graphs as a whole and has one kernel for each. */
#include "backend/cuda/sdpa_impl.h"

enum { N_DIMS = 4, FIRST_VIRTUAL_ID = 100 };

typedef struct dims {
    int64_t n[N_DIMS];
} dims;

/* ---- tensors ---- */

static dims packed(dims shape)
{
    dims stride = {{0, 0, 0, 1}};
    for (int32_t i = N_DIMS - 2; i >= 0; i--) {
        stride.n[i] = stride.n[i + 1] * shape.n[i + 1];
    }
    return stride;
}

static void *describe(sy__sdpa_builder *b, int64_t id, sy_cudnn_type type, int64_t alignment,
                      dims shape, dims stride)
{
    void *t = sy__desc_create(b, SY_CUDNN_TENSOR);
    sy__desc_set_int64(b, t, SY_CUDNN_TENSOR_ID, id);
    sy__desc_set_int(b, t, SY_CUDNN_TENSOR_TYPE, SY_CUDNN_OF_DATA_TYPE, (int)type);
    sy__desc_set(b, t, SY_CUDNN_TENSOR_SHAPE, SY_CUDNN_OF_INT64, N_DIMS, shape.n);
    sy__desc_set(b, t, SY_CUDNN_TENSOR_STRIDES, SY_CUDNN_OF_INT64, N_DIMS, stride.n);
    sy__desc_set_int64(b, t, SY_CUDNN_TENSOR_ALIGNMENT, alignment);
    return t;
}

/* [B, heads, S, D] of an operand [B*S, heads, D]. */
static void *operand(sy__sdpa_builder *b, sy__sdpa_id id, int64_t heads, int64_t D)
{
    const int64_t row = b->out->form.row[id], head = b->out->form.head[id], S = b->out->form.S;
    void *t = describe(b, id, SY_CUDNN_BF16, 16, (dims){{b->out->form.B, heads, S, D}},
                       (dims){{S * row, head, row, 1}});
    sy__desc_finish(b, t);
    return t;
}

/* Its transpose [B, heads, D, S]. */
static void *transposed(sy__sdpa_builder *b, sy__sdpa_id id, int64_t heads, int64_t D)
{
    const int64_t row = b->out->form.row[id], head = b->out->form.head[id], S = b->out->form.S;
    void *t = describe(b, id, SY_CUDNN_BF16, 16, (dims){{b->out->form.B, heads, D, S}},
                       (dims){{S * row, head, 1, row}});
    sy__desc_finish(b, t);
    return t;
}

/* [B, n_heads, S, 1] of what ops hold as [B*S, n_heads]. */
static void *lse_operand(sy__sdpa_builder *b)
{
    const sy__sdpa_form *f = &b->out->form;
    const int64_t row = f->row[SY__SDPA_LSE];
    void *t = describe(b, SY__SDPA_LSE, SY_CUDNN_FLOAT, 4, (dims){{f->B, f->n_heads, f->S, 1}},
                       (dims){{f->S * row, 1, row, 1}});
    sy__desc_finish(b, t);
    return t;
}

/* fp32 in our own workspace. */
static void *buffer(sy__sdpa_builder *b, sy__sdpa_id id, int64_t D)
{
    const dims shape = {{b->out->form.B, b->out->form.n_heads, b->out->form.S, D}};
    void *t = describe(b, id, SY_CUDNN_FLOAT, 16, shape, packed(shape));
    sy__desc_finish(b, t);
    return t;
}

static void *host_number(sy__sdpa_builder *b, sy__sdpa_id id)
{
    const dims one = {{1, 1, 1, 1}};
    void *t = describe(b, id, SY_CUDNN_FLOAT, 16, one, one);
    sy__desc_set_true(b, t, SY_CUDNN_TENSOR_BY_VALUE);
    sy__desc_finish(b, t);
    return t;
}

static void *never_stored(sy__sdpa_builder *b, sy_cudnn_type type, dims shape, dims stride)
{
    void *t = describe(b, FIRST_VIRTUAL_ID + b->n_virtual++, type, 16, shape, stride);
    sy__desc_set_true(b, t, SY_CUDNN_TENSOR_VIRTUAL);
    sy__desc_finish(b, t);
    return t;
}

/* [B, n_heads, S, n]: n = S, a number per query and key; n = 1, per query. */
static void *per_query(sy__sdpa_builder *b, sy_cudnn_type type, int64_t n)
{
    const dims shape = {{b->out->form.B, b->out->form.n_heads, b->out->form.S, n}};
    return never_stored(b, type, shape, packed(shape));
}

/* ---- operations ---- */

static void add_op(sy__sdpa_builder *b, void *op)
{
    sy__desc_finish(b, op);
    if (b->n_ops == SY__SDPA_OPS) {
        b->declined = true;
    } else {
        b->op[b->n_ops++] = op;
    }
}

static void matmul(sy__sdpa_builder *b, void *x, void *y, void *out)
{
    void *how = sy__desc_create(b, SY_CUDNN_MATMUL);
    sy__desc_set_int(b, how, SY_CUDNN_MATMUL_PRECISION, SY_CUDNN_OF_DATA_TYPE, SY_CUDNN_FLOAT);
    sy__desc_finish(b, how);
    void *op = sy__desc_create(b, SY_CUDNN_OP_MATMUL);
    sy__desc_set_desc(b, op, SY_CUDNN_OP_MATMUL_A, x);
    sy__desc_set_desc(b, op, SY_CUDNN_OP_MATMUL_B, y);
    sy__desc_set_desc(b, op, SY_CUDNN_OP_MATMUL_C, out);
    sy__desc_set_desc(b, op, SY_CUDNN_OP_MATMUL_HOW, how);
    add_op(b, op);
}

/* out = x (mode) y; y and t NULL where the mode has none. */
static void pointwise(sy__sdpa_builder *b, sy_cudnn_pointwise mode, void *x, void *y, void *t,
                      void *out)
{
    void *how = sy__desc_create(b, SY_CUDNN_POINTWISE);
    sy__desc_set_int(b, how, SY_CUDNN_POINTWISE_MODE, SY_CUDNN_OF_POINTWISE, (int)mode);
    sy__desc_set_int(b, how, SY_CUDNN_POINTWISE_PRECISION, SY_CUDNN_OF_DATA_TYPE,
                     mode == SY_CUDNN_GREATER_EQUAL ? SY_CUDNN_BOOLEAN : SY_CUDNN_FLOAT);
    sy__desc_finish(b, how);
    void *op = sy__desc_create(b, SY_CUDNN_OP_POINTWISE);
    sy__desc_set_desc(b, op, SY_CUDNN_OP_POINTWISE_HOW, how);
    sy__desc_set_desc(b, op, SY_CUDNN_OP_POINTWISE_X, x);
    if (y) {
        sy__desc_set_desc(b, op, SY_CUDNN_OP_POINTWISE_B, y);
    }
    if (t) {
        sy__desc_set_desc(b, op, SY_CUDNN_OP_POINTWISE_T, t);
    }
    sy__desc_set_desc(b, op, SY_CUDNN_OP_POINTWISE_Y, out);
    add_op(b, op);
}

static void *scores_after(sy__sdpa_builder *b, sy_cudnn_pointwise mode, void *x, void *y)
{
    void *out = per_query(b, SY_CUDNN_FLOAT, b->out->form.S);
    pointwise(b, mode, x, y, NULL, out);
    return out;
}

static void *place_along(sy__sdpa_builder *b, int64_t axis, void *scores)
{
    void *out = per_query(b, SY_CUDNN_INT32, b->out->form.S);
    void *how = sy__desc_create(b, SY_CUDNN_POINTWISE);
    sy__desc_set_int(b, how, SY_CUDNN_POINTWISE_MODE, SY_CUDNN_OF_POINTWISE, SY_CUDNN_INDEX);
    sy__desc_set_int(b, how, SY_CUDNN_POINTWISE_PRECISION, SY_CUDNN_OF_DATA_TYPE, SY_CUDNN_FLOAT);
    sy__desc_set_int64(b, how, SY_CUDNN_POINTWISE_AXIS, axis);
    sy__desc_finish(b, how);
    void *op = sy__desc_create(b, SY_CUDNN_OP_POINTWISE);
    sy__desc_set_desc(b, op, SY_CUDNN_OP_POINTWISE_HOW, how);
    sy__desc_set_desc(b, op, SY_CUDNN_OP_POINTWISE_X, scores);
    sy__desc_set_desc(b, op, SY_CUDNN_OP_POINTWISE_Y, out);
    add_op(b, op);
    return out;
}

/* A query sees the keys up to its own place. */
static void *causal(sy__sdpa_builder *b, void *scores)
{
    void *row = place_along(b, 2, scores), *col = place_along(b, 3, scores);
    void *seen = per_query(b, SY_CUDNN_BOOLEAN, b->out->form.S);
    pointwise(b, SY_CUDNN_GREATER_EQUAL, row, col, NULL, seen);
    void *out = per_query(b, SY_CUDNN_FLOAT, b->out->form.S);
    pointwise(b, SY_CUDNN_SELECT, scores, host_number(b, SY__SDPA_HIDDEN), seen, out);
    return out;
}

static void reduce(sy__sdpa_builder *b, int with, void *x, void *out)
{
    void *how = sy__desc_create(b, SY_CUDNN_REDUCTION);
    sy__desc_set_int(b, how, SY_CUDNN_REDUCTION_PRECISION, SY_CUDNN_OF_DATA_TYPE, SY_CUDNN_FLOAT);
    sy__desc_set_int(b, how, SY_CUDNN_REDUCTION_OPERATOR, SY_CUDNN_OF_REDUCTION, with);
    sy__desc_finish(b, how);
    void *op = sy__desc_create(b, SY_CUDNN_OP_REDUCTION);
    sy__desc_set_desc(b, op, SY_CUDNN_OP_REDUCTION_X, x);
    sy__desc_set_desc(b, op, SY_CUDNN_OP_REDUCTION_Y, out);
    sy__desc_set_desc(b, op, SY_CUDNN_OP_REDUCTION_HOW, how);
    add_op(b, op);
}

static void *reduced(sy__sdpa_builder *b, int with, void *x)
{
    void *out = per_query(b, SY_CUDNN_FLOAT, 1);
    reduce(b, with, x, out);
    return out;
}

static void reshape(sy__sdpa_builder *b, void *x, void *out)
{
    void *op = sy__desc_create(b, SY_CUDNN_OP_RESHAPE);
    sy__desc_set_desc(b, op, SY_CUDNN_OP_RESHAPE_X, x);
    sy__desc_set_desc(b, op, SY_CUDNN_OP_RESHAPE_Y, out);
    add_op(b, op);
}

/* bf16 numbers per query and key, seen as [B, n_heads, keys, queries]. */
static void *turned(sy__sdpa_builder *b, void *scores)
{
    const int64_t S = b->out->form.S;
    const dims shape = {{b->out->form.B, b->out->form.n_heads, S, S}};
    dims stride = packed(shape);
    stride.n[2] = 1;
    stride.n[3] = S;
    void *out = never_stored(b, SY_CUDNN_BF16, shape, stride);
    reshape(b, scores, out);
    return out;
}

/* ---- graphs ---- */

static void *scaled_scores(sy__sdpa_builder *b, void *q, void *k_t, void *scale)
{
    void *s = per_query(b, SY_CUDNN_FLOAT, b->out->form.S);
    matmul(b, q, k_t, s);
    return scores_after(b, SY_CUDNN_MUL, s, scale);
}

static void forward_graph(sy__sdpa_builder *b)
{
    const sy__sdpa_form *f = &b->out->form;
    void *q = operand(b, SY__SDPA_Q, f->n_heads, f->D);
    void *k_t = transposed(b, SY__SDPA_K, f->n_kv, f->D);
    void *v = operand(b, SY__SDPA_V, f->n_kv, f->D_v);
    void *s = causal(b, scaled_scores(b, q, k_t, host_number(b, SY__SDPA_SCALE)));
    void *max = reduced(b, SY_CUDNN_REDUCE_MAX, s);
    void *e = scores_after(b, SY_CUDNN_EXP, scores_after(b, SY_CUDNN_SUB, s, max), NULL);
    void *sum = reduced(b, SY_CUDNN_REDUCE_ADD, e);
    void *log = per_query(b, SY_CUDNN_FLOAT, 1);
    pointwise(b, SY_CUDNN_LOG, sum, NULL, NULL, log);
    pointwise(b, SY_CUDNN_ADD, max, log, NULL, lse_operand(b));
    void *p = per_query(b, SY_CUDNN_BF16, f->S);
    pointwise(b, SY_CUDNN_DIV, e, sum, NULL, p);
    matmul(b, p, v, operand(b, SY__SDPA_O, f->n_heads, f->D_v));
}

/* <dout, o> of each query. */
static void *delta_of(sy__sdpa_builder *b, void *dout)
{
    const sy__sdpa_form *f = &b->out->form;
    void *product = per_query(b, SY_CUDNN_FLOAT, f->D_v);
    void *out = buffer(b, SY__SDPA_DELTA, 1);
    pointwise(b, SY_CUDNN_MUL, dout, operand(b, SY__SDPA_O, f->n_heads, f->D_v), NULL, product);
    pointwise(b, SY_CUDNN_MUL, reduced(b, SY_CUDNN_REDUCE_ADD, product),
              host_number(b, SY__SDPA_ONE), NULL, out);
    return out;
}

/* The gradient of keys or values: weight^T x, summed over the queries' heads that share one. */
static void key_gradient(sy__sdpa_builder *b, void *weight, void *x, sy__sdpa_id id, int64_t D)
{
    const sy__sdpa_form *f = &b->out->form;
    void *out = operand(b, id, f->n_kv, D);
    if (f->n_heads == f->n_kv) {
        matmul(b, turned(b, weight), x, out);
    } else {
        void *each = per_query(b, SY_CUDNN_BF16, D);
        matmul(b, turned(b, weight), x, each);
        reduce(b, SY_CUDNN_REDUCE_ADD, each, out);
    }
}

static void query_gradient(sy__sdpa_builder *b, void *ds, void *k_t)
{
    const sy__sdpa_form *f = &b->out->form;
    const int64_t row = f->row[SY__SDPA_K], head = f->head[SY__SDPA_K];
    void *k = never_stored(b, SY_CUDNN_BF16, (dims){{f->B, f->n_kv, f->S, f->D}},
                           (dims){{f->S * row, head, row, 1}});
    void *sum = buffer(b, SY__SDPA_DQ_SUM, f->D);
    reshape(b, k_t, k);
    matmul(b, ds, k, sum);
    pointwise(b, SY_CUDNN_IDENTITY, sum, NULL, NULL, operand(b, SY__SDPA_DQ, f->n_heads, f->D));
}

static void backward_graph(sy__sdpa_builder *b)
{
    const sy__sdpa_form *f = &b->out->form;
    void *q = operand(b, SY__SDPA_Q, f->n_heads, f->D);
    void *k_t = transposed(b, SY__SDPA_K, f->n_kv, f->D);
    void *v_t = transposed(b, SY__SDPA_V, f->n_kv, f->D_v);
    void *dout = operand(b, SY__SDPA_DOUT, f->n_heads, f->D_v);
    void *scale = host_number(b, SY__SDPA_SCALE);
    void *delta = delta_of(b, dout);
    void *s = scaled_scores(b, q, k_t, scale);
    void *p = causal(b, scores_after(b, SY_CUDNN_SUB, s, lse_operand(b)));
    p = scores_after(b, SY_CUDNN_EXP, p, NULL);
    key_gradient(b, p, dout, SY__SDPA_DV, f->D_v);
    void *dp = per_query(b, SY_CUDNN_FLOAT, f->S);
    matmul(b, dout, v_t, dp);
    void *ds = scores_after(b, SY_CUDNN_MUL, scores_after(b, SY_CUDNN_SUB, dp, delta), p);
    ds = scores_after(b, SY_CUDNN_MUL, ds, scale);
    key_gradient(b, ds, q, SY__SDPA_DK, f->D);
    query_gradient(b, ds, k_t);
}

void *sy__sdpa_graph(sy__sdpa_builder *b, void *handle)
{
    (b->out->form.backward ? backward_graph : forward_graph)(b);
    void *graph = sy__desc_create(b, SY_CUDNN_GRAPH);
    sy__desc_set(b, graph, SY_CUDNN_GRAPH_OPS, SY_CUDNN_OF_DESCRIPTOR, b->n_ops, b->op);
    sy__desc_set(b, graph, SY_CUDNN_GRAPH_HANDLE, SY_CUDNN_OF_HANDLE, 1, &handle);
    sy__desc_finish(b, graph);
    return graph;
}

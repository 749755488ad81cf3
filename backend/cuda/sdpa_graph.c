/* Causal attention said as cuDNN's operations, forward and backward (Dao et al. 2022): cuDNN knows
   these two graphs as a whole and has one kernel for each. Whatever it declines, at whichever step,
   leaves no plan. Backward takes one engine by its number and knobs, because that is the only one
   on Hopper that sums dq in a fixed order without a buffer of S^2: dq is gathered in fp32, key
   block by key block. */
#include "backend/cuda/sdpa_impl.h"

#include <string.h>

enum {
    N_DIMS = 4,
    MAX_OPS = 32,
    N_ANSWERS = 4,
    N_NOTES = 16,
    MAX_KNOBS = 16,
    FIRST_VIRTUAL_ID = 100,
    PLANNED_TOKENS = 8192
};

typedef struct dims {
    int64_t n[N_DIMS];
} dims;

typedef struct builder {
    const sy_cudnn *lib;
    const sy__sdpa_form *form;
    sy__sdpa_plan *out;
    void *op[MAX_OPS];
    int64_t n_ops, n_virtual;
    bool declined; /* then nothing more is asked of cuDNN */
} builder;

static void check(builder *b, int status)
{
    b->declined = b->declined || status != SY_CUDNN_SUCCESS;
}

static void *create(builder *b, sy_cudnn_kind kind)
{
    void *desc = NULL;
    if (b->declined || b->out->n_desc == SY__SDPA_DESCRIPTORS) {
        b->declined = true;
        return NULL;
    }
    check(b, b->lib->cudnnBackendCreateDescriptor((int)kind, &desc));
    if (!b->declined) {
        b->out->desc[b->out->n_desc++] = desc;
    }
    return desc;
}

static void set(builder *b, void *desc, sy_cudnn_attribute attribute, sy_cudnn_of of, int64_t count,
                const void *elements)
{
    if (!b->declined) {
        check(b, b->lib->cudnnBackendSetAttribute(desc, (int)attribute, (int)of, count, elements));
    }
}

static void set_int(builder *b, void *desc, sy_cudnn_attribute attribute, sy_cudnn_of of, int value)
{
    set(b, desc, attribute, of, 1, &value);
}

static void set_int64(builder *b, void *desc, sy_cudnn_attribute attribute, int64_t value)
{
    set(b, desc, attribute, SY_CUDNN_OF_INT64, 1, &value);
}

static void set_true(builder *b, void *desc, sy_cudnn_attribute attribute)
{
    const bool yes = true;
    set(b, desc, attribute, SY_CUDNN_OF_BOOLEAN, 1, &yes);
}

static void set_desc(builder *b, void *desc, sy_cudnn_attribute attribute, void *value)
{
    set(b, desc, attribute, SY_CUDNN_OF_DESCRIPTOR, 1, &value);
}

static void finish(builder *b, void *desc)
{
    if (!b->declined) {
        check(b, b->lib->cudnnBackendFinalize(desc));
    }
}

/* ---- tensors ---- */

static dims packed(dims shape)
{
    dims stride = {{0, 0, 0, 1}};
    for (int32_t i = N_DIMS - 2; i >= 0; i--) {
        stride.n[i] = stride.n[i + 1] * shape.n[i + 1];
    }
    return stride;
}

static void *describe(builder *b, int64_t id, sy_cudnn_type type, int64_t alignment, dims shape,
                      dims stride)
{
    void *t = create(b, SY_CUDNN_TENSOR);
    set_int64(b, t, SY_CUDNN_TENSOR_ID, id);
    set_int(b, t, SY_CUDNN_TENSOR_TYPE, SY_CUDNN_OF_DATA_TYPE, (int)type);
    set(b, t, SY_CUDNN_TENSOR_SHAPE, SY_CUDNN_OF_INT64, N_DIMS, shape.n);
    set(b, t, SY_CUDNN_TENSOR_STRIDES, SY_CUDNN_OF_INT64, N_DIMS, stride.n);
    set_int64(b, t, SY_CUDNN_TENSOR_ALIGNMENT, alignment);
    return t;
}

/* [B, heads, S, D] of an operand [B*S, heads, D]. */
static void *operand(builder *b, sy__sdpa_id id, int64_t heads, int64_t D)
{
    const int64_t row = b->form->row[id], head = b->form->head[id], S = b->form->S;
    void *t = describe(b, id, SY_CUDNN_BF16, 16, (dims){{b->form->B, heads, S, D}},
                       (dims){{S * row, head, row, 1}});
    finish(b, t);
    return t;
}

/* Its transpose [B, heads, D, S]. */
static void *transposed(builder *b, sy__sdpa_id id, int64_t heads, int64_t D)
{
    const int64_t row = b->form->row[id], head = b->form->head[id], S = b->form->S;
    void *t = describe(b, id, SY_CUDNN_BF16, 16, (dims){{b->form->B, heads, D, S}},
                       (dims){{S * row, head, 1, row}});
    finish(b, t);
    return t;
}

/* [B, n_heads, S, 1] of what ops hold as [B*S, n_heads]. */
static void *lse_operand(builder *b)
{
    const sy__sdpa_form *f = b->form;
    const int64_t row = f->row[SY__SDPA_LSE];
    void *t = describe(b, SY__SDPA_LSE, SY_CUDNN_FLOAT, 4, (dims){{f->B, f->n_heads, f->S, 1}},
                       (dims){{f->S * row, 1, row, 1}});
    finish(b, t);
    return t;
}

/* fp32 in our own workspace. */
static void *buffer(builder *b, sy__sdpa_id id, int64_t D)
{
    const dims shape = {{b->form->B, b->form->n_heads, b->form->S, D}};
    void *t = describe(b, id, SY_CUDNN_FLOAT, 16, shape, packed(shape));
    finish(b, t);
    return t;
}

static void *host_number(builder *b, sy__sdpa_id id)
{
    const dims one = {{1, 1, 1, 1}};
    void *t = describe(b, id, SY_CUDNN_FLOAT, 16, one, one);
    set_true(b, t, SY_CUDNN_TENSOR_BY_VALUE);
    finish(b, t);
    return t;
}

static void *never_stored(builder *b, sy_cudnn_type type, dims shape, dims stride)
{
    void *t = describe(b, FIRST_VIRTUAL_ID + b->n_virtual++, type, 16, shape, stride);
    set_true(b, t, SY_CUDNN_TENSOR_VIRTUAL);
    finish(b, t);
    return t;
}

/* [B, n_heads, S, n]: n = S, a number per query and key; n = 1, per query. */
static void *per_query(builder *b, sy_cudnn_type type, int64_t n)
{
    const dims shape = {{b->form->B, b->form->n_heads, b->form->S, n}};
    return never_stored(b, type, shape, packed(shape));
}

/* ---- operations ---- */

static void add_op(builder *b, void *op)
{
    finish(b, op);
    if (b->n_ops == MAX_OPS) {
        b->declined = true;
    } else {
        b->op[b->n_ops++] = op;
    }
}

static void matmul(builder *b, void *x, void *y, void *out)
{
    void *how = create(b, SY_CUDNN_MATMUL);
    set_int(b, how, SY_CUDNN_MATMUL_PRECISION, SY_CUDNN_OF_DATA_TYPE, SY_CUDNN_FLOAT);
    finish(b, how);
    void *op = create(b, SY_CUDNN_OP_MATMUL);
    set_desc(b, op, SY_CUDNN_OP_MATMUL_A, x);
    set_desc(b, op, SY_CUDNN_OP_MATMUL_B, y);
    set_desc(b, op, SY_CUDNN_OP_MATMUL_C, out);
    set_desc(b, op, SY_CUDNN_OP_MATMUL_HOW, how);
    add_op(b, op);
}

/* out = x (mode) y; y and t NULL where the mode has none. */
static void pointwise(builder *b, sy_cudnn_pointwise mode, void *x, void *y, void *t, void *out)
{
    void *how = create(b, SY_CUDNN_POINTWISE);
    set_int(b, how, SY_CUDNN_POINTWISE_MODE, SY_CUDNN_OF_POINTWISE, (int)mode);
    set_int(b, how, SY_CUDNN_POINTWISE_PRECISION, SY_CUDNN_OF_DATA_TYPE,
            mode == SY_CUDNN_GREATER_EQUAL ? SY_CUDNN_BOOLEAN : SY_CUDNN_FLOAT);
    finish(b, how);
    void *op = create(b, SY_CUDNN_OP_POINTWISE);
    set_desc(b, op, SY_CUDNN_OP_POINTWISE_HOW, how);
    set_desc(b, op, SY_CUDNN_OP_POINTWISE_X, x);
    if (y) {
        set_desc(b, op, SY_CUDNN_OP_POINTWISE_B, y);
    }
    if (t) {
        set_desc(b, op, SY_CUDNN_OP_POINTWISE_T, t);
    }
    set_desc(b, op, SY_CUDNN_OP_POINTWISE_Y, out);
    add_op(b, op);
}

static void *scores_after(builder *b, sy_cudnn_pointwise mode, void *x, void *y)
{
    void *out = per_query(b, SY_CUDNN_FLOAT, b->form->S);
    pointwise(b, mode, x, y, NULL, out);
    return out;
}

static void *place_along(builder *b, int64_t axis, void *scores)
{
    void *out = per_query(b, SY_CUDNN_INT32, b->form->S);
    void *how = create(b, SY_CUDNN_POINTWISE);
    set_int(b, how, SY_CUDNN_POINTWISE_MODE, SY_CUDNN_OF_POINTWISE, SY_CUDNN_INDEX);
    set_int(b, how, SY_CUDNN_POINTWISE_PRECISION, SY_CUDNN_OF_DATA_TYPE, SY_CUDNN_FLOAT);
    set_int64(b, how, SY_CUDNN_POINTWISE_AXIS, axis);
    finish(b, how);
    void *op = create(b, SY_CUDNN_OP_POINTWISE);
    set_desc(b, op, SY_CUDNN_OP_POINTWISE_HOW, how);
    set_desc(b, op, SY_CUDNN_OP_POINTWISE_X, scores);
    set_desc(b, op, SY_CUDNN_OP_POINTWISE_Y, out);
    add_op(b, op);
    return out;
}

/* A query sees the keys up to its own place. */
static void *causal(builder *b, void *scores)
{
    void *row = place_along(b, 2, scores), *col = place_along(b, 3, scores);
    void *seen = per_query(b, SY_CUDNN_BOOLEAN, b->form->S);
    pointwise(b, SY_CUDNN_GREATER_EQUAL, row, col, NULL, seen);
    void *out = per_query(b, SY_CUDNN_FLOAT, b->form->S);
    pointwise(b, SY_CUDNN_SELECT, scores, host_number(b, SY__SDPA_HIDDEN), seen, out);
    return out;
}

static void reduce(builder *b, int with, void *x, void *out)
{
    void *how = create(b, SY_CUDNN_REDUCTION);
    set_int(b, how, SY_CUDNN_REDUCTION_PRECISION, SY_CUDNN_OF_DATA_TYPE, SY_CUDNN_FLOAT);
    set_int(b, how, SY_CUDNN_REDUCTION_OPERATOR, SY_CUDNN_OF_REDUCTION, with);
    finish(b, how);
    void *op = create(b, SY_CUDNN_OP_REDUCTION);
    set_desc(b, op, SY_CUDNN_OP_REDUCTION_X, x);
    set_desc(b, op, SY_CUDNN_OP_REDUCTION_Y, out);
    set_desc(b, op, SY_CUDNN_OP_REDUCTION_HOW, how);
    add_op(b, op);
}

static void *reduced(builder *b, int with, void *x)
{
    void *out = per_query(b, SY_CUDNN_FLOAT, 1);
    reduce(b, with, x, out);
    return out;
}

static void reshape(builder *b, void *x, void *out)
{
    void *op = create(b, SY_CUDNN_OP_RESHAPE);
    set_desc(b, op, SY_CUDNN_OP_RESHAPE_X, x);
    set_desc(b, op, SY_CUDNN_OP_RESHAPE_Y, out);
    add_op(b, op);
}

/* bf16 numbers per query and key, seen as [B, n_heads, keys, queries]. */
static void *turned(builder *b, void *scores)
{
    const int64_t S = b->form->S;
    const dims shape = {{b->form->B, b->form->n_heads, S, S}};
    dims stride = packed(shape);
    stride.n[2] = 1;
    stride.n[3] = S;
    void *out = never_stored(b, SY_CUDNN_BF16, shape, stride);
    reshape(b, scores, out);
    return out;
}

/* ---- graphs ---- */

static void *scaled_scores(builder *b, void *q, void *k_t, void *scale)
{
    void *s = per_query(b, SY_CUDNN_FLOAT, b->form->S);
    matmul(b, q, k_t, s);
    return scores_after(b, SY_CUDNN_MUL, s, scale);
}

static void forward_graph(builder *b)
{
    const sy__sdpa_form *f = b->form;
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
static void *delta_of(builder *b, void *dout)
{
    const sy__sdpa_form *f = b->form;
    void *product = per_query(b, SY_CUDNN_FLOAT, f->D_v);
    void *out = buffer(b, SY__SDPA_DELTA, 1);
    pointwise(b, SY_CUDNN_MUL, dout, operand(b, SY__SDPA_O, f->n_heads, f->D_v), NULL, product);
    pointwise(b, SY_CUDNN_MUL, reduced(b, SY_CUDNN_REDUCE_ADD, product),
              host_number(b, SY__SDPA_ONE), NULL, out);
    return out;
}

/* The gradient of keys or values: weight^T x, summed over the queries' heads that share one. */
static void key_gradient(builder *b, void *weight, void *x, sy__sdpa_id id, int64_t D)
{
    const sy__sdpa_form *f = b->form;
    void *out = operand(b, id, f->n_kv, D);
    if (f->n_heads == f->n_kv) {
        matmul(b, turned(b, weight), x, out);
    } else {
        void *each = per_query(b, SY_CUDNN_BF16, D);
        matmul(b, turned(b, weight), x, each);
        reduce(b, SY_CUDNN_REDUCE_ADD, each, out);
    }
}

static void query_gradient(builder *b, void *ds, void *k_t)
{
    const sy__sdpa_form *f = b->form;
    const int64_t row = f->row[SY__SDPA_K], head = f->head[SY__SDPA_K];
    void *k = never_stored(b, SY_CUDNN_BF16, (dims){{f->B, f->n_kv, f->S, f->D}},
                           (dims){{f->S * row, head, row, 1}});
    void *sum = buffer(b, SY__SDPA_DQ_SUM, f->D);
    reshape(b, k_t, k);
    matmul(b, ds, k, sum);
    pointwise(b, SY_CUDNN_IDENTITY, sum, NULL, NULL, operand(b, SY__SDPA_DQ, f->n_heads, f->D));
}

static void backward_graph(builder *b)
{
    const sy__sdpa_form *f = b->form;
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

static void *graph_of(builder *b, void *handle)
{
    void *graph = create(b, SY_CUDNN_GRAPH);
    set(b, graph, SY_CUDNN_GRAPH_OPS, SY_CUDNN_OF_DESCRIPTOR, b->n_ops, b->op);
    set(b, graph, SY_CUDNN_GRAPH_HANDLE, SY_CUDNN_OF_HANDLE, 1, &handle);
    finish(b, graph);
    return graph;
}

/* ---- plans ---- */

/* An engine of cuDNN's and the values of its knobs. */
typedef struct recipe {
    int64_t engine, n_knobs;
    struct {
        int type;
        int64_t value;
    } knob[MAX_KNOBS];
} recipe;

/* The number of elements that are there, at most room of them now in elements. */
static int64_t get(builder *b, void *desc, sy_cudnn_attribute attribute, sy_cudnn_of of,
                   int64_t room, void *elements)
{
    int64_t n = 0;
    if (!b->declined) {
        check(b,
              b->lib->cudnnBackendGetAttribute(desc, (int)attribute, (int)of, room, &n, elements));
    }
    return b->declined ? 0 : n < room ? n : room;
}

/* The recipe of a configuration; false where its engine may not give the same bits every time. */
static bool read_recipe(builder *b, void *config, recipe *out)
{
    void *engine = create(b, SY_CUDNN_ENGINE), *knob[MAX_KNOBS];
    int note[N_NOTES];
    bool steady = true;
    for (int32_t i = 0; i < MAX_KNOBS; i++) {
        knob[i] = create(b, SY_CUDNN_KNOB);
    }
    get(b, config, SY_CUDNN_CONFIG_ENGINE, SY_CUDNN_OF_DESCRIPTOR, 1, &engine);
    get(b, engine, SY_CUDNN_ENGINE_INDEX, SY_CUDNN_OF_INT64, 1, &out->engine);
    const int64_t n_notes = get(b, engine, SY_CUDNN_ENGINE_NOTES, SY_CUDNN_OF_NOTE, N_NOTES, note);
    for (int64_t i = 0; i < n_notes; i++) {
        steady = steady && note[i] != SY_CUDNN_NOTE_NONDETERMINISTIC;
    }
    out->n_knobs = get(b, config, SY_CUDNN_CONFIG_KNOBS, SY_CUDNN_OF_DESCRIPTOR, MAX_KNOBS, knob);
    for (int64_t i = 0; i < out->n_knobs; i++) {
        get(b, knob[i], SY_CUDNN_KNOB_TYPE, SY_CUDNN_OF_KNOB, 1, &out->knob[i].type);
        get(b, knob[i], SY_CUDNN_KNOB_VALUE, SY_CUDNN_OF_INT64, 1, &out->knob[i].value);
    }
    return steady && !b->declined;
}

/* What cuDNN recommends for this form with PLANNED_TOKENS, the best first: a sequence's bits may
   not depend on how many others there are. */
static int32_t ask(const sy_cudnn *lib, void *handle, const sy__sdpa_form *form,
                   recipe out[N_ANSWERS])
{
    sy__sdpa_plan scratch = {.form = *form};
    builder b = {.lib = lib, .form = &scratch.form, .out = &scratch};
    void *config[N_ANSWERS];
    int32_t n_good = 0;
    scratch.form.B = form->S < PLANNED_TOKENS ? PLANNED_TOKENS / form->S : 1;
    forward_graph(&b);
    void *graph = graph_of(&b, handle), *heuristics = create(&b, SY_CUDNN_HEURISTICS);
    set_desc(&b, heuristics, SY_CUDNN_HEURISTICS_GRAPH, graph);
    set_int(&b, heuristics, SY_CUDNN_HEURISTICS_MODE, SY_CUDNN_OF_HEURISTIC, SY_CUDNN_HEURISTIC_A);
    finish(&b, heuristics);
    for (int32_t i = 0; i < N_ANSWERS; i++) {
        config[i] = create(&b, SY_CUDNN_CONFIG);
    }
    const int64_t n =
        get(&b, heuristics, SY_CUDNN_HEURISTICS_RESULTS, SY_CUDNN_OF_DESCRIPTOR, N_ANSWERS, config);
    for (int64_t i = 0; i < n; i++) {
        n_good += read_recipe(&b, config[i], &out[n_good]);
    }
    sy__sdpa_free(lib, &scratch);
    return n_good;
}

static void plan_by(builder *b, void *graph, const recipe *how, int64_t room_bytes)
{
    void *engine = create(b, SY_CUDNN_ENGINE), *config = create(b, SY_CUDNN_CONFIG);
    void *knob[MAX_KNOBS], *plan = NULL;
    int64_t bytes = 0;
    set_desc(b, engine, SY_CUDNN_ENGINE_GRAPH, graph);
    set_int64(b, engine, SY_CUDNN_ENGINE_INDEX, how->engine);
    finish(b, engine);
    for (int64_t i = 0; i < how->n_knobs; i++) {
        knob[i] = create(b, SY_CUDNN_KNOB);
        set_int(b, knob[i], SY_CUDNN_KNOB_TYPE, SY_CUDNN_OF_KNOB, how->knob[i].type);
        set_int64(b, knob[i], SY_CUDNN_KNOB_VALUE, how->knob[i].value);
        finish(b, knob[i]);
    }
    set_desc(b, config, SY_CUDNN_CONFIG_ENGINE, engine);
    set(b, config, SY_CUDNN_CONFIG_KNOBS, SY_CUDNN_OF_DESCRIPTOR, how->n_knobs, knob);
    finish(b, config);
    get(b, config, SY_CUDNN_CONFIG_WORKSPACE, SY_CUDNN_OF_INT64, 1, &bytes);
    if (!b->declined && bytes <= room_bytes) { /* only now: making a plan may take seconds */
        plan = create(b, SY_CUDNN_PLAN);
        set_desc(b, plan, SY_CUDNN_PLAN_CONFIG, config);
        finish(b, plan);
        get(b, plan, SY_CUDNN_PLAN_WORKSPACE, SY_CUDNN_OF_INT64, 1, &bytes);
    }
    if (!b->declined) {
        b->out->workspace_bytes = bytes;
        b->out->plan = bytes <= room_bytes ? plan : NULL;
    }
}

/* Hopper's backward kernel with tiles of 64 by 64, whose key blocks add to dq in their order. */
static const recipe in_order = {.engine = 6,
                                .n_knobs = 6,
                                .knob = {{SY_CUDNN_KNOB_TILE_M, 2},
                                         {SY_CUDNN_KNOB_TILE_N, 1},
                                         {SY_CUDNN_KNOB_KERNEL_CFG, 2},
                                         {SY_CUDNN_KNOB_STREAM_K, 0},
                                         {SY_CUDNN_KNOB_TILE_CGA_M, 0},
                                         {SY_CUDNN_KNOB_STAGES, 4}}};

void sy__sdpa_free(const sy_cudnn *lib, sy__sdpa_plan *plan)
{
    for (int32_t i = plan->n_desc - 1; i >= 0; i--) {
        lib->cudnnBackendDestroyDescriptor(plan->desc[i]);
    }
    plan->n_desc = 0;
    plan->plan = NULL;
}

static void build_by(const sy_cudnn *lib, void *handle, const recipe *how, int64_t room_bytes,
                     sy__sdpa_plan *out)
{
    builder b = {.lib = lib, .form = &out->form, .out = out};
    (out->form.backward ? backward_graph : forward_graph)(&b);
    plan_by(&b, graph_of(&b, handle), how, room_bytes);
    if (!out->plan) {
        sy__sdpa_free(lib, out);
    }
}

void sy__sdpa_build(const sy_cudnn *lib, void *handle, int64_t room_bytes, sy__sdpa_plan *out)
{
    recipe answer[N_ANSWERS];
    out->workspace_bytes = 0;
    if (out->form.backward) {
        build_by(lib, handle, &in_order, room_bytes, out);
        return;
    }
    const int32_t n = ask(lib, handle, &out->form, answer);
    for (int32_t i = 0; i < n && !out->plan; i++) {
        build_by(lib, handle, &answer[i], room_bytes, out);
    }
}

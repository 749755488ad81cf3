/* Graphs of the emulated cuDNN: operation by operation, on the tensors as they are described. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "tests/emulator/cudnn_impl.h"

enum { MAX_TENSORS = 64 };

/* A tensor's numbers, packed in the order of its dimensions. */
typedef struct value {
    const desc *tensor;
    double *x;
} value;

typedef struct machine {
    const execution *e;
    value values[MAX_TENSORS];
    int n;
} machine;

static double rounded(int type, double x)
{
    return type == SY_CUDNN_BF16 ? sy_bf16_to_f32(sy_bf16_from_f32((float)x)) : (double)(float)x;
}

/* Where element i of the packed order stands in memory. */
static int64_t place(const desc *tensor, int64_t i)
{
    const int64_t *shape = shape_of(tensor), *stride = longs(tensor, SY_CUDNN_TENSOR_STRIDES);
    int64_t at = 0;
    for (int d = DIMS - 1; d >= 0; d--) {
        at += i % shape[d] * stride[d];
        i /= shape[d];
    }
    return at;
}

int64_t emulator_cudnn_pointer(const execution *e, const desc *tensor)
{
    for (int64_t k = 0; k < e->n; k++) {
        if (e->id[k] == longs(tensor, SY_CUDNN_TENSOR_ID)[0]) {
            return k;
        }
    }
    fprintf(stderr, "emulator: cuDNN was given no address for tensor %lld\n",
            (long long)longs(tensor, SY_CUDNN_TENSOR_ID)[0]);
    abort();
}

static void load(const execution *e, value *v)
{
    const int64_t k = emulator_cudnn_pointer(e, v->tensor), n = numel(shape_of(v->tensor));
    const bool narrow = number(v->tensor, SY_CUDNN_TENSOR_TYPE) == SY_CUDNN_BF16;
    if (flag(v->tensor, SY_CUDNN_TENSOR_BY_VALUE)) {
        v->x[0] = e->host[k];
        return;
    }
    if ((uintptr_t)e->pointer[k] % (uintptr_t)longs(v->tensor, SY_CUDNN_TENSOR_ALIGNMENT)[0]) {
        fprintf(stderr, "emulator: a tensor of cuDNN's is not aligned as it was described\n");
        abort();
    }
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = place(v->tensor, i);
        v->x[i] = narrow ? sy_bf16_to_f32(((const sy_bf16 *)e->pointer[k])[at])
                         : ((const float *)e->pointer[k])[at];
    }
}

/* The numbers of a tensor: those of an operation before, or, if it is the first to use it, of
   memory. */
static double *numbers(machine *m, const desc *tensor)
{
    for (int i = 0; i < m->n; i++) {
        if (m->values[i].tensor == tensor) {
            return m->values[i].x;
        }
    }
    value *v = &m->values[m->n++];
    *v = (value){tensor, calloc((size_t)numel(shape_of(tensor)), sizeof(double))};
    if (m->n == MAX_TENSORS || !v->x) {
        abort();
    }
    if (!flag(tensor, SY_CUDNN_TENSOR_VIRTUAL)) {
        load(m->e, v);
    }
    return v->x;
}

static int64_t span(const desc *tensor)
{
    return place(tensor, numel(shape_of(tensor)) - 1) + 1;
}

/* Where to write a tensor: what cuDNN was given for itself is none of it. */
static void *target(const execution *e, const desc *tensor)
{
    char *to = e->pointer[emulator_cudnn_pointer(e, tensor)];
    if (to < e->workspace + e->workspace_bytes &&
        to + span(tensor) * (int64_t)sizeof(sy_bf16) > e->workspace) {
        fprintf(stderr, "emulator: a tensor of cuDNN's lies in its workspace\n");
        abort();
    }
    return to;
}

/* What an operation has computed is rounded, and written if it has an address. */
static void finish(machine *m, const desc *tensor)
{
    const int type = number(tensor, SY_CUDNN_TENSOR_TYPE);
    double *x = numbers(m, tensor);
    void *to = flag(tensor, SY_CUDNN_TENSOR_VIRTUAL) ? NULL : target(m->e, tensor);
    for (int64_t i = 0; i < numel(shape_of(tensor)); i++) {
        x[i] = rounded(type, x[i]);
        if (to && type == SY_CUDNN_BF16) {
            ((sy_bf16 *)to)[place(tensor, i)] = sy_bf16_from_f32((float)x[i]);
        } else if (to) {
            ((float *)to)[place(tensor, i)] = (float)x[i];
        }
    }
}

static void run_matmul(machine *m, const desc *op)
{
    const desc *a = other(op, SY_CUDNN_OP_MATMUL_A, 0), *b = other(op, SY_CUDNN_OP_MATMUL_B, 0);
    const desc *c = other(op, SY_CUDNN_OP_MATMUL_C, 0);
    const int64_t M = shape_of(a)[2], K = shape_of(a)[3], N = shape_of(b)[3];
    const int64_t heads = shape_of(a)[1], group = heads / shape_of(b)[1];
    const double *xa = numbers(m, a), *xb = numbers(m, b);
    double *xc = numbers(m, c);
    memset(xc, 0, sizeof *xc * (size_t)numel(shape_of(c)));
    for (int64_t row = 0; row < shape_of(a)[0] * heads * M; row++) {
        const int64_t head = row / M;
        for (int64_t k = 0; k < K; k++) {
            const double x = xa[row * K + k];
            const double *y = xb + (head / group * K + k) * N;
            for (int64_t j = 0; j < N && x != 0; j++) {
                xc[row * N + j] += x * y[j];
            }
        }
    }
    finish(m, c);
}

/* Element of x, which may have length 1 where out has more, that belongs to element i of out. */
static double spread(const desc *x, const double *numbers_of_x, const desc *out, int64_t i)
{
    const int64_t *shape = shape_of(out), *small = shape_of(x);
    int64_t at = 0, step = 1;
    for (int d = DIMS - 1; d >= 0; d--) {
        at += small[d] == 1 ? 0 : i % shape[d] * step;
        i /= shape[d];
        step *= small[d];
    }
    return numbers_of_x[at];
}

static double along(const desc *out, int64_t i, int64_t axis)
{
    for (int64_t d = DIMS - 1; d > axis; d--) {
        i /= shape_of(out)[d];
    }
    return (double)(i % shape_of(out)[axis]);
}

static double combine(int mode, double x, double y, double t)
{
    switch (mode) {
    case SY_CUDNN_ADD:
        return x + y;
    case SY_CUDNN_SUB:
        return x - y;
    case SY_CUDNN_MUL:
        return x * y;
    case SY_CUDNN_DIV:
        return x / y;
    case SY_CUDNN_EXP:
        return exp(x);
    case SY_CUDNN_LOG:
        return log(x);
    case SY_CUDNN_IDENTITY:
        return x;
    case SY_CUDNN_GREATER_EQUAL:
        return x >= y;
    case SY_CUDNN_SELECT:
        return t != 0 ? x : y;
    default:
        abort();
    }
}

static void run_pointwise(machine *m, const desc *op)
{
    const desc *how = other(op, SY_CUDNN_OP_POINTWISE_HOW, 0);
    const desc *x = other(op, SY_CUDNN_OP_POINTWISE_X, 0);
    const desc *b = other(op, SY_CUDNN_OP_POINTWISE_B, 0);
    const desc *t = other(op, SY_CUDNN_OP_POINTWISE_T, 0);
    const desc *y = other(op, SY_CUDNN_OP_POINTWISE_Y, 0);
    const int mode = number(how, SY_CUDNN_POINTWISE_MODE);
    const double *xx = numbers(m, x), *xb = b ? numbers(m, b) : NULL,
                 *xt = t ? numbers(m, t) : NULL;
    double *xy = numbers(m, y);
    for (int64_t i = 0; i < numel(shape_of(y)); i++) {
        xy[i] = mode == SY_CUDNN_INDEX
                    ? along(y, i, longs(how, SY_CUDNN_POINTWISE_AXIS)[0])
                    : combine(mode, spread(x, xx, y, i), b ? spread(b, xb, y, i) : 0,
                              t ? spread(t, xt, y, i) : 0);
    }
    finish(m, y);
}

/* Neighbours along a dimension that shrinks are put together. */
static void run_reduction(machine *m, const desc *op)
{
    const desc *x = other(op, SY_CUDNN_OP_REDUCTION_X, 0);
    const desc *y = other(op, SY_CUDNN_OP_REDUCTION_Y, 0);
    const bool max = number(other(op, SY_CUDNN_OP_REDUCTION_HOW, 0), SY_CUDNN_REDUCTION_OPERATOR) ==
                     SY_CUDNN_REDUCE_MAX;
    const double *xx = numbers(m, x);
    double *xy = numbers(m, y);
    for (int64_t i = 0; i < numel(shape_of(y)); i++) {
        xy[i] = max ? -INFINITY : 0;
    }
    for (int64_t i = 0; i < numel(shape_of(x)); i++) {
        int64_t at = 0, step = 1, rest = i;
        for (int d = DIMS - 1; d >= 0; d--) {
            at += rest % shape_of(x)[d] / (shape_of(x)[d] / shape_of(y)[d]) * step;
            rest /= shape_of(x)[d];
            step *= shape_of(y)[d];
        }
        xy[at] = max ? fmax(xy[at], xx[i]) : xy[at] + xx[i];
    }
    finish(m, y);
}

/* The same memory seen with other strides. */
static void run_reshape(machine *m, const desc *op)
{
    const desc *x = other(op, SY_CUDNN_OP_RESHAPE_X, 0), *y = other(op, SY_CUDNN_OP_RESHAPE_Y, 0);
    const double *xx = numbers(m, x);
    double *xy = numbers(m, y);
    double *memory = calloc((size_t)(span(x) > span(y) ? span(x) : span(y)), sizeof *memory);
    for (int64_t i = 0; i < numel(shape_of(x)); i++) {
        memory[place(x, i)] = xx[i];
    }
    for (int64_t i = 0; i < numel(shape_of(y)); i++) {
        xy[i] = memory[place(y, i)];
    }
    free(memory);
    finish(m, y);
}

void emulator_cudnn_run(const void *args)
{
    const execution *e = args;
    machine m = {.e = e};
    memset(e->workspace, 0xff, (size_t)e->workspace_bytes);
    for (int64_t i = 0; i < count_of(e->graph, SY_CUDNN_GRAPH_OPS); i++) {
        const desc *op = other(e->graph, SY_CUDNN_GRAPH_OPS, i);
        (op->kind == SY_CUDNN_OP_MATMUL      ? run_matmul
         : op->kind == SY_CUDNN_OP_POINTWISE ? run_pointwise
         : op->kind == SY_CUDNN_OP_REDUCTION ? run_reduction
                                             : run_reshape)(&m, op);
    }
    for (int i = 0; i < m.n; i++) {
        free(m.values[i].x);
    }
}

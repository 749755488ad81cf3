/* cuDNN of the emulator: descriptors keep what they are given, finalizing them checks what cuDNN
   checks, and executing a plan computes its graph on the tensors as they are described
   (cudnn_run.c): so a wrong stride, shape, mask or number is a wrong result. It recommends an
   engine that would not give the same bits every time first, wants much workspace, which it
   overwrites, and declines heads whose size is no multiple of 16, and sequences of 64 only when it
   is to compute them. */
#include <stdlib.h>
#include <string.h>

#include "tests/emulator/cudnn_impl.h"
#include "tests/emulator/emulator_impl.h"

#define DECLARE(type, name, args) type name args;
SY_CUDNN_FUNCTIONS(DECLARE)

enum { BAD = 2000, UNSUPPORTED = 3000, STEADY = 1, FICKLE = 2, BACKWARD_ENGINE = 6, IN_ORDER = 4 };

/* What a descriptor may hold; what it must, to be finalized. */
static const struct rule {
    int kind, name, of;
    bool must;
} rules[] = {
    {SY_CUDNN_TENSOR, SY_CUDNN_TENSOR_ID, SY_CUDNN_OF_INT64, true},
    {SY_CUDNN_TENSOR, SY_CUDNN_TENSOR_TYPE, SY_CUDNN_OF_DATA_TYPE, true},
    {SY_CUDNN_TENSOR, SY_CUDNN_TENSOR_SHAPE, SY_CUDNN_OF_INT64, true},
    {SY_CUDNN_TENSOR, SY_CUDNN_TENSOR_STRIDES, SY_CUDNN_OF_INT64, true},
    {SY_CUDNN_TENSOR, SY_CUDNN_TENSOR_ALIGNMENT, SY_CUDNN_OF_INT64, true},
    {SY_CUDNN_TENSOR, SY_CUDNN_TENSOR_VIRTUAL, SY_CUDNN_OF_BOOLEAN, false},
    {SY_CUDNN_TENSOR, SY_CUDNN_TENSOR_BY_VALUE, SY_CUDNN_OF_BOOLEAN, false},
    {SY_CUDNN_POINTWISE, SY_CUDNN_POINTWISE_MODE, SY_CUDNN_OF_POINTWISE, true},
    {SY_CUDNN_POINTWISE, SY_CUDNN_POINTWISE_PRECISION, SY_CUDNN_OF_DATA_TYPE, true},
    {SY_CUDNN_POINTWISE, SY_CUDNN_POINTWISE_AXIS, SY_CUDNN_OF_INT64, false},
    {SY_CUDNN_OP_POINTWISE, SY_CUDNN_OP_POINTWISE_HOW, SY_CUDNN_OF_DESCRIPTOR, true},
    {SY_CUDNN_OP_POINTWISE, SY_CUDNN_OP_POINTWISE_X, SY_CUDNN_OF_DESCRIPTOR, true},
    {SY_CUDNN_OP_POINTWISE, SY_CUDNN_OP_POINTWISE_B, SY_CUDNN_OF_DESCRIPTOR, false},
    {SY_CUDNN_OP_POINTWISE, SY_CUDNN_OP_POINTWISE_T, SY_CUDNN_OF_DESCRIPTOR, false},
    {SY_CUDNN_OP_POINTWISE, SY_CUDNN_OP_POINTWISE_Y, SY_CUDNN_OF_DESCRIPTOR, true},
    {SY_CUDNN_MATMUL, SY_CUDNN_MATMUL_PRECISION, SY_CUDNN_OF_DATA_TYPE, true},
    {SY_CUDNN_OP_MATMUL, SY_CUDNN_OP_MATMUL_HOW, SY_CUDNN_OF_DESCRIPTOR, true},
    {SY_CUDNN_OP_MATMUL, SY_CUDNN_OP_MATMUL_A, SY_CUDNN_OF_DESCRIPTOR, true},
    {SY_CUDNN_OP_MATMUL, SY_CUDNN_OP_MATMUL_B, SY_CUDNN_OF_DESCRIPTOR, true},
    {SY_CUDNN_OP_MATMUL, SY_CUDNN_OP_MATMUL_C, SY_CUDNN_OF_DESCRIPTOR, true},
    {SY_CUDNN_REDUCTION, SY_CUDNN_REDUCTION_OPERATOR, SY_CUDNN_OF_REDUCTION, true},
    {SY_CUDNN_REDUCTION, SY_CUDNN_REDUCTION_PRECISION, SY_CUDNN_OF_DATA_TYPE, true},
    {SY_CUDNN_OP_REDUCTION, SY_CUDNN_OP_REDUCTION_HOW, SY_CUDNN_OF_DESCRIPTOR, true},
    {SY_CUDNN_OP_REDUCTION, SY_CUDNN_OP_REDUCTION_X, SY_CUDNN_OF_DESCRIPTOR, true},
    {SY_CUDNN_OP_REDUCTION, SY_CUDNN_OP_REDUCTION_Y, SY_CUDNN_OF_DESCRIPTOR, true},
    {SY_CUDNN_OP_RESHAPE, SY_CUDNN_OP_RESHAPE_X, SY_CUDNN_OF_DESCRIPTOR, true},
    {SY_CUDNN_OP_RESHAPE, SY_CUDNN_OP_RESHAPE_Y, SY_CUDNN_OF_DESCRIPTOR, true},
    {SY_CUDNN_GRAPH, SY_CUDNN_GRAPH_OPS, SY_CUDNN_OF_DESCRIPTOR, true},
    {SY_CUDNN_GRAPH, SY_CUDNN_GRAPH_HANDLE, SY_CUDNN_OF_HANDLE, true},
    {SY_CUDNN_HEURISTICS, SY_CUDNN_HEURISTICS_GRAPH, SY_CUDNN_OF_DESCRIPTOR, true},
    {SY_CUDNN_HEURISTICS, SY_CUDNN_HEURISTICS_MODE, SY_CUDNN_OF_HEURISTIC, true},
    {SY_CUDNN_ENGINE, SY_CUDNN_ENGINE_GRAPH, SY_CUDNN_OF_DESCRIPTOR, true},
    {SY_CUDNN_ENGINE, SY_CUDNN_ENGINE_INDEX, SY_CUDNN_OF_INT64, true},
    {SY_CUDNN_KNOB, SY_CUDNN_KNOB_TYPE, SY_CUDNN_OF_KNOB, true},
    {SY_CUDNN_KNOB, SY_CUDNN_KNOB_VALUE, SY_CUDNN_OF_INT64, true},
    {SY_CUDNN_CONFIG, SY_CUDNN_CONFIG_ENGINE, SY_CUDNN_OF_DESCRIPTOR, true},
    {SY_CUDNN_CONFIG, SY_CUDNN_CONFIG_KNOBS, SY_CUDNN_OF_DESCRIPTOR, false},
    {SY_CUDNN_PLAN, SY_CUDNN_PLAN_CONFIG, SY_CUDNN_OF_DESCRIPTOR, true},
    {SY_CUDNN_PACK, SY_CUDNN_PACK_IDS, SY_CUDNN_OF_INT64, true},
    {SY_CUDNN_PACK, SY_CUDNN_PACK_POINTERS, SY_CUDNN_OF_POINTER, true},
    {SY_CUDNN_PACK, SY_CUDNN_PACK_WORKSPACE, SY_CUDNN_OF_POINTER, true},
};
enum { N_RULES = sizeof rules / sizeof rules[0] };

static size_t size_of(int of)
{
    switch (of) {
    case SY_CUDNN_OF_BOOLEAN:
        return 1;
    case SY_CUDNN_OF_HANDLE:
    case SY_CUDNN_OF_INT64:
    case SY_CUDNN_OF_POINTER:
    case SY_CUDNN_OF_DESCRIPTOR:
        return 8;
    default:
        return 4;
    }
}

/* ---- what descriptors hold ---- */

static void keep(desc *d, int name, int of, int64_t count, const void *elements)
{
    attribute *a = &d->a[d->n++];
    a->name = name;
    a->count = count;
    a->elements = malloc(size_of(of) * (size_t)count + 1);
    memcpy(a->elements, elements, size_of(of) * (size_t)count);
}

int cudnnBackendCreateDescriptor(int kind, void **out)
{
    desc *d = calloc(1, sizeof *d);
    d->kind = kind;
    *out = d;
    return SY_CUDNN_SUCCESS;
}

int cudnnBackendDestroyDescriptor(void *which)
{
    desc *d = which;
    for (int i = 0; i < d->n; i++) {
        free(d->a[i].elements);
    }
    free(d);
    return SY_CUDNN_SUCCESS;
}

int cudnnBackendSetAttribute(void *which, int name, int of, int64_t count, const void *elements)
{
    desc *d = which;
    for (int i = 0; i < N_RULES; i++) {
        if (rules[i].kind == d->kind && rules[i].name == name && rules[i].of == of) {
            if (d->final || find(d, name) || d->n == MAX_ATTRIBUTES || count < 0) {
                return BAD;
            }
            keep(d, name, of, count, elements);
            return SY_CUDNN_SUCCESS;
        }
    }
    return BAD;
}

/* ---- what finalizing checks ---- */

/* Equal, or 1 in x. */
static bool spreads(const desc *x, const desc *y)
{
    bool fine = true;
    for (int i = 0; x && i < DIMS; i++) {
        fine = fine && (shape_of(x)[i] == shape_of(y)[i] || shape_of(x)[i] == 1);
    }
    return fine;
}

static bool tensor_is_fine(const desc *d)
{
    bool fine =
        count_of(d, SY_CUDNN_TENSOR_SHAPE) == DIMS && count_of(d, SY_CUDNN_TENSOR_STRIDES) == DIMS;
    for (int i = 0; i < DIMS && fine; i++) {
        fine = shape_of(d)[i] > 0 && longs(d, SY_CUDNN_TENSOR_STRIDES)[i] > 0;
    }
    return fine;
}

static bool matmul_is_fine(const desc *d)
{
    const int64_t *a = shape_of(other(d, SY_CUDNN_OP_MATMUL_A, 0));
    const int64_t *b = shape_of(other(d, SY_CUDNN_OP_MATMUL_B, 0));
    const int64_t *c = shape_of(other(d, SY_CUDNN_OP_MATMUL_C, 0));
    return a[0] == b[0] && a[0] == c[0] && a[1] == c[1] && a[1] % b[1] == 0 && a[2] == c[2] &&
           a[3] == b[2] && b[3] == c[3];
}

static bool pointwise_is_fine(const desc *d)
{
    const desc *y = other(d, SY_CUDNN_OP_POINTWISE_Y, 0);
    return spreads(other(d, SY_CUDNN_OP_POINTWISE_X, 0), y) &&
           spreads(other(d, SY_CUDNN_OP_POINTWISE_B, 0), y) &&
           spreads(other(d, SY_CUDNN_OP_POINTWISE_T, 0), y);
}

static bool reduction_is_fine(const desc *d)
{
    const int64_t *x = shape_of(other(d, SY_CUDNN_OP_REDUCTION_X, 0));
    const int64_t *y = shape_of(other(d, SY_CUDNN_OP_REDUCTION_Y, 0));
    bool fine = true;
    for (int i = 0; i < DIMS; i++) {
        fine = fine && x[i] % y[i] == 0;
    }
    return fine;
}

static bool reshape_is_fine(const desc *d)
{
    return numel(shape_of(other(d, SY_CUDNN_OP_RESHAPE_X, 0))) ==
           numel(shape_of(other(d, SY_CUDNN_OP_RESHAPE_Y, 0)));
}

static bool is_backward(const desc *graph)
{
    bool reshapes = false;
    for (int64_t i = 0; i < count_of(graph, SY_CUDNN_GRAPH_OPS); i++) {
        reshapes = reshapes || other(graph, SY_CUDNN_GRAPH_OPS, i)->kind == SY_CUDNN_OP_RESHAPE;
    }
    return reshapes;
}

static const desc *graph_of_config(const desc *config)
{
    return other(other(config, SY_CUDNN_CONFIG_ENGINE, 0), SY_CUDNN_ENGINE_GRAPH, 0);
}

/* Backward takes the one engine that is known to sum in order. */
static bool config_is_fine(const desc *d)
{
    const desc *engine = other(d, SY_CUDNN_CONFIG_ENGINE, 0);
    bool in_order = false;
    for (int64_t i = 0; i < count_of(d, SY_CUDNN_CONFIG_KNOBS); i++) {
        const desc *knob = other(d, SY_CUDNN_CONFIG_KNOBS, i);
        in_order = in_order || (number(knob, SY_CUDNN_KNOB_TYPE) == SY_CUDNN_KNOB_STAGES &&
                                longs(knob, SY_CUDNN_KNOB_VALUE)[0] == IN_ORDER);
    }
    return is_backward(graph_of_config(d))
               ? in_order && longs(engine, SY_CUDNN_ENGINE_INDEX)[0] == BACKWARD_ENGINE
               : longs(engine, SY_CUDNN_ENGINE_INDEX)[0] <= FICKLE;
}

static bool is_fine(const desc *d)
{
    switch (d->kind) {
    case SY_CUDNN_TENSOR:
        return tensor_is_fine(d);
    case SY_CUDNN_OP_MATMUL:
        return matmul_is_fine(d);
    case SY_CUDNN_OP_POINTWISE:
        return pointwise_is_fine(d);
    case SY_CUDNN_OP_REDUCTION:
        return reduction_is_fine(d);
    case SY_CUDNN_OP_RESHAPE:
        return reshape_is_fine(d);
    case SY_CUDNN_CONFIG:
        return config_is_fine(d);
    default:
        return true;
    }
}

int cudnnBackendFinalize(void *which)
{
    desc *d = which;
    for (int i = 0; i < N_RULES; i++) {
        const attribute *a = rules[i].kind == d->kind ? find(d, rules[i].name) : NULL;
        if (rules[i].kind == d->kind && rules[i].must && !a) {
            return BAD;
        }
        for (int64_t k = 0; a && rules[i].of == SY_CUDNN_OF_DESCRIPTOR && k < a->count; k++) {
            const desc *used = other(d, rules[i].name, k);
            if (!used || !used->final) {
                return BAD;
            }
        }
    }
    d->final = is_fine(d);
    return d->final ? SY_CUDNN_SUCCESS : BAD;
}

/* ---- what is asked of descriptors ---- */

/* q of the first product of scores. */
static const int64_t *shape_of_queries(const desc *graph)
{
    const desc *scores = NULL;
    for (int64_t i = 0; i < count_of(graph, SY_CUDNN_GRAPH_OPS) && !scores; i++) {
        const desc *op = other(graph, SY_CUDNN_GRAPH_OPS, i);
        scores = op->kind == SY_CUDNN_OP_MATMUL ? op : NULL;
    }
    return shape_of(other(scores, SY_CUDNN_OP_MATMUL_A, 0));
}

/* Of the two that are recommended the first would not give the same bits every time. */
static int64_t recommend(const desc *graph, int64_t room, desc *const *config)
{
    const int64_t index[] = {FICKLE, STEADY};
    const int64_t n = shape_of_queries(graph)[3] % 16 != 0 ? 0 : room < 2 ? room : 2;
    for (int64_t i = 0; i < n; i++) {
        keep(config[i], SY_CUDNN_ENGINE_GRAPH, SY_CUDNN_OF_DESCRIPTOR, 1, &graph);
        keep(config[i], SY_CUDNN_ENGINE_INDEX, SY_CUDNN_OF_INT64, 1, &index[i]);
        config[i]->final = true;
    }
    return n;
}

static int64_t tell_engine(const desc *config, desc *engine)
{
    keep(engine, SY_CUDNN_ENGINE_GRAPH, SY_CUDNN_OF_DESCRIPTOR, 1,
         find(config, SY_CUDNN_ENGINE_GRAPH)->elements);
    keep(engine, SY_CUDNN_ENGINE_INDEX, SY_CUDNN_OF_INT64, 1, longs(config, SY_CUDNN_ENGINE_INDEX));
    engine->final = true;
    return 1;
}

static int64_t tell_knob(desc *knob)
{
    const int type = SY_CUDNN_KNOB_STAGES;
    const int64_t value = 2;
    keep(knob, SY_CUDNN_KNOB_TYPE, SY_CUDNN_OF_KNOB, 1, &type);
    keep(knob, SY_CUDNN_KNOB_VALUE, SY_CUDNN_OF_INT64, 1, &value);
    knob->final = true;
    return 1;
}

static int64_t tell_notes(const desc *engine, int *note)
{
    *note = SY_CUDNN_NOTE_NONDETERMINISTIC;
    return longs(engine, SY_CUDNN_ENGINE_INDEX)[0] == FICKLE;
}

/* So much that a few heads fill a stream's. */
static int64_t workspace_of(const desc *config)
{
    const desc *graph = graph_of_config(config);
    const int64_t *q = shape_of_queries(graph);
    return is_backward(graph) ? q[0] * q[1] * (12 << 20) : 1 << 20;
}

int cudnnBackendGetAttribute(void *which, int name, int of, int64_t room, int64_t *count,
                             void *elements)
{
    const desc *d = which;
    int64_t n = 1;
    if (!d->final || room < 1) {
        return BAD;
    }
    if (name == SY_CUDNN_HEURISTICS_RESULTS) {
        n = recommend(other(d, SY_CUDNN_HEURISTICS_GRAPH, 0), room, elements);
    } else if (name == SY_CUDNN_CONFIG_ENGINE) {
        n = tell_engine(d, *(desc **)elements);
    } else if (name == SY_CUDNN_CONFIG_KNOBS) {
        n = tell_knob(*(desc **)elements);
    } else if (name == SY_CUDNN_ENGINE_NOTES) {
        n = tell_notes(d, elements);
    } else if (name == SY_CUDNN_CONFIG_WORKSPACE) {
        *(int64_t *)elements = workspace_of(d);
    } else if (name == SY_CUDNN_PLAN_WORKSPACE) {
        *(int64_t *)elements = workspace_of(other(d, SY_CUDNN_PLAN_CONFIG, 0));
    } else if (find(d, name)) {
        memcpy(elements, find(d, name)->elements, size_of(of));
    } else {
        return BAD;
    }
    if (count) {
        *count = n;
    }
    return SY_CUDNN_SUCCESS;
}

/* ---- executing ---- */

/* Numbers on the host are the scalars: ids whose pointer a tensor of the graph says so of. */
static void read_host(execution *e)
{
    for (int64_t i = 0; i < count_of(e->graph, SY_CUDNN_GRAPH_OPS); i++) {
        const desc *op = other(e->graph, SY_CUDNN_GRAPH_OPS, i);
        const desc *b =
            op->kind == SY_CUDNN_OP_POINTWISE ? other(op, SY_CUDNN_OP_POINTWISE_B, 0) : NULL;
        if (b && flag(b, SY_CUDNN_TENSOR_BY_VALUE)) {
            const int64_t k = emulator_cudnn_pointer(e, b);
            e->host[k] = *(const float *)e->pointer[k];
        }
    }
}

struct emulator_cudnn {
    cudaStream_t stream;
};

int cudnnBackendExecute(void *handle, void *which, void *pack)
{
    const desc *plan = which, *config = other(plan, SY_CUDNN_PLAN_CONFIG, 0);
    execution e = {.graph = graph_of_config(config),
                   .n = count_of(pack, SY_CUDNN_PACK_IDS),
                   .workspace = (void *)other(pack, SY_CUDNN_PACK_WORKSPACE, 0),
                   .workspace_bytes = workspace_of(config)};
    const desc *engine = other(config, SY_CUDNN_CONFIG_ENGINE, 0);
    if (!plan->final || !((desc *)pack)->final || e.n > MAX_POINTERS ||
        e.n != count_of(pack, SY_CUDNN_PACK_POINTERS) ||
        longs(engine, SY_CUDNN_ENGINE_INDEX)[0] == FICKLE) {
        return BAD;
    }
    if (shape_of_queries(e.graph)[2] == 64) {
        return UNSUPPORTED;
    }
    memcpy(e.id, longs(pack, SY_CUDNN_PACK_IDS), sizeof *e.id * (size_t)e.n);
    memcpy(e.pointer, find(pack, SY_CUDNN_PACK_POINTERS)->elements,
           sizeof *e.pointer * (size_t)e.n);
    read_host(&e);
    emulator_enqueue(((struct emulator_cudnn *)handle)->stream, emulator_cudnn_run, &e, sizeof e);
    return SY_CUDNN_SUCCESS;
}

/* ---- the library ---- */

size_t cudnnGetVersion(void)
{
    return 92600;
}

const char *cudnnGetErrorString(int status)
{
    return status == SY_CUDNN_SUCCESS ? "no error" : "bad parameter";
}

int cudnnCreate(void **handle)
{
    *handle = calloc(1, sizeof(struct emulator_cudnn));
    return SY_CUDNN_SUCCESS;
}

int cudnnDestroy(void *handle)
{
    free(handle);
    return SY_CUDNN_SUCCESS;
}

int cudnnSetStream(void *handle, void *stream)
{
    ((struct emulator_cudnn *)handle)->stream = stream;
    return SY_CUDNN_SUCCESS;
}

sy_status sy_cudnn_load(sy_cudnn *out)
{
    *out = (sy_cudnn){0};
#define HAVE(type, name, args) out->name = name;
    SY_CUDNN_FUNCTIONS(HAVE)
    return SY_OK;
}

void sy_cudnn_unload(sy_cudnn *lib)
{
    (void)lib;
}

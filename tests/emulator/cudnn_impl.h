/* What the two files of the emulated cuDNN share: descriptors, and a graph on its way. */
#ifndef SY_TESTS_EMULATOR_CUDNN_IMPL_H
#define SY_TESTS_EMULATOR_CUDNN_IMPL_H

#include "backend/cuda/cudnn.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { MAX_ATTRIBUTES = 8, DIMS = 4, MAX_POINTERS = 32 };

typedef struct attribute {
    int name;
    int64_t count;
    void *elements;
} attribute;

typedef struct desc {
    int kind;
    bool final;
    int n;
    attribute a[MAX_ATTRIBUTES];
} desc;

static inline const attribute *find(const desc *d, int name)
{
    for (int i = 0; d && i < d->n; i++) {
        if (d->a[i].name == name) {
            return &d->a[i];
        }
    }
    return NULL;
}

static inline int64_t count_of(const desc *d, int name)
{
    const attribute *a = find(d, name);
    return a ? a->count : 0;
}

static inline int number(const desc *d, int name)
{
    const attribute *a = find(d, name);
    return a ? *(const int *)a->elements : -1;
}

static inline const int64_t *longs(const desc *d, int name)
{
    static const int64_t none[DIMS] = {-1, -1, -1, -1};
    const attribute *a = find(d, name);
    return a ? a->elements : none;
}

static inline const desc *other(const desc *d, int name, int64_t i)
{
    const attribute *a = find(d, name);
    return a ? ((desc *const *)a->elements)[i] : NULL;
}

static inline bool flag(const desc *d, int name)
{
    const attribute *a = find(d, name);
    return a && *(const bool *)a->elements;
}

static inline int64_t numel(const int64_t *shape)
{
    return shape[0] * shape[1] * shape[2] * shape[3];
}

static inline const int64_t *shape_of(const desc *tensor)
{
    return longs(tensor, SY_CUDNN_TENSOR_SHAPE);
}

/* A graph on its way: what is on the host may change after the call. */
typedef struct execution {
    const desc *graph;
    int64_t n, id[MAX_POINTERS];
    void *pointer[MAX_POINTERS];
    float host[MAX_POINTERS]; /* of tensors that stand there */
    char *workspace;
    int64_t workspace_bytes;
} execution;

/* Compute the graph of an execution. */
void emulator_cudnn_run(const void *args);
/* The address that was given for a tensor, as its index; ends the program where there is none. */
int64_t emulator_cudnn_pointer(const execution *e, const desc *tensor);

#ifdef __cplusplus
}
#endif
#endif

/* The elements of a strided operand: which bytes they take, filling them with poison, finding
 * poison that was left. */
#include <string.h>

#include "backend/check/check_impl.h"

/* A signalling NaN: arithmetic makes every NaN quiet, and so does the rounding to bf16, hence no
 * result is equal to it. */
static const uint16_t poison_bf16 = 0x7fa5;
static const uint32_t poison_f32 = 0x7fa5c3b1;
static const uint64_t poison_f64 = UINT64_C(0x7ff4c3a5b1967e5d);
/* Negative, so that an op that takes it for an index sees "none" and harms nothing else. */
static const uint32_t poison_i32 = 0xa5c3967e;
static const uint64_t poison_i64 = UINT64_C(0xa5c3967eb4d2785f);
static const uint8_t poison_u8 = 0xa5;

static const void *poison_of(sy_dtype dtype)
{
    switch (dtype) {
    case SY_BF16:
        return &poison_bf16;
    case SY_F32:
        return &poison_f32;
    case SY_F64:
        return &poison_f64;
    case SY_I32:
        return &poison_i32;
    case SY_I64:
        return &poison_i64;
    default:
        return &poison_u8;
    }
}

sy__range sy__range_of_bytes(const void *ptr, int64_t bytes)
{
    return (sy__range){.first = (uintptr_t)ptr, .bytes = bytes, .pitch = 0, .width = bytes};
}

sy__range sy__range_of(const sy_tensor *t)
{
    int64_t elem = (int64_t)sy_dtype_bytes(t->dtype), width = elem;
    if (sy_tensor_numel(t) == 0) {
        return sy__range_of_bytes(t->data, 0);
    }
    for (int32_t d = 1; d < t->n_dim; d++) {
        width += (t->shape[d] - 1) * t->stride[d] * elem;
    }
    int64_t pitch = t->stride[0] * elem, bytes = width + (t->shape[0] - 1) * pitch;
    if (t->n_dim == 1 || t->shape[0] == 1 || width >= pitch) {
        return sy__range_of_bytes(t->data, bytes);
    }
    return (sy__range){.first = (uintptr_t)t->data, .bytes = bytes, .pitch = pitch, .width = width};
}

bool sy__ranges_meet(const sy__range *a, const sy__range *b)
{
    if (a->bytes == 0 || b->bytes == 0 || a->first + (uintptr_t)a->bytes <= b->first ||
        b->first + (uintptr_t)b->bytes <= a->first) {
        return false;
    }
    if (a->pitch == 0 && b->pitch != 0) {
        return sy__ranges_meet(b, a);
    }
    if (a->pitch == 0 || (b->pitch != 0 && b->pitch != a->pitch)) {
        return true; /* two different pitches: said to meet, which may be too careful */
    }
    /* Columns of one matrix, or a piece between two rows: compare places within a row. */
    int64_t apart = (int64_t)(b->first - a->first) % a->pitch;
    apart += apart < 0 ? a->pitch : 0;
    return apart < a->width || apart + b->width > a->pitch;
}

/* Visit every run of elements that lie one behind the other. */
typedef struct runs {
    char *ptr;
    int64_t n;                 /* elements in a run */
    int64_t index[SY_MAX_DIM]; /* of the run's first element */
    bool end;
} runs;

static char *address_of(const sy_tensor *t, const int64_t *index)
{
    int64_t at = 0;
    for (int32_t d = 0; d < t->n_dim; d++) {
        at += index[d] * t->stride[d];
    }
    return (char *)t->data + at * (int64_t)sy_dtype_bytes(t->dtype);
}

static runs first_run(const sy_tensor *t)
{
    runs run = {.end = sy_tensor_numel(t) == 0};
    if (!run.end) {
        bool whole = sy_tensor_is_contiguous(t);
        run.ptr = t->data;
        run.n = whole                          ? sy_tensor_numel(t)
                : t->stride[t->n_dim - 1] == 1 ? t->shape[t->n_dim - 1]
                                               : 1;
    }
    return run;
}

static void next_run(const sy_tensor *t, runs *run)
{
    int32_t d = t->n_dim - 1;
    if (sy_tensor_is_contiguous(t)) {
        run->end = true;
        return;
    }
    run->index[d] += run->n;
    while (d > 0 && run->index[d] >= t->shape[d]) {
        run->index[d--] = 0;
        run->index[d]++;
    }
    run->end = run->index[0] >= t->shape[0];
    run->ptr = run->end ? NULL : address_of(t, run->index);
}

static void fill(char *ptr, int64_t n, size_t elem, const void *value)
{
    /* Doubling copies: as fast as memset for any element. */
    size_t bytes = (size_t)n * elem, have = elem;
    memcpy(ptr, value, elem);
    while (have < bytes) {
        size_t more = have <= bytes - have ? have : bytes - have;
        memcpy(ptr + have, ptr, more);
        have += more;
    }
}

void sy__view_poison(const sy_tensor *t)
{
    for (runs run = first_run(t); !run.end; next_run(t, &run)) {
        fill(run.ptr, run.n, sy_dtype_bytes(t->dtype), poison_of(t->dtype));
    }
}

#define DEFINE_FIND(name, type)                                                                    \
    static int64_t name(const char *ptr, int64_t n, int64_t *first, type value)                    \
    {                                                                                              \
        const type *x = (const type *)(const void *)ptr;                                           \
        int64_t count = 0;                                                                         \
        for (int64_t i = 0; i < n; i++) {                                                          \
            count += x[i] == value;                                                                \
        }                                                                                          \
        for (int64_t i = n - 1; count > 0 && i >= 0; i--) {                                        \
            *first = x[i] == value ? i : *first;                                                   \
        }                                                                                          \
        return count;                                                                              \
    }
DEFINE_FIND(find_u8, uint8_t)
DEFINE_FIND(find_u16, uint16_t)
DEFINE_FIND(find_u32, uint32_t)
DEFINE_FIND(find_u64, uint64_t)

static int64_t find(const runs *run, sy_dtype dtype, int64_t *first)
{
    switch (dtype) {
    case SY_BF16:
        return find_u16(run->ptr, run->n, first, poison_bf16);
    case SY_F32:
        return find_u32(run->ptr, run->n, first, poison_f32);
    case SY_F64:
        return find_u64(run->ptr, run->n, first, poison_f64);
    case SY_I32:
        return find_u32(run->ptr, run->n, first, poison_i32);
    case SY_I64:
        return find_u64(run->ptr, run->n, first, poison_i64);
    default:
        return find_u8(run->ptr, run->n, first, poison_u8);
    }
}

int64_t sy__view_count_poison(const sy_tensor *t, int64_t index[SY_MAX_DIM])
{
    int64_t total = 0;
    for (runs run = first_run(t); !run.end; next_run(t, &run)) {
        int64_t first = 0, count = find(&run, t->dtype, &first);
        if (count > 0 && total == 0) {
            memcpy(index, run.index, sizeof run.index);
            index[t->n_dim - 1] += first;
            for (int32_t d = t->n_dim - 1; d > 0; d--) { /* a run may go through several rows */
                index[d - 1] += index[d] / t->shape[d];
                index[d] %= t->shape[d];
            }
        }
        total += count;
    }
    return total;
}

/* Spaces and types, as bytes of their messages. Specification, IV.A.2.b "The Dataspace Message" and
   IV.A.2.d "The Datatype Message". */
#include <string.h>

#include "checkpoint/h5_read_impl.h"
#include "checkpoint/integrity_impl.h"

bool sy__h5_get_space(const sy__h5_message *space, sy__item *item, int64_t *numel)
{
    enum { VERSION = 2, HEAD = 4, NO_SPACE = 2 };
    const unsigned char *body = space->body;
    if (space->n < HEAD || body[0] != VERSION || body[1] > SY_MAX_DIM || body[3] >= NO_SPACE ||
        space->n < HEAD + 8 * (int64_t)body[1]) {
        return false;
    }
    item->n_dim = body[1];
    *numel = 1;
    for (int32_t d = 0; d < item->n_dim; d++) {
        item->shape[d] = sy__h5_number(body + HEAD + 8 * d, 8);
        if (__builtin_mul_overflow(*numel, item->shape[d], numel)) {
            return false;
        }
    }
    return true;
}

/* ---- types ---- */

/* The first byte holds a version above the class; the same type has been written in several. */
enum { CLASS = 0x0f, ROW_VERSION = 0x30, VERSIONS = 0xf0 };

typedef struct type_bytes {
    int64_t n;
    unsigned char at[20];
} type_bytes;

/* Class, bits, size; then place of the lowest bit and precision; for a float where its fields lie
   and the bias of the exponent. */
static const type_bytes tensor_types[SY_N_DTYPES] = {
    [SY_F32] = {20, {1, 0x20, 31, 0, 4, 0, 0, 0, 0, 0, 32, 0, 23, 8, 0, 23, 127}},
    [SY_F64] = {20, {1, 0x20, 63, 0, 8, 0, 0, 0, 0, 0, 64, 0, 52, 11, 0, 52, 0xff, 0x03}},
    [SY_BF16] = {20, {1, 0x20, 15, 0, 2, 0, 0, 0, 0, 0, 16, 0, 7, 8, 0, 7, 127}},
    [SY_F16] = {20, {1, 0x20, 15, 0, 2, 0, 0, 0, 0, 0, 16, 0, 10, 5, 0, 10, 15}},
    [SY_I32] = {12, {0, 0x08, 0, 0, 4, 0, 0, 0, 0, 0, 32, 0}},
    [SY_I64] = {12, {0, 0x08, 0, 0, 8, 0, 0, 0, 0, 0, 64, 0}},
    [SY_U8] = {12, {0, 0x00, 0, 0, 1, 0, 0, 0, 0, 0, 8, 0}}};
static const type_bytes u64_type = {12, {0, 0x00, 0, 0, 8, 0, 0, 0, 0, 0, 64, 0}};
static const type_bytes name_type = {8, {3, 0x00, 0, 0, SY__PATH_BYTES, 0, 0, 0}};

/* Does the type begin so? */
static bool begins(const unsigned char *type, int64_t n, const type_bytes *want)
{
    return n >= want->n && (type[0] & CLASS) == want->at[0] &&
           memcmp(type + 1, want->at + 1, (size_t)want->n - 1) == 0;
}

sy_dtype sy__h5_get_type(const unsigned char *type, int64_t n)
{
    for (int32_t t = 0; t < SY_N_DTYPES; t++) {
        if (tensor_types[t].n > 0 && begins(type, n, &tensor_types[t])) {
            return (sy_dtype)t;
        }
    }
    return SY_N_DTYPES;
}

bool sy__h5_is_u64(const unsigned char *type, int64_t n)
{
    return begins(type, n, &u64_type);
}

bool sy__h5_is_row(const unsigned char *type, int64_t n)
{
    static const struct {
        const char *name;
        size_t at;
        const type_bytes *type;
    } members[] = {{"dataset", offsetof(sy__row, dataset), &name_type},
                   {"offset", offsetof(sy__row, offset), &u64_type},
                   {"length", offsetof(sy__row, length), &u64_type},
                   {"xxh3_64", offsetof(sy__row, xxh3), &u64_type}};
    enum { N_MEMBERS = sizeof members / sizeof members[0] };
    static const type_bytes compound = {8, {6, N_MEMBERS, 0, 0, sizeof(sy__row), 0, 0, 0}};
    if (!begins(type, n, &compound) || (type[0] & VERSIONS) < ROW_VERSION) {
        return false;
    }
    int64_t at = compound.n;
    for (int32_t m = 0; m < N_MEMBERS; m++) { /* name, its end, place in the row, type */
        const int64_t name_bytes = (int64_t)strlen(members[m].name) + 1;
        if (at + name_bytes + 1 > n ||
            memcmp(type + at, members[m].name, (size_t)name_bytes) != 0 ||
            type[at + name_bytes] != members[m].at ||
            !begins(type + at + name_bytes + 1, n - at - name_bytes - 1, members[m].type)) {
            return false;
        }
        at += name_bytes + 1 + members[m].type->n;
    }
    return true;
}

/* Building the data of a case on the host. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "tests/ops/op_test.h"

enum { SEED = 7 };
static const double gap = 7; /* stands between rows; no op may change it */

void op_must(sy_status st)
{
    if (st != SY_OK) {
        fprintf(stderr, "test_ops: %s\n", sy_error_message());
        exit(1);
    }
}

bool op_verdict(op_runner *runner, bool ok, const char *format, ...)
{
    if (ok) {
        runner->n_passed++;
    } else {
        va_list list;
        va_start(list, format);
        printf("FAIL ");
        vprintf(format, list);
        printf("\n");
        fflush(stdout);
        va_end(list);
        runner->n_failed++;
    }
    return ok;
}

op_operand *op_find(op_instance *in, const char *name)
{
    for (int32_t i = 0; i < in->info->n_operands; i++) {
        if (strcmp(in->info->operands[i].name, name) == 0) {
            return &in->operand[i];
        }
    }
    fprintf(stderr, "test_ops: op %s has no operand %s\n", in->info->name, name);
    abort();
}

const op_operand *op_see(const op_instance *in, const char *name)
{
    for (int32_t i = 0; i < in->info->n_operands; i++) {
        if (strcmp(in->info->operands[i].name, name) == 0) {
            return &in->operand[i];
        }
    }
    return NULL;
}

op_operand *op_tensor(op_instance *in, const char *name, op_kind kind, int64_t pad, int32_t n_dim,
                      const int64_t *shape)
{
    op_operand *o = op_find(in, name);
    o->kind = kind;
    o->n_dim = n_dim;
    int64_t stride = 1;
    for (int32_t d = n_dim - 1; d >= 0; d--) {
        o->shape[d] = shape[d];
        o->stride[d] = stride + (d == 0 && n_dim > 1 ? pad : 0);
        stride *= shape[d];
    }
    o->span = n_dim > 1 ? shape[0] * o->stride[0] : shape[0];
    op_must(sy_alloc(o->span, sizeof(double), (void **)&o->values));
    for (int64_t i = 0; i < o->span; i++) {
        o->values[i] = gap;
    }
    for (int64_t i = 0; i < op_numel(o); i++) {
        *op_at(o, i) = 0;
    }
    return o;
}

op_operand *op_alias(op_instance *in, const char *name, const op_operand *with)
{
    op_operand *o = op_find(in, name);
    const sy_operand *about = o->about;
    *o = *with;
    o->about = about;
    o->alias = (int32_t)(with - in->operand);
    op_must(sy_alloc(o->span, sizeof(double), (void **)&o->values));
    memcpy(o->values, with->values, (size_t)o->span * sizeof(double));
    return o;
}

op_operand *op_rows(op_operand *o, int32_t dim)
{
    o->row_dim = dim;
    return o;
}

int64_t op_numel(const op_operand *o)
{
    int64_t n = 1;
    for (int32_t d = 0; d < o->n_dim; d++) {
        n *= o->shape[d];
    }
    return n;
}

double *op_at(const op_operand *o, int64_t i)
{
    int64_t at = 0;
    for (int32_t d = o->n_dim - 1; d >= 0; d--) {
        at += i % o->shape[d] * o->stride[d];
        i /= o->shape[d];
    }
    return o->values + at;
}

double op_rounded(sy_dtype dtype, double x)
{
    char bytes[8];
    if (!sy_dtype_is_float(dtype)) {
        return x;
    }
    sy_convert(dtype, bytes, SY_F64, &x, 1);
    sy_convert(SY_F64, &x, dtype, bytes, 1);
    return x;
}

static sy_dtype dtype_of(op_kind kind, sy_dtype a, sy_dtype wide)
{
    switch (kind) {
    case OP_A:
        return a;
    case OP_W:
        return wide;
    case OP_F32:
        return SY_F32;
    case OP_F64:
        return SY_F64;
    case OP_BF16:
        return SY_BF16;
    case OP_I32:
        return SY_I32;
    case OP_I64:
        return SY_I64;
    default:
        return SY_U8;
    }
}

sy_dtype op_dtype(const sy_device *dev, sy_dtype a, op_kind kind)
{
    return dtype_of(kind, a, dev->wide);
}

void op_round(op_instance *in, op_operand *o)
{
    const sy_dtype dtype = dtype_of(o->kind, in->a, in->wide);
    for (int64_t i = 0; i < o->span; i++) {
        o->values[i] = op_rounded(dtype, o->values[i]);
    }
}

op_operand *op_normal(op_instance *in, op_operand *o, double scale)
{
    for (int64_t i = 0; i < op_numel(o); i++) {
        *op_at(o, i) = scale * sy_rng_normal(SEED, SY_RNG_TEST, in->n_draws++);
    }
    op_round(in, o);
    return o;
}

op_operand *op_uniform(op_instance *in, op_operand *o, double lo, double hi)
{
    for (int64_t i = 0; i < op_numel(o); i++) {
        *op_at(o, i) = lo + (hi - lo) * sy_rng_uniform(SEED, SY_RNG_TEST, in->n_draws++);
    }
    op_round(in, o);
    return o;
}

int64_t op_draw(op_instance *in, int64_t n)
{
    return (int64_t)(sy_rng_u64(SEED, SY_RNG_TEST, in->n_draws++) % (uint64_t)n);
}

op_operand *op_ints(op_instance *in, op_operand *o, int64_t lo, int64_t hi)
{
    for (int64_t i = 0; i < op_numel(o); i++) {
        *op_at(o, i) = (double)(lo + op_draw(in, hi - lo + 1));
    }
    return o;
}

op_operand *op_choices(op_instance *in, op_operand *o, int64_t k, int64_t E, int64_t skip,
                       bool lean)
{
    for (int64_t i = 0; i < op_numel(o); i++) {
        const int64_t t = i / k;
        bool taken = true;
        while (taken) { /* draw until it differs from the token's earlier ones */
            *op_at(o, i) = lean && i % k == 0 ? 0 : (double)op_draw(in, E);
            taken = false;
            for (int64_t j = t * k; j < i; j++) {
                taken = taken || *op_at(o, j) == *op_at(o, i);
            }
        }
    }
    for (int64_t i = 0; i < op_numel(o) && skip > 0; i++) {
        if (i / k % skip == skip - 1) {
            *op_at(o, i) = -1;
        }
    }
    return o;
}

sy_tensor op_host(const op_operand *o)
{
    sy_tensor t = sy_tensor_nd(o->values, SY_F64, o->n_dim, o->shape);
    memcpy(t.stride, o->stride, sizeof t.stride);
    return t;
}

void op_instance_build(op_instance *in, op_runner *runner, const op_test *test, const op_case *c,
                       sy_dtype a, sy_dtype wide)
{
    *in = (op_instance){.test = test,
                        .c = c,
                        .info = sy_op_describe(test->op),
                        .runner = runner,
                        .a = a,
                        .wide = wide};
    for (int32_t i = 0; i < in->info->n_operands; i++) {
        in->operand[i] = (op_operand){
            .about = &in->info->operands[i], .alias = -1, .row_dim = -1, .row_unit = 1};
    }
    test->build(in, c);
}

void op_instance_free(op_instance *in)
{
    for (int32_t i = 0; i < in->info->n_operands; i++) {
        sy_free(&in->operand[i].values);
    }
}

bool op_has_compute_dtype(const op_instance *in)
{
    for (int32_t i = 0; i < in->info->n_operands; i++) {
        if (in->operand[i].values && in->operand[i].kind == OP_A) {
            return true;
        }
    }
    return false;
}

void op_case_format(const op_case *c, char *buf, size_t bytes)
{
    size_t n = 0;
    buf[0] = 0;
#define PRINT_FIELD(field)                                                                         \
    if (c->field != 0 && n < bytes) {                                                              \
        n += (size_t)snprintf(buf + n, bytes - n, "%s%s=%lld", n ? " " : "", #field,               \
                              (long long)c->field);                                                \
    }
    OP_CASE_FIELDS(PRINT_FIELD)
}

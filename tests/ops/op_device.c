/* An instance on a device: upload, call, download. */
#include <math.h>
#include <stdlib.h>

#include "core/alloc.h"
#include "tests/ops/op_test.h"

enum {
    UNWRITTEN_INT = 113
}; /* what integer outputs hold before: fits every type, and no case yields it everywhere */

bool op_overwritten(const op_instance *in, int32_t i)
{
    const sy_operand *about = in->operand[i].about;
    double beta = 0;
    if (in->operand[i].alias >= 0) {
        return false;
    }
    if (about->role == SY_ROLE_OUT_IF_ZERO) {
        memcpy(&beta, in->args.bytes + about->beta_offset, sizeof beta);
        return beta == 0;
    }
    return about->role == SY_ROLE_OUT;
}

bool op_written(const op_instance *in, int32_t i)
{
    return in->operand[i].values && in->operand[i].about->role != SY_ROLE_IN;
}

static void to_bytes(sy_dtype dtype, void *bytes, const double *values, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        switch (dtype) {
        case SY_I32:
            ((int32_t *)bytes)[i] = (int32_t)values[i];
            break;
        case SY_I64:
            ((int64_t *)bytes)[i] = (int64_t)values[i];
            break;
        case SY_U8:
            ((uint8_t *)bytes)[i] = (uint8_t)values[i];
            break;
        default:
            sy_convert(dtype, bytes, SY_F64, values, n);
            return;
        }
    }
}

static void from_bytes(sy_dtype dtype, double *values, const void *bytes, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        switch (dtype) {
        case SY_I32:
            values[i] = ((const int32_t *)bytes)[i];
            break;
        case SY_I64:
            values[i] = (double)((const int64_t *)bytes)[i];
            break;
        case SY_U8:
            values[i] = ((const uint8_t *)bytes)[i];
            break;
        default:
            sy_convert(SY_F64, values, dtype, bytes, n);
            return;
        }
    }
}

/* What is uploaded: the values, and poison in the elements of an output. */
static void prepare_bytes(const op_instance *in, int32_t i, sy_dtype dtype, void *bytes)
{
    const op_operand *o = &in->operand[i];
    op_operand poisoned = *o;
    op_must(sy_alloc(o->span, sizeof(double), (void **)&poisoned.values));
    memcpy(poisoned.values, o->values, (size_t)o->span * sizeof(double));
    for (int64_t k = 0; k < op_numel(o) && op_overwritten(in, i); k++) {
        *op_at(&poisoned, k) = sy_dtype_is_float(dtype) ? NAN : UNWRITTEN_INT;
    }
    to_bytes(dtype, bytes, poisoned.values, o->span);
    sy_free(&poisoned.values);
}

static sy_tensor *tensor_of(op_loaded *l, int32_t i)
{
    return (sy_tensor *)(void *)(l->args.bytes + l->in->info->operands[i].offset);
}

void op_load(op_loaded *l, const op_instance *in, sy_device *dev, sy_stream *stream, sy_dtype a)
{
    *l = (op_loaded){.in = in, .dev = dev, .stream = stream, .a = a};
    l->args = in->args;
    for (int32_t i = 0; i < in->info->n_operands; i++) {
        const op_operand *o = &in->operand[i];
        if (!o->values) {
            continue;
        }
        const sy_dtype dtype = op_dtype(dev, a, o->kind);
        const int64_t bytes = o->span * (int64_t)sy_dtype_bytes(dtype);
        op_must(sy_alloc(bytes, 1, &l->h_before[i]));
        prepare_bytes(in, i, dtype, l->h_before[i]);
        if (o->alias < 0) {
            op_must(sy_device_alloc(dev, bytes, SY_MEM_OTHER, &l->memory[i]));
            op_must(sy_copy_h2d(stream, l->memory[i], l->h_before[i], bytes));
        }
        sy_tensor *t = tensor_of(l, i);
        *t = sy_tensor_nd(l->memory[o->alias < 0 ? i : o->alias], dtype, o->n_dim, o->shape);
        memcpy(t->stride, o->stride, sizeof t->stride);
    }
    op_must(sy_stream_sync(stream));
}

void op_load_slice(op_loaded *l, int64_t first, int64_t n)
{
    for (int32_t i = 0; i < l->in->info->n_operands; i++) {
        const op_operand *o = &l->in->operand[i];
        sy_tensor *t = tensor_of(l, i);
        if (!o->values || o->row_dim < 0) {
            continue;
        }
        t->shape[o->row_dim] = n * o->row_unit + o->row_extra;
        t->data = (char *)t->data +
                  first * o->row_unit * o->stride[o->row_dim] * (int64_t)sy_dtype_bytes(t->dtype);
    }
}

sy_status op_call(sy_op op, sy_stream *stream, const void *args)
{
    switch (op) {
#define CALL(name)                                                                                 \
    case SY_OP_##name:                                                                             \
        return sy_##name(stream, args);
        SY_OPS(CALL)
    default:
        return SY_ERR_INTERNAL;
    }
}

sy_status op_launch(op_loaded *l)
{
    sy_error_clear();
    return op_call(l->in->test->op, l->stream, l->args.bytes);
}

void op_fetch(op_loaded *l, op_result *result)
{
    *result = (op_result){0};
    for (int32_t i = 0; i < l->in->info->n_operands; i++) {
        const op_operand *o = &l->in->operand[i];
        if (!o->values) {
            continue;
        }
        const sy_dtype dtype = op_dtype(l->dev, l->a, o->kind);
        const int64_t bytes = o->span * (int64_t)sy_dtype_bytes(dtype);
        op_must(sy_alloc(bytes, 1, &result->bytes[i]));
        op_must(sy_alloc(o->span, sizeof(double), (void **)&result->values[i]));
        op_must(sy_copy_d2h(l->stream, result->bytes[i], l->memory[o->alias < 0 ? i : o->alias],
                            bytes));
        op_must(sy_stream_sync(l->stream));
        from_bytes(dtype, result->values[i], result->bytes[i], o->span);
    }
}

void op_unload(op_loaded *l)
{
    for (int32_t i = 0; i < OP_MAX_OPERANDS; i++) {
        if (l->memory[i]) {
            sy_device_free(l->dev, &l->memory[i]);
        }
        sy_free(&l->h_before[i]);
    }
}

void op_result_free(op_result *result)
{
    for (int32_t i = 0; i < OP_MAX_OPERANDS; i++) {
        sy_free(&result->values[i]);
        sy_free(&result->bytes[i]);
    }
}

/* sy_<op>(): the contract, then the slot, in the stream's order. All of it is generated from the
 * lists in ops.h. */
#include "backend/ops.h"

#include <stddef.h>
#include <stdio.h>

#include "backend/backend_impl.h"
#include "backend/ops_check_impl.h"
#include "core/pulse.h"
#include "core/span.h"

static sy_status lacking(const sy_device *dev, const char *op)
{
    return sy_error(SY_ERR_UNSUPPORTED, "backend '%s' lacks the op '%s'", dev->name, op);
}

#define SY_OP_DEFINE(op)                                                                           \
    _Static_assert(sizeof(sy_##op##_args) <= SY_CALL_BYTES, "args of " #op " are too large");      \
    static sy_status run_##op(sy_stream *stream, const void *args)                                 \
    {                                                                                              \
        return stream->dev->ops->op(stream, args);                                                 \
    }                                                                                              \
    sy_status sy_##op(sy_stream *stream, const sy_##op##_args *args)                               \
    {                                                                                              \
        sy_device *dev = stream->dev;                                                              \
        sy_status st = dev->ops->op ? sy__check_##op(dev, args) : lacking(dev, #op);               \
        if (st != SY_OK) {                                                                         \
            return st;                                                                             \
        }                                                                                          \
        sy_pulse_beat();                                                                           \
        sy_span_begin(SY_SPAN_OP, #op, -1, -1);                                                    \
        st = dev->observer                                                                         \
                 ? sy__observe_op(stream, SY_OP_##op, run_##op, args, sizeof *args)                \
                 : dev->vt->run_op(stream, SY_OP_##op, run_##op, args, (int64_t)sizeof *args);     \
        sy_span_end();                                                                             \
        return st;                                                                                 \
    }
SY_OPS(SY_OP_DEFINE)

/* ---- descriptions ---- */

/* Inside a function of its own each op can call its args struct by one name. */
#define IN(x) {.name = #x, .role = SY_ROLE_IN, .offset = offsetof(args_struct, x)},
#define OUT(x) {.name = #x, .role = SY_ROLE_OUT, .offset = offsetof(args_struct, x)},
#define UPDATE(x) {.name = #x, .role = SY_ROLE_UPDATE, .offset = offsetof(args_struct, x)},
#define OUT_IF_ZERO(x, beta)                                                                       \
    {.name = #x,                                                                                   \
     .role = SY_ROLE_OUT_IF_ZERO,                                                                  \
     .offset = offsetof(args_struct, x),                                                           \
     .beta_offset = offsetof(args_struct, beta)},

#define SY_OP_DESCRIBE(op)                                                                         \
    static const sy_op_info *describe_##op(void)                                                   \
    {                                                                                              \
        typedef sy_##op##_args args_struct;                                                        \
        static const sy_operand operands[] = {SY_OPERANDS_##op(IN, OUT, UPDATE, OUT_IF_ZERO)};     \
        static const sy_op_info info = {.name = #op,                                               \
                                        .args_bytes = sizeof(args_struct),                         \
                                        .operands = operands,                                      \
                                        .n_operands = sizeof operands / sizeof operands[0]};       \
        return &info;                                                                              \
    }
SY_OPS(SY_OP_DESCRIBE)

const sy_op_info *sy_op_describe(sy_op op)
{
#define SY_OP_DESCRIPTION(op) describe_##op,
    static const sy_op_info *(*const describe[SY_N_OPS])(void) = {SY_OPS(SY_OP_DESCRIPTION)};
    return (unsigned)op < SY_N_OPS ? describe[op]() : NULL;
}

const char *sy_op_name(sy_op op)
{
    const sy_op_info *info = sy_op_describe(op);
    return info ? info->name : "unknown";
}

bool sy_op_supported(const sy_device *dev, sy_op op)
{
#define SY_OP_HAS(op) [SY_OP_##op] = dev->ops->op != NULL,
    const bool has[SY_N_OPS] = {SY_OPS(SY_OP_HAS)};
    return (unsigned)op < SY_N_OPS && has[op];
}

sy_status sy_ops_require_all(const sy_device *dev)
{
    char missing[1024] = "";
    size_t n = 0;
    for (int32_t op = 0; op < SY_N_OPS; op++) {
        if (!sy_op_supported(dev, (sy_op)op) && n < sizeof missing) {
            n += (size_t)snprintf(missing + n, sizeof missing - n, "%s%s", n ? ", " : "",
                                  sy_op_name((sy_op)op));
        }
    }
    return n == 0 ? SY_OK
                  : sy_error(SY_ERR_UNSUPPORTED, "backend '%s' lacks these ops: %s", dev->name,
                             missing);
}

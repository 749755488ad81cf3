#include "backend/corrupt.h"

#include <math.h>

#include "backend/backend_impl.h"
#include "core/fault.h"

sy_status sy_corrupt(sy_stream *stream, const char *point, const sy_tensor *x, int64_t at)
{
    sy_status st = SY_OK;
    int32_t bit = 0;
    const sy_fault_action action = stream->dev->dry ? SY_FAULT_NONE : sy_fault_hit_bit(point, &bit);
    const size_t bytes = sy_dtype_bytes(x->dtype);
    uint64_t value = 0; /* its first bytes: little-endian machines only */
    char *address = (char *)x->data + at * (int64_t)bytes;
    if (action == SY_FAULT_NONE || at >= sy_tensor_numel(x)) {
        return SY_OK;
    }
    if (action == SY_FAULT_FLIP) {
        SY_TRY(sy_copy_d2h(stream, &value, address, (int64_t)bytes));
        SY_TRY(sy_stream_sync(stream));
        value ^= (uint64_t)1 << bit % (8 * (int32_t)bytes);
    } else {
        const double bad = action == SY_FAULT_INF ? INFINITY : NAN;
        sy_convert(x->dtype, &value, SY_F64, &bad, 1);
    }
    SY_TRY(sy_copy_h2d(stream, address, &value, (int64_t)bytes));
    SY_TRY(sy_stream_sync(stream));
cleanup:
    return st;
}

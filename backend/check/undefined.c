/* Which device memory has been handed out and not been written since. It cannot be filled with NaN
   when it is handed out: ops that still use what was there before may not have run yet. So its NaN
   comes when somebody reads it, in the order of that reader. */
#include <string.h>

#include "backend/check/check_impl.h"

static void add(sy__check *check, uintptr_t first, uintptr_t end)
{
    if (first < end && check->n_undefined < SY__UNDEFINED) { /* beyond: it goes without NaN */
        check->undefined[check->n_undefined++] =
            sy__range_of_bytes((void *)first, (int64_t)(end - first));
    }
}

bool sy__undefined_take(sy__check *check, const sy__range *range, sy__range *piece)
{
    uintptr_t end = range->first + (uintptr_t)range->bytes;
    for (int32_t i = 0; i < check->n_undefined; i++) {
        sy__range whole = check->undefined[i];
        uintptr_t whole_end = whole.first + (uintptr_t)whole.bytes;
        if (whole_end <= range->first || end <= whole.first) {
            continue;
        }
        uintptr_t from = whole.first > range->first ? whole.first : range->first;
        uintptr_t to = whole_end < end ? whole_end : end;
        check->undefined[i] = check->undefined[--check->n_undefined];
        add(check, whole.first, from);
        add(check, to, whole_end);
        *piece = sy__range_of_bytes((void *)from, (int64_t)(to - from));
        return true;
    }
    return false;
}

void sy__undefined_add(sy_device *dev, void *ptr, int64_t bytes)
{
    sy__check *check = sy__check_of(dev);
    sy__range range = sy__range_of_bytes(ptr, bytes), piece;
    pthread_mutex_lock(&check->lock);
    while (sy__undefined_take(check, &range, &piece)) {
    }
    add(check, range.first, range.first + (uintptr_t)bytes);
    pthread_mutex_unlock(&check->lock);
}

void sy__undefined_forget(sy__check *check)
{
    check->n_undefined = 0;
}

void sy__undefined_forget_at(sy__check *check, const void *ptr)
{
    for (int32_t i = 0; i < check->n_undefined; i++) {
        if ((uintptr_t)ptr - check->undefined[i].first < (uintptr_t)check->undefined[i].bytes) {
            check->undefined[i] = check->undefined[--check->n_undefined];
            return;
        }
    }
}

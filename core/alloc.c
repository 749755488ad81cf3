/* Blocks from calloc, so that large ones cost no page until touched. A 64-byte head in front of the
   aligned pointer remembers where the block starts and how long it is. */
#include "core/alloc.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/fault.h"

enum { ALIGN_BYTES = 64 };

typedef struct block_head {
    void *raw; /* what calloc gave */
    size_t bytes;
} block_head;

static _Atomic int64_t n_live, n_total;

static block_head *head_of(void *ptr)
{
    return (block_head *)((char *)ptr - ALIGN_BYTES);
}

static sy_status new_block(int64_t n, size_t elem_bytes, void **out)
{
    sy_status st = SY_OK;
    size_t bytes = 0, raw_bytes = 0;
    bool fits = n >= 0 && !__builtin_mul_overflow((size_t)n, elem_bytes, &bytes) &&
                !__builtin_add_overflow(bytes, 2 * ALIGN_BYTES, &raw_bytes);
    SY_REQUIRE(fits, SY_ERR_MEMORY, "cannot allocate %" PRId64 " elements of %zu bytes: too large",
               n, elem_bytes);
    char *raw = sy_fault_hit("alloc") == SY_FAULT_FAIL ? NULL : calloc(1, raw_bytes);
    SY_REQUIRE(raw, SY_ERR_MEMORY, "out of memory: cannot allocate %zu bytes on the host", bytes);

    uintptr_t past_head = (uintptr_t)raw + ALIGN_BYTES;
    char *ptr = raw + ALIGN_BYTES + (ALIGN_BYTES - past_head % ALIGN_BYTES) % ALIGN_BYTES;
    *head_of(ptr) = (block_head){.raw = raw, .bytes = bytes};
    atomic_fetch_add_explicit(&n_live, 1, memory_order_relaxed);
    *out = ptr;
cleanup:
    return st;
}

sy_status sy_alloc(int64_t n, size_t elem_bytes, void **out)
{
    atomic_fetch_add_explicit(&n_total, 1, memory_order_relaxed);
    return new_block(n, elem_bytes, out);
}

sy_status sy_realloc(int64_t n, size_t elem_bytes, void **ptr)
{
    sy_status st = SY_OK;
    void *grown = NULL;
    atomic_fetch_add_explicit(&n_total, 1, memory_order_relaxed);
    SY_TRY(new_block(n, elem_bytes, &grown));
    if (*ptr) {
        size_t old_bytes = head_of(*ptr)->bytes, new_bytes = head_of(grown)->bytes;
        memcpy(grown, *ptr, old_bytes < new_bytes ? old_bytes : new_bytes);
        sy_free(ptr);
    }
    *ptr = grown;
cleanup:
    return st;
}

sy_status sy_strdup(const char *text, char **out)
{
    sy_status st = SY_OK;
    void *copy = NULL;
    size_t bytes = strlen(text) + 1;
    SY_TRY(sy_alloc((int64_t)bytes, 1, &copy));
    memcpy(copy, text, bytes);
    *out = copy;
cleanup:
    return st;
}

sy_status sy_asprintf(char **out, const char *format, ...)
{
    sy_status st = SY_OK;
    void *text = NULL;
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    SY_REQUIRE(n >= 0, SY_ERR_INTERNAL, "cannot format a message: '%s'", format);
    SY_TRY(sy_alloc((int64_t)n + 1, 1, &text));
    vsnprintf(text, (size_t)n + 1, format, again);
    *out = text;
cleanup:
    va_end(again);
    va_end(args);
    return st;
}

void sy_free(void *ptr_to_ptr)
{
    void *ptr = NULL;
    memcpy(&ptr, ptr_to_ptr, sizeof ptr); /* any pointer type: no aliasing through void ** */
    if (!ptr) {
        return;
    }
    free(head_of(ptr)->raw);
    atomic_fetch_sub_explicit(&n_live, 1, memory_order_relaxed);
    ptr = NULL;
    memcpy(ptr_to_ptr, &ptr, sizeof ptr);
}

int64_t sy_alloc_live(void)
{
    return atomic_load_explicit(&n_live, memory_order_relaxed);
}

int64_t sy_alloc_total(void)
{
    return atomic_load_explicit(&n_total, memory_order_relaxed);
}

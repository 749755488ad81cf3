/* Device memory that host code cannot touch. Two places are reserved next to each other: addresses
   of the first are handed out and no page of it is ever mapped; block by block the second becomes
   memory, at the same offset. A block takes whole pages: red zone, bytes, red zone to the end of
   the page; between two blocks stands a page that is nobody's. */
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/check/check_impl.h"
#include "core/alloc.h"

sy_status sy__region_open(sy__region *region)
{
    sy_status st = SY_OK;
    int64_t page = sysconf(_SC_PAGESIZE), n_pages = sysconf(_SC_PHYS_PAGES);
    int64_t bytes = page * n_pages; /* more would not fit the machine */
    void *base = mmap(NULL, (size_t)(2 * bytes), PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    SY_REQUIRE(base != MAP_FAILED, SY_ERR_MEMORY,
               "cannot reserve %" PRId64 " bytes of addresses for the check backend", 2 * bytes);
    *region = (sy__region){.base = base, .bytes = bytes, .page_bytes = page};
    sy__trap_set(base, bytes, bytes);
cleanup:
    return st;
}

void sy__region_close(sy__region *region)
{
    sy__trap_clear(region->base);
    munmap(region->base, (size_t)(2 * region->bytes));
    sy_free(&region->spans);
}

bool sy__region_has(const sy__region *region, const void *ptr)
{
    return (uintptr_t)ptr - (uintptr_t)region->base < (uintptr_t)region->bytes;
}

void *sy__region_view(const sy__region *region, const void *ptr)
{
    return sy__region_has(region, ptr) ? (char *)ptr + region->bytes : (void *)ptr;
}

/* The place in `spans` of the first span that ends behind the offset. */
static int32_t span_at(const sy__region *region, int64_t offset)
{
    int32_t low = 0, high = region->n_spans;
    while (low < high) {
        int32_t middle = (low + high) / 2;
        const sy__span *s = &region->spans[middle];
        if (s->offset + s->span_bytes <= offset) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The block that holds an address of the first place; the byte behind a block still counts, for
 * blocks of no bytes. */
static const sy__span *span_of(const sy__region *region, const void *ptr)
{
    int64_t offset = (const char *)ptr - region->base;
    int32_t i = sy__region_has(region, ptr) ? span_at(region, offset) : region->n_spans;
    bool inside = i < region->n_spans && region->spans[i].offset <= offset;
    return inside ? &region->spans[i] : NULL;
}

bool sy__region_covers(const sy__region *region, uintptr_t first, int64_t bytes)
{
    const sy__span *s = span_of(region, (const void *)first);
    int64_t from = s ? (int64_t)(first - (uintptr_t)region->base) - s->offset - SY__RED_BYTES : -1;
    return from >= 0 && from + bytes <= s->bytes;
}

static unsigned char red_byte(int64_t i)
{
    return (unsigned char)(0xa7 + 29 * i);
}

/* Bytes from .. to-1 of a span's second place. */
static void paint(const sy__region *region, const sy__span *s, int64_t from, int64_t to)
{
    unsigned char *view = (unsigned char *)region->base + region->bytes + s->offset;
    for (int64_t i = from; i < to; i++) {
        view[i] = red_byte(i);
    }
}

/* The first byte that is no longer red, -1: none. */
static int64_t first_changed(const sy__region *region, const sy__span *s, int64_t from, int64_t to)
{
    const unsigned char *view = (const unsigned char *)region->base + region->bytes + s->offset;
    for (int64_t i = from; i < to; i++) {
        if (view[i] != red_byte(i)) {
            return i;
        }
    }
    return -1;
}

sy_status sy__region_verify(const sy__region *region, const void *ptr, const char *who)
{
    sy_status st = SY_OK;
    const sy__span *s = span_of(region, ptr);
    if (!s) {
        return SY_OK;
    }
    int64_t end = SY__RED_BYTES + s->bytes;
    int64_t before = first_changed(region, s, 0, SY__RED_BYTES);
    int64_t behind = first_changed(region, s, end, s->span_bytes);
    SY_REQUIRE(before < 0, SY_ERR_INTERNAL,
               "%s: something was written %" PRId64 " bytes before a block of %" PRId64 " bytes",
               who, SY__RED_BYTES - before, s->bytes);
    SY_REQUIRE(behind < 0, SY_ERR_INTERNAL,
               "%s: overrun: something was written %" PRId64
               " bytes behind the end of a block of %" PRId64 " bytes",
               who, behind - end, s->bytes);
cleanup:
    return st;
}

/* Where a span of so many bytes fits with a free page behind it: before spans[*place]. -1: nowhere.
 */
static int64_t find_gap(const sy__region *region, int64_t span_bytes, int32_t *place)
{
    int64_t offset = 0;
    for (int32_t i = 0; i <= region->n_spans; i++) {
        int64_t limit = i < region->n_spans ? region->spans[i].offset : region->bytes;
        if (limit - offset >= span_bytes + region->page_bytes) {
            *place = i;
            return offset;
        }
        offset =
            i < region->n_spans ? limit + region->spans[i].span_bytes + region->page_bytes : offset;
    }
    return -1;
}

sy_status sy__region_alloc(sy__region *region, int64_t bytes, void **out)
{
    sy_status st = SY_OK;
    int32_t place = 0;
    SY_REQUIRE(bytes <= region->bytes, SY_ERR_MEMORY,
               "%" PRId64 " bytes are more than the machine has", bytes);
    int64_t pages = (bytes + 2 * SY__RED_BYTES + region->page_bytes - 1) / region->page_bytes;
    sy__span span = {.span_bytes = pages * region->page_bytes, .bytes = bytes};
    span.offset = find_gap(region, span.span_bytes, &place);
    SY_REQUIRE(span.offset >= 0, SY_ERR_MEMORY, "no room for %" PRId64 " bytes", bytes);
    if (region->n_spans == region->max_spans) {
        int32_t more = region->max_spans > 0 ? 2 * region->max_spans : 64;
        SY_TRY(sy_realloc(more, sizeof *region->spans, (void **)&region->spans));
        region->max_spans = more;
    }
    char *view = region->base + region->bytes + span.offset;
    SY_REQUIRE(mprotect(view, (size_t)span.span_bytes, PROT_READ | PROT_WRITE) == 0, SY_ERR_MEMORY,
               "the system has no %" PRId64 " bytes", bytes);

    memmove(&region->spans[place + 1], &region->spans[place],
            (size_t)(region->n_spans - place) * sizeof span);
    region->spans[place] = span;
    region->n_spans++;
    paint(region, &span, 0, SY__RED_BYTES);
    paint(region, &span, SY__RED_BYTES + bytes, span.span_bytes);
    *out = region->base + span.offset + SY__RED_BYTES;
cleanup:
    return st;
}

void sy__region_free(sy__region *region, void *ptr)
{
    int32_t place = span_at(region, (char *)ptr - region->base);
    sy__span span = region->spans[place];
    char *view = region->base + region->bytes + span.offset;
    madvise(view, (size_t)span.span_bytes, MADV_DONTNEED); /* so that the next owner finds zeros */
    mprotect(view, (size_t)span.span_bytes, PROT_NONE);
    region->n_spans--;
    memmove(&region->spans[place], &region->spans[place + 1],
            (size_t)(region->n_spans - place) * sizeof span);
}

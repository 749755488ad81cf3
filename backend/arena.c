/* The bump arena. A measuring arena takes the same path and hands out addresses of no memory. */
#include "backend/arena.h"

#include <inttypes.h>
#include <string.h>

#include "backend/backend_impl.h"

sy_status sy_arena_init(sy_arena *arena, sy_device *dev, int64_t capacity_bytes, sy_mem_tag tag)
{
    sy_status st = SY_OK;
    sy_arena made = {.dev = dev, .capacity = capacity_bytes, .tag = tag};
    if (capacity_bytes >= 0) {
        SY_TRY(sy_device_alloc(dev, capacity_bytes, tag, (void **)&made.base));
        void *view = dev->dry ? NULL : sy_device_host_view(dev, made.base);
        if (view) {
            memset(view, 0, (size_t)capacity_bytes);
        }
    }
    *arena = made;
cleanup:
    return st;
}

void sy_arena_free(sy_arena *arena)
{
    if (arena->base) {
        sy_device_free(arena->dev, &arena->base);
    }
    *arena = (sy_arena){.dev = NULL};
}

/* Where a measuring arena's addresses begin: a stretch of nowhere of its own (1 TiB), so that two
 * arenas do not seem to overlap. */
static char *nowhere_of(const sy_arena *arena)
{
    uintptr_t number = (uintptr_t)arena / sizeof(void *) % (1U << 18);
    return (char *)((uintptr_t)SY__NOWHERE + ((number + 1) << 40));
}

sy_status sy_arena_alloc(sy_arena *arena, int64_t bytes, void **out)
{
    sy_status st = SY_OK;
    bool measuring = arena->base == NULL;
    int64_t left = (measuring ? INT64_MAX / 2 : arena->capacity) - arena->used;
    SY_REQUIRE(bytes >= 0, SY_ERR_INTERNAL, "cannot take %" PRId64 " bytes from the %s arena",
               bytes, sy_mem_tag_name(arena->tag));
    SY_REQUIRE(bytes <= left, SY_ERR_MEMORY,
               "the %s arena is exhausted: %" PRId64 " bytes wanted, %" PRId64 " of %" PRId64
               " left",
               sy_mem_tag_name(arena->tag), bytes, left, arena->capacity);

    char *ptr = (measuring ? nowhere_of(arena) : arena->base) + arena->used;
    int64_t used = arena->used + sy__align_up(bytes);
    arena->used = measuring || used < arena->capacity ? used : arena->capacity;
    arena->peak = arena->used > arena->peak ? arena->used : arena->peak;
    if (!measuring && bytes > 0 && arena->dev->vt->undefine) {
        arena->dev->vt->undefine(arena->dev, ptr, bytes);
    }
    *out = ptr;
cleanup:
    return st;
}

sy_status sy_arena_tensor(sy_arena *arena, sy_dtype dtype, int32_t n_dim, const int64_t *shape,
                          sy_tensor *out)
{
    sy_status st = SY_OK;
    int64_t factors[SY_MAX_DIM + 1], bytes = 0;
    void *data = NULL;
    SY_REQUIRE(n_dim >= 1 && n_dim <= SY_MAX_DIM, SY_ERR_INTERNAL,
               "a tensor cannot have %d dimensions", n_dim);
    memcpy(factors, shape, (size_t)n_dim * sizeof *shape);
    factors[n_dim] = (int64_t)sy_dtype_bytes(dtype);
    SY_TRY(sy_size_product(factors, n_dim + 1, &bytes));
    SY_TRY(sy_arena_alloc(arena, bytes, &data));
    *out = sy_tensor_nd(data, dtype, n_dim, shape);
cleanup:
    return st;
}

sy_status sy_arena_1d(sy_arena *arena, sy_dtype dtype, int64_t n, sy_tensor *out)
{
    return sy_arena_tensor(arena, dtype, 1, &n, out);
}

sy_status sy_arena_2d(sy_arena *arena, sy_dtype dtype, int64_t n0, int64_t n1, sy_tensor *out)
{
    return sy_arena_tensor(arena, dtype, 2, (int64_t[]){n0, n1}, out);
}

int64_t sy_arena_mark(const sy_arena *arena)
{
    return arena->used;
}

void sy_arena_release(sy_arena *arena, int64_t mark)
{
    arena->used = mark;
}

/* A bump allocator on device memory, for what lives as long as a pass. Measuring is running the
 * same code on an arena without memory. */
#ifndef SY_BACKEND_ARENA_H
#define SY_BACKEND_ARENA_H

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_arena {
    sy_device *dev;
    char *base;       /* NULL: measuring; addresses are handed out but nobody may touch them */
    int64_t capacity; /* bytes; measuring: unbounded */
    int64_t used, peak;
    sy_mem_tag tag;
} sy_arena;

/* capacity_bytes < 0: a measuring arena. Touches every page once, so that the memory report is true
 * from the start. */
sy_status sy_arena_init(sy_arena *arena, sy_device *dev, int64_t capacity_bytes, sy_mem_tag tag);
void sy_arena_free(sy_arena *arena);
/* 64-byte aligned bytes; contents undefined. Exhausted: SY_ERR_MEMORY naming the tag, what was
 * wanted and what is left. */
sy_status sy_arena_alloc(sy_arena *arena, int64_t bytes, void **out);
/* A contiguous tensor of the arena. */
sy_status sy_arena_tensor(sy_arena *arena, sy_dtype dtype, int32_t n_dim, const int64_t *shape,
                          sy_tensor *out);
sy_status sy_arena_1d(sy_arena *arena, sy_dtype dtype, int64_t n, sy_tensor *out);
sy_status sy_arena_2d(sy_arena *arena, sy_dtype dtype, int64_t n0, int64_t n1, sy_tensor *out);
/* A level to return to: everything allocated since then is gone. */
int64_t sy_arena_mark(const sy_arena *arena);
void sy_arena_release(sy_arena *arena, int64_t mark);

#ifdef __cplusplus
}
#endif
#endif

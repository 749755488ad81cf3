/* A table that is computed from data once and then lies beside it: built by whoever comes first,
   while others (ranks, jobs) wait; mapped by all. */
#ifndef SY_DATA_INDEX_CACHE_H
#define SY_DATA_INDEX_CACHE_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_index_cache {
    const void *table; /* [bytes], of whose contents nothing is known where a file was found */
    int64_t bytes;
    void *map; /* the whole file, or memory */
    int64_t map_bytes;
} sy_index_cache;

/* Compute the table into zeroed memory. */
typedef sy_status sy_index_build(void *self, void *table);

typedef struct sy_index_cache_spec {
    const char *beside; /* the data's path */
    const char *what;   /* "order": part of the name */
    uint64_t key;       /* of all that the table depends on */
    int64_t bytes;
    sy_index_build *build;
    void *self;
} sy_index_cache_spec;

/* Find or build "<beside>.<what>-<key>.index". Where the folder cannot be written, the table is
   built in memory, and that is said. Errors: those of build; SY_ERR_MEMORY; SY_ERR_IO for a full
   disk. Not collective. */
sy_status sy_index_cache_open(const sy_index_cache_spec *spec, sy_index_cache *out);
void sy_index_cache_close(sy_index_cache *cache);

#ifdef __cplusplus
}
#endif
#endif

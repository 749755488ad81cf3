/* A set of tensors: found by name, and closed with all it points into. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "checkpoint/safetensors_impl.h"
#include "core/alloc.h"

sy_status sy__st_set_create(sy_st_set **out)
{
    sy_status st = SY_OK;
    sy_st_set *set = NULL;
    SY_TRY(sy_alloc(1, sizeof *set, (void **)&set));
    SY_TRY(sy_alloc(1, sizeof(sy__st_storage), &set->self));
    *out = set;
    set = NULL;
cleanup:
    sy_free(&set);
    return st;
}

void sy_st_close(sy_st_set **set)
{
    if (!*set) {
        return;
    }
    sy__st_storage *storage = (*set)->self;
    for (int64_t i = 0; i < storage->n_parts; i++) {
        sy_st_close(&storage->part[i]);
    }
    if (storage->map) {
        munmap(storage->map, storage->map_bytes);
    }
    sy_free(&storage->part);
    sy_free(&storage->shapes);
    sy_free(&storage->names);
    sy_free(&storage->path);
    sy_free(&(*set)->self);
    sy_free(&(*set)->tensor);
    sy_free(set);
}

static int name_against(const void *name, const void *tensor)
{
    return strcmp(name, ((const sy_st_tensor *)tensor)->name);
}

const sy_st_tensor *sy_st_find(const sy_st_set *set, const char *name)
{
    return set->n > 0
               ? bsearch(name, set->tensor, (size_t)set->n, sizeof *set->tensor, name_against)
               : NULL;
}

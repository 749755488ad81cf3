/* Tokens by id and by their bytes: an open-addressed table of ids over one block of bytes. */
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/alloc.h"
#include "data/bpe_impl.h"

static int64_t find_slot(const sy__vocab *v, const char *bytes, int64_t n)
{
    int64_t i = (int64_t)(XXH3_64bits(bytes, (size_t)n) & (uint64_t)(v->n_slots - 1));
    for (; v->slot[i] != 0; i = (i + 1) & (v->n_slots - 1)) {
        const int32_t id = v->slot[i] - 1;
        if (v->length[id] == n && memcmp(v->bytes + v->at[id], bytes, (size_t)n) == 0) {
            break;
        }
    }
    return i;
}

int32_t sy__vocab_find(const sy__vocab *v, const char *bytes, int64_t n)
{
    return v->n_slots > 0 ? v->slot[find_slot(v, bytes, n)] - 1 : -1;
}

static sy_status grow_slots(sy__vocab *v)
{
    sy_status st = SY_OK;
    int32_t *old = v->slot;
    const int64_t n_old = v->n_slots, n = n_old > 0 ? 2 * n_old : 1024;
    int32_t *slot = NULL;
    SY_TRY(sy_alloc(n, sizeof *slot, (void **)&slot));
    v->slot = slot;
    v->n_slots = n;
    for (int64_t i = 0; i < n_old; i++) {
        if (old[i] != 0) {
            const int32_t id = old[i] - 1;
            slot[find_slot(v, v->bytes + v->at[id], v->length[id])] = old[i];
        }
    }
    sy_free(&old);

cleanup:
    return st;
}

static sy_status reserve(sy__vocab *v, int32_t id, int64_t n)
{
    sy_status st = SY_OK;
    if (id >= v->max_ids) {
        const int32_t max = id < 512 ? 1024 : (int32_t)(2 * (int64_t)id);
        SY_TRY(sy_realloc(max, sizeof *v->at, (void **)&v->at));
        SY_TRY(sy_realloc(max, sizeof *v->length, (void **)&v->length));
        v->max_ids = max;
    }
    if (v->n_bytes + n > v->max_bytes) {
        const int64_t max = 2 * (v->n_bytes + n) + 4096;
        SY_TRY(sy_realloc(max, 1, (void **)&v->bytes));
        v->max_bytes = max;
    }
    if (2 * v->n_slots_used >= v->n_slots) {
        SY_TRY(grow_slots(v));
    }

cleanup:
    return st;
}

sy_status sy__vocab_add(sy__vocab *v, int32_t id, const char *bytes, int64_t n, bool findable)
{
    sy_status st = SY_OK;
    SY_REQUIRE(id >= v->n_ids || v->length[id] < 0, SY_ERR_USAGE, "id %d is given twice", id);
    SY_TRY(reserve(v, id, n));
    while (v->n_ids <= id) {
        v->length[v->n_ids++] = -1;
    }
    const int64_t slot = find_slot(v, bytes, n);
    SY_REQUIRE(!findable || v->slot[slot] == 0, SY_ERR_USAGE, "ids %d and %d are the same token",
               v->slot[slot] - 1, id);
    memcpy(v->bytes + v->n_bytes, bytes, (size_t)n);
    v->at[id] = v->n_bytes;
    v->length[id] = (int32_t)n;
    v->n_bytes += n;
    if (findable) {
        v->slot[slot] = id + 1;
        v->n_slots_used++;
    }
    if (n > v->longest) {
        v->longest = (int32_t)n;
    }

cleanup:
    return st;
}

void sy__vocab_free(sy__vocab *v)
{
    sy_free(&v->bytes);
    sy_free(&v->at);
    sy_free(&v->length);
    sy_free(&v->slot);
    *v = (sy__vocab){0};
}

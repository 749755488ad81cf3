#include "checkpoint/hash.h"

#include "checkpoint/hash_impl.h"
#include "core/alloc.h"

struct sy_hash {
    XXH3_state_t *state;
};

sy_status sy_hash_create(sy_hash **out)
{
    sy_status st = SY_OK;
    sy_hash *hash = NULL;
    SY_TRY(sy_alloc(1, sizeof *hash, (void **)&hash));
    hash->state = XXH3_createState();
    SY_REQUIRE(hash->state, SY_ERR_MEMORY, "out of memory: no state for a checksum");
    XXH3_64bits_reset(hash->state);
    *out = hash;
    hash = NULL;
cleanup:
    sy_hash_destroy(&hash);
    return st;
}

void sy_hash_destroy(sy_hash **hash)
{
    if (*hash != NULL) {
        XXH3_freeState((*hash)->state);
    }
    sy_free(hash);
}

void sy_hash_add(sy_hash *hash, const void *bytes, int64_t n)
{
    XXH3_64bits_update(hash->state, bytes, (size_t)n);
}

uint64_t sy_hash_take(sy_hash *hash)
{
    const uint64_t value = XXH3_64bits_digest(hash->state);
    XXH3_64bits_reset(hash->state);
    return value;
}

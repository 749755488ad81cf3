/* XXH3-64 over bytes that come in parts. */
#ifndef SY_CHECKPOINT_HASH_H
#define SY_CHECKPOINT_HASH_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_hash sy_hash;

/* Start, add bytes, and the value so far, with which it starts anew. Not collective. */
sy_status sy_hash_create(sy_hash **out);
void sy_hash_destroy(sy_hash **hash);
void sy_hash_add(sy_hash *hash, const void *bytes, int64_t n);
uint64_t sy_hash_take(sy_hash *hash);

#ifdef __cplusplus
}
#endif
#endif

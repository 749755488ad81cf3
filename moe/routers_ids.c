/* Ids by how often they come in the training data. */
#include <stdlib.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "moe/routers_impl.h"

typedef struct entry {
    double share;
    int64_t place; /* among those of the same share */
    int32_t id;
} entry;

static int by_share(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    return x->share != y->share ? (x->share < y->share) - (x->share > y->share)
                                : (x->place > y->place) - (x->place < y->place);
}

sy_status sy__most_frequent_first(const double *share, int64_t vocab, uint64_t seed,
                                  uint64_t stream, int32_t *id)
{
    sy_status st = SY_OK;
    entry *all = NULL;
    SY_TRY(sy_alloc(vocab, sizeof *all, (void **)&all));
    for (int64_t i = 0; i < vocab; i++) {
        all[i] = (entry){share[i], sy_rng_permute(seed, stream, vocab, i), (int32_t)i};
    }
    qsort(all, (size_t)vocab, sizeof *all, by_share);
    for (int64_t i = 0; i < vocab; i++) {
        id[i] = all[i].id;
    }
cleanup:
    sy_free(&all);
    return st;
}

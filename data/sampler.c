/* Which dataset: blocks of 64 samples; how many draws each dataset had before a block follows from
   its share by cumulative rounding, and a keyed permutation mixes the block. Which sequence: draw i
   of a dataset, permuted anew in each epoch. */
#include "data/sampler.h"

#include <math.h>

#include "core/alloc.h"
#include "core/rng.h"

enum { SHARES = 1 << 20 }; /* times k < 2^42 stays inside int64 */

typedef struct source {
    int64_t n_sequences;
    int64_t share; /* of SHARES */
    uint64_t key;  /* of its epochs' permutations */
} source;

struct sy_sampler {
    int32_t n;
    uint64_t block_key;
    source *source;
};

/* Shares sum to SHARES: each is the difference of rounded cumulative weights. */
static sy_status set_shares(sy_sampler *sampler, const double *weight)
{
    sy_status st = SY_OK;
    double total = 0, sum = 0;
    int64_t before = 0;
    for (int32_t d = 0; d < sampler->n; d++) {
        SY_REQUIRE(isfinite(weight[d]) && weight[d] > 0, SY_ERR_USAGE,
                   "data set %d has weight %g; weights are positive (leave the entry out instead)",
                   d, weight[d]);
        total += weight[d];
    }
    for (int32_t d = 0; d < sampler->n; d++) {
        sum += weight[d];
        int64_t upto = d == sampler->n - 1 ? SHARES : llround(sum / total * SHARES);
        sampler->source[d].share = upto - before;
        before = upto;
        SY_REQUIRE(sampler->source[d].share > 0, SY_ERR_USAGE,
                   "data set %d has weight %g of %g in all: too small a share to ever be drawn", d,
                   weight[d], total);
    }

cleanup:
    return st;
}

sy_status sy_sampler_create(uint64_t seed, const int64_t *n_sequences, const double *weight,
                            int32_t n, sy_sampler **out)
{
    sy_status st = SY_OK;
    sy_sampler *sampler = NULL;

    SY_REQUIRE(n >= 1, SY_ERR_INTERNAL, "a sampler of %d data sets", n);
    SY_TRY(sy_alloc(1, sizeof *sampler, (void **)&sampler));
    SY_TRY(sy_alloc(n, sizeof *sampler->source, (void **)&sampler->source));
    sampler->n = n;
    sampler->block_key = sy_rng_u64(seed, SY_RNG_DATA, 0);
    for (int32_t d = 0; d < n; d++) {
        SY_REQUIRE(n_sequences[d] >= 1, SY_ERR_INTERNAL, "data set %d has no sequences", d);
        sampler->source[d].n_sequences = n_sequences[d];
        sampler->source[d].key = sy_rng_u64(seed, SY_RNG_DATA, (uint64_t)d + 1);
    }
    SY_TRY(set_shares(sampler, weight));
    *out = sampler;
    sampler = NULL;

cleanup:
    sy_sampler_destroy(&sampler);
    return st;
}

void sy_sampler_destroy(sy_sampler **sampler)
{
    if (*sampler != NULL) {
        sy_free(&(*sampler)->source);
        sy_free(sampler);
    }
}

typedef struct draw {
    int32_t dataset;
    int64_t n_before;  /* its draws before the block */
    int64_t low, high; /* its slots in the block */
} draw;

/* The dataset that owns a slot of a block. Dataset by dataset, each takes floor(its share) of what
   the ones before it left: both the left-over and the taken grow by a whole number that is never
   negative, so a block's quotas add up to its size. */
static draw find_draw(const sy_sampler *sampler, int64_t block, int64_t slot)
{
    int64_t left = block * SY_SAMPLER_BLOCK, left_after = left + SY_SAMPLER_BLOCK;
    int64_t shares = SHARES, low = 0;
    for (int32_t d = 0;; d++) {
        int64_t share = sampler->source[d].share;
        int64_t n_before = left * share / shares, n_after = left_after * share / shares;
        int64_t high = low + n_after - n_before;
        if (slot < high || d == sampler->n - 1) {
            return (draw){d, n_before, low, high};
        }
        left -= n_before;
        left_after -= n_after;
        shares -= share;
        low = high;
    }
}

static int64_t slot_of(const sy_sampler *sampler, int64_t block, int64_t place)
{
    return sy_rng_permute(sampler->block_key, (uint64_t)block, SY_SAMPLER_BLOCK, place);
}

sy_sample sy_sampler_at(const sy_sampler *sampler, int64_t k)
{
    int32_t dataset = 0;
    int64_t i = k;
    if (sampler->n > 1) {
        int64_t block = k / SY_SAMPLER_BLOCK, place = k % SY_SAMPLER_BLOCK;
        draw at = find_draw(sampler, block, slot_of(sampler, block, place));
        dataset = at.dataset;
        i = at.n_before;
        /* Draws are numbered in the order in which they come, so that an epoch ends before the next
         * begins. */
        for (int64_t p = 0; p < place; p++) {
            int64_t slot = slot_of(sampler, block, p);
            i += slot >= at.low && slot < at.high;
        }
    }
    const source *from = &sampler->source[dataset];
    int64_t epoch = i / from->n_sequences;
    int64_t sequence =
        sy_rng_permute(from->key, (uint64_t)epoch, from->n_sequences, i % from->n_sequences);
    return (sy_sample){dataset, epoch, sequence};
}

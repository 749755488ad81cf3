#include "parallel/same.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "parallel/agree.h"

/* The rank whose digest most ranks have. [size]^2 comparisons, but only before the end. */
static int32_t most_common(const uint64_t *digest, int32_t size)
{
    int32_t best = 0, best_n = 0;
    for (int32_t i = 0; i < size && best_n <= size / 2; i++) {
        int32_t n = 0;
        for (int32_t j = 0; j < size; j++) {
            n += digest[j] == digest[i];
        }
        if (n > best_n) {
            best = i;
            best_n = n;
        }
    }
    return best;
}

/* "rank 3", "ranks 1, 4-7": who has not the digest of rank `usual`. What does not fit is counted
   out by "...". */
static void name_ranks(const uint64_t *digest, int32_t size, int32_t usual, char *buf, size_t bytes)
{
    size_t used = 0;
    int32_t n = 0;
    char list[160] = "";
    for (int32_t i = 0, last; i < size; i = last + 1) {
        last = i;
        if (digest[i] == digest[usual]) {
            continue;
        }
        while (last + 1 < size && digest[last + 1] != digest[usual]) {
            last++;
        }
        if (used + 40 > sizeof list) {
            snprintf(list + used, sizeof list - used, ", ...");
            n += 2;
            break;
        }
        used += (size_t)snprintf(list + used, sizeof list - used, n > 0 ? ", %d" : "%d", i);
        if (last > i) {
            used += (size_t)snprintf(list + used, sizeof list - used, "-%d", last);
        }
        n += last - i + 1;
    }
    snprintf(buf, bytes, "%s %s", n == 1 ? "rank" : "ranks", list);
}

/* The ranks differ in this item: say how. */
static sy_status describe(sy_comm *host, const sy_same *item)
{
    sy_status st = SY_OK;
    uint64_t *digest = NULL;
    char theirs[SY_SAME_WORDS], usual[SY_SAME_WORDS], ranks[192];
    int32_t other = 0;
    SY_TRY(sy_agree(host, sy_alloc(host->size, sizeof *digest, (void **)&digest)));
    SY_TRY(sy_host_all_gather(host, &item->digest, digest, sizeof *digest, item->what));
    const int32_t most = most_common(digest, host->size);
    while (digest[other] == digest[most]) {
        other++;
    }
    memcpy(theirs, item->here, sizeof theirs);
    memcpy(usual, item->here, sizeof usual);
    SY_TRY(sy_host_broadcast(host, theirs, sizeof theirs, other, item->what));
    SY_TRY(sy_host_broadcast(host, usual, sizeof usual, most, item->what));
    name_ranks(digest, host->size, most, ranks, sizeof ranks);
    st = sy_error(SY_ERR_USAGE, "%s is not the same on all ranks: %s: %s; rank %d: %s; %s",
                  item->what, ranks, theirs, most, usual, item->mend);
cleanup:
    sy_free(&digest);
    return st;
}

sy_status sy_same_check(sy_comm *host, const sy_same *item, int32_t n)
{
    sy_status st = SY_OK;
    int64_t *least = NULL;
    if (host->size == 1) {
        return SY_OK;
    }
    SY_TRY(sy_agree(host, sy_alloc(2 * (int64_t)n, sizeof *least, (void **)&least)));
    for (int32_t i = 0; i < n; i++) {
        least[2 * i] = (int64_t)item[i].digest;
        least[2 * i + 1] = ~(int64_t)item[i].digest; /* the least of these is ~ the greatest */
    }
    SY_TRY(sy_host_all_reduce(host, least, 2 * (int64_t)n, SY_I64, SY_MIN, "digests"));
    for (int32_t i = 0; i < n && st == SY_OK; i++) {
        if (least[2 * i] != ~least[2 * i + 1]) {
            st = describe(host, &item[i]);
        }
    }
cleanup:
    sy_free(&least);
    return st;
}

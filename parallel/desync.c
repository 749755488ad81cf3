/* Ranks whose calls differ: where, and by what. Only reached when they do, so it may take its time.
 */
#include "core/alloc.h"
#include "parallel/agree.h"
#include "parallel/comm_impl.h"

enum { BLOCK = 256 };

/* The first place, from `first` on, at which the signatures are not the same on all ranks. */
static sy_status find_place(sy_comm *host, int64_t first, int64_t n, int64_t *place)
{
    sy_status st = SY_OK;
    int64_t least[2 * BLOCK];
    *place = -1;
    for (int64_t at = first; at < n && *place < 0; at += BLOCK) {
        for (int64_t i = 0; i < BLOCK; i++) {
            sy_comm_call call;
            uint64_t signature;
            (void)sy__recorder_call(at + i, &call, &signature);
            least[2 * i] = (int64_t)signature;
            least[2 * i + 1] = ~(int64_t)signature; /* turns the order round */
        }
        SY_TRY(sy_host_all_reduce(host, least, 2 * BLOCK, SY_I64, SY_MIN, "calls"));
        for (int64_t i = BLOCK - 1; i >= 0; i--) {
            *place = least[2 * i] != ~least[2 * i + 1] ? at + i : *place;
        }
    }
cleanup:
    return st;
}

typedef struct told {
    sy_comm_call call;
    uint64_t signature;
} told;

/* The call that most ranks made there, and the first rank with another. */
static void find_odd(const told *all, int32_t n, int32_t *most, int32_t *odd)
{
    int32_t n_most = 0;
    *odd = *most = 0;
    for (int32_t r = 0; r < n; r++) {
        int32_t n_same = 0;
        for (int32_t q = 0; q < n; q++) {
            n_same += all[q].signature == all[r].signature;
        }
        *most = n_same > n_most ? r : *most;
        n_most = n_same > n_most ? n_same : n_most;
    }
    for (int32_t r = n - 1; r >= 0; r--) {
        *odd = all[r].signature != all[*most].signature ? r : *odd;
    }
}

static sy_status name_calls(sy_comm *host, int64_t place)
{
    sy_status st = SY_OK;
    told mine, *all = NULL;
    int32_t most = 0, odd = 0;
    char call[256], usual[256];
    (void)sy__recorder_call(place, &mine.call, &mine.signature);
    SY_TRY(sy_agree(host, sy_alloc(host->size, sizeof *all, (void **)&all)));
    SY_TRY(sy_host_all_gather(host, &mine, all, sizeof mine, "differing calls"));
    find_odd(all, host->size, &most, &odd);
    sy_comm_call_format(&all[odd].call, call, sizeof call);
    sy_comm_call_format(&all[most].call, usual, sizeof usual);
    st =
        sy_error(SY_ERR_INTERNAL,
                 "ranks are out of step: rank %d called %s where rank %d called %s; what they sent "
                 "each other since is not to be trusted",
                 odd, call, most, usual);
cleanup:
    sy_free(&all);
    return st;
}

sy_status sy_comm_calls_compare(sy_comm *host)
{
    sy_status st = SY_OK;
    int64_t range[2] = {0}, place = -1;
    const int64_t n = sy__recorder_count(&range[0]);
    range[1] = n;
    SY_TRY(sy_host_all_reduce(host, range, 2, SY_I64, SY_MAX, "calls kept"));
    SY_TRY(find_place(host, range[0], range[1], &place));
    SY_REQUIRE(
        place >= 0, SY_ERR_INTERNAL,
        "ranks are out of step: they made different collective calls, more than %d calls ago",
        BLOCK);
    SY_TRY(name_calls(host, place));
cleanup:
    return st;
}

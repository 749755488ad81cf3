/* Where the ranks of a save meet. */
#include <inttypes.h>

#include "checkpoint/h5_impl.h"
#include "checkpoint/save_impl.h"
#include "parallel/agree.h"

/* Every byte was written by one rank: a part that no rank or two ranks write is a bug that would
   otherwise stay in the file. */
static sy_status check_coverage(const sy__save *s)
{
    sy_status st = SY_OK;
    for (int64_t i = 0; i < s->cat.n_pieces; i++) {
        const sy__piece *piece = &s->cat.piece[i];
        SY_REQUIRE(s->written[i] == piece->length, SY_ERR_INTERNAL,
                   "the ranks wrote %" PRId64 " bytes of the %" PRId64 " at byte %" PRId64
                   " of dataset '%s'",
                   s->written[i], piece->length, piece->offset,
                   s->cat.item[sy__catalog_item_of(&s->cat, i)].path);
    }
cleanup:
    return st;
}

sy_status sy__save_check(sy__save *s, bool *shared)
{
    sy_status st = SY_OK;
    SY_TRY(sy_host_all_reduce(s->io, s->written, s->cat.n_pieces, SY_I64, SY_SUM,
                              "checkpoint bytes written"));
    SY_TRY(check_coverage(s));
    SY_TRY(sy_host_all_reduce(s->io, s->hashed, s->cat.n_pieces, SY_I32, SY_SUM,
                              "checkpoint pieces hashed"));
    *shared = false;
    for (int64_t i = 0; i < s->cat.n_pieces; i++) {
        *shared = *shared || s->hashed[i] == 0;
    }
cleanup:
    return st;
}

/* The sum has at most one summand that is not zero. */
sy_status sy__save_gather(sy__save *s)
{
    sy_status st = SY_OK;
    SY_TRY(sy_host_all_reduce(s->io, s->xxh3, s->cat.n_pieces, SY_I64, SY_SUM,
                              "checkpoint checksums"));
    for (int64_t i = 0; i < s->cat.n_pieces; i++) {
        s->cat.piece[i].xxh3 = s->xxh3[i];
    }
    SY_TRY(sy_agree(s->io, s->io->rank == 0 ? sy__h5_complete(s->path, s->image) : SY_OK));
cleanup:
    return st;
}

/* Is every byte what it was? The pieces are shared out in the order of the file's table, so that of
   several failures the lowest rank has the first. */
#include "checkpoint/checkpoint.h"

#include "checkpoint/ahead_impl.h"
#include "checkpoint/integrity_impl.h"
#include "core/alloc.h"
#include "parallel/agree.h"

static sy_status check_pieces(const char *path, const sy_comm *comm, const sy__catalog *cat)
{
    sy_status st = SY_OK;
    const int64_t first = cat->n_pieces * comm->rank / comm->size;
    const int64_t n = cat->n_pieces * (comm->rank + 1) / comm->size - first;
    sy__want *want = NULL;
    sy__ahead *ahead = NULL;
    const void *ignored = NULL;
    SY_TRY(sy_alloc(n, sizeof *want, (void **)&want));
    for (int64_t i = 0; i < n; i++) {
        want[i].piece = first + i;
    }
    SY_TRY(sy__ahead_open(path, cat, want, n, &ahead));
    for (int64_t i = 0; i < n; i++) {
        SY_TRY(sy__ahead_next(ahead, &ignored));
    }
cleanup:
    sy__ahead_close(&ahead);
    sy_free(&want);
    return st;
}

sy_status sy_checkpoint_verify(const char *path, sy_comm *comm, int64_t *n_bytes)
{
    sy_status st = SY_OK;
    sy__catalog cat = {0};
    sy_comm *self = NULL, *ranks = comm;
    if (!ranks) {
        SY_TRY(sy_comm_world(false, &self));
        ranks = self;
    }
    SY_TRY(sy__catalog_share(&cat, ranks,
                             ranks->rank == 0 ? sy__catalog_open_whole(path, &cat) : SY_OK));
    SY_TRY(sy_agree(ranks, check_pieces(path, ranks, &cat)));
    if (n_bytes) {
        *n_bytes = sy__catalog_bytes(&cat);
    }
cleanup:
    sy__catalog_free(&cat);
    sy_comm_destroy(&self);
    return st;
}

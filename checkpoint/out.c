/* The choice between the ways, and plain calls. */
#include "checkpoint/out_impl.h"

#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/file_impl.h"

/* ---- plain calls ---- */

static sy_status posix_open(sy__out *out)
{
    return sy__file_open_write(out->path, &out->fd);
}

static sy_status posix_claim(sy__out *out, int64_t bytes)
{
    return sy__file_claim(out->fd, out->path, bytes);
}

static sy_status posix_write(sy__out *out, const void *from, int64_t n, int64_t offset)
{
    return sy__file_write(out->fd, out->path, from, n, offset);
}

static void posix_flush(sy__out *out, int64_t n, int64_t offset)
{
    sy__file_flush(out->fd, n, offset);
}

static sy_status posix_sync(sy__out *out)
{
    return sy__file_sync(out->fd, out->path);
}

static sy_status posix_close(sy__out *out, bool written)
{
    return sy__file_close(&out->fd, out->path, written);
}

static const sy__way posix = {"posix",     posix_open, posix_claim, posix_write,
                              posix_flush, posix_sync, posix_close};

/* ---- the choice ---- */

static sy_status choose(const sy__way **out)
{
    const char *wanted = getenv("SY_CHECKPOINT_IO");
    const sy__way *mpi = sy__way_mpi();
    if (wanted == NULL || strcmp(wanted, posix.name) == 0) {
        *out = &posix;
    } else if (strcmp(wanted, "mpi") == 0) {
        *out = mpi != NULL ? mpi : &posix; /* one rank without MPI */
    } else {
        return sy_error(SY_ERR_USAGE, "SY_CHECKPOINT_IO: '%s' is not posix or mpi", wanted);
    }
    return SY_OK;
}

sy_status sy_checkpoint_io_check(void)
{
    const sy__way *way = NULL;
    return choose(&way);
}

sy_status sy__out_open(const char *path, sy__out *out)
{
    sy_status st = SY_OK;
    *out = (sy__out){.path = path, .fd = -1};
    SY_TRY(choose(&out->way));
    SY_TRY(out->way->open(out));
cleanup:
    return st;
}

sy_status sy__out_claim(sy__out *out, int64_t bytes)
{
    return out->way->claim != NULL ? out->way->claim(out, bytes) : SY_OK;
}

sy_status sy__out_write(sy__out *out, const void *from, int64_t n, int64_t offset)
{
    return out->way->write(out, from, n, offset);
}

void sy__out_flush(sy__out *out, int64_t n, int64_t offset)
{
    if (out->way->flush != NULL) {
        out->way->flush(out, n, offset);
    }
}

sy_status sy__out_sync(sy__out *out)
{
    return out->way->sync(out);
}

sy_status sy__out_close(sy__out *out, bool written)
{
    const sy__way *way = out->way;
    out->way = NULL;
    return way != NULL ? way->close(out, written) : SY_OK;
}

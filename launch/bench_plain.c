/* Plain calls, finished where they are cut short, and nothing more. */
#include "launch/bench_plain_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "core/pulse.h"
#include "parallel/agree.h"

enum { FIRST_BYTE = 4096 };

static sy_status io_error(const char *path)
{
    return sy_error(SY_ERR_IO, "bench: '%s': %s", path, strerror(errno));
}

static sy_status write_parts(const sy__plain *p, int fd)
{
    const int64_t part = p->part_bytes, stride = p->world->size * part;
    for (int64_t f = 0; f < p->n_fields; f++) {
        const int64_t at = FIRST_BYTE + f * stride + p->world->rank * part;
        for (int64_t done = 0, n = 0; done < part; done += n) {
            n = pwrite(fd, p->h_data + f * part + done, (size_t)(part - done), at + done);
            if (n <= 0) {
                return io_error(p->path);
            }
            sy_pulse_beat();
        }
    }
    return fsync(fd) == 0 ? SY_OK : io_error(p->path);
}

static sy_status open_and_write(const sy__plain *p)
{
    int fd = open(p->path, O_WRONLY | O_CLOEXEC);
    sy_status st = fd >= 0 ? write_parts(p, fd) : io_error(p->path);
    if (fd >= 0) {
        close(fd);
    }
    return st;
}

static sy_status create(const sy__plain *p)
{
    int fd =
        p->world->rank == 0 ? open(p->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : 0;
    if (fd < 0) {
        return io_error(p->path);
    }
    if (p->world->rank == 0) {
        close(fd);
    }
    return SY_OK;
}

sy_status sy__plain_write(const sy__plain *p)
{
    sy_status st = SY_OK;
    SY_TRY(sy_agree(p->world, create(p)));
    SY_TRY(sy_agree(p->world, open_and_write(p)));
cleanup:
    return st;
}

static sy_status read_share(const sy__plain *p, const char *path, int64_t chunk, bool keep)
{
    sy_status st = SY_OK;
    const int64_t bytes = p->n_fields * p->part_bytes, at = p->world->rank * bytes;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    SY_TRY(fd >= 0 ? SY_OK : io_error(path));
    for (int64_t done = 0, n = 0; done < bytes; done += n) {
        const int64_t rest = bytes - done;
        n = pread(fd, p->h_data + (keep ? done : 0), (size_t)(rest < chunk ? rest : chunk),
                  at + done);
        SY_TRY(n > 0 ? SY_OK : io_error(path));
        sy_pulse_beat();
    }
cleanup:
    if (fd >= 0) {
        close(fd);
    }
    return st;
}

sy_status sy__plain_read(const sy__plain *p, const char *path, int64_t chunk, bool keep)
{
    return sy_agree(p->world, read_share(p, path, chunk, keep));
}

sy_status sy__plain_drop(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return io_error(path);
    }
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
    return SY_OK;
}

/* Files, byte by byte where they must be: what a checkpoint needs of POSIX. */
#include "checkpoint/file_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/fault.h"
#include "core/pulse.h"

enum {
    CALL_BYTES = 1 << 30, /* Linux moves a little less than 2 GiB in one call */
    SYNC_BYTES = 1 << 28
};

static sy_status io_error(const char *verb, const char *path)
{
    return sy_error(SY_ERR_IO, "cannot %s '%s': %s", verb, path, strerror(errno));
}

sy_status sy__file_open_read(const char *path, int *fd, int64_t *bytes)
{
    sy_status st = SY_OK;
    struct stat info;
    int file = -1;
    SY_TRY(sy_fault("checkpoint_open"));
    file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* never waits at a pipe */
    SY_REQUIRE(file >= 0 || (errno != ENOENT && errno != ENOTDIR), SY_ERR_USAGE,
               "there is no checkpoint '%s'", path);
    SY_REQUIRE(file >= 0, SY_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    SY_REQUIRE(fstat(file, &info) == 0, SY_ERR_IO, "cannot examine '%s': %s", path,
               strerror(errno));
    SY_REQUIRE(S_ISREG(info.st_mode), SY_ERR_USAGE, "'%s' is not a file", path);
    *fd = file;
    *bytes = info.st_size;
    file = -1;
cleanup:
    sy__file_close(&file, path, false);
    return st;
}

static sy_status open_write(const char *path, int flags, const char *verb, int *fd)
{
    int file = open(path, O_RDWR | O_CLOEXEC | flags, 0666);
    if (file < 0) {
        return io_error(verb, path);
    }
    *fd = file;
    return SY_OK;
}

sy_status sy__file_open_write(const char *path, int *fd)
{
    return open_write(path, 0, "open", fd);
}

sy_status sy__file_create(const char *path, int *fd)
{
    sy_status st = SY_OK;
    SY_TRY(sy__file_remove(path));
    SY_TRY(open_write(path, O_CREAT | O_EXCL, "create", fd));
cleanup:
    return st;
}

sy_status sy__file_close(int *fd, const char *path, bool written)
{
    int file = *fd;
    *fd = -1;
    if (file >= 0 && close(file) != 0 && written) {
        return io_error("close", path);
    }
    return SY_OK;
}

sy_status sy__file_read(int fd, const char *path, void *to, int64_t n, int64_t offset)
{
    sy_status st = SY_OK;
    char *at = to;
    SY_TRY(sy_fault("checkpoint_read"));
    while (n > 0) {
        ssize_t got = pread(fd, at, (size_t)(n < CALL_BYTES ? n : CALL_BYTES), offset);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        SY_REQUIRE(got >= 0, SY_ERR_IO, "cannot read '%s': %s", path, strerror(errno));
        sy_pulse_beat();
        SY_REQUIRE(got > 0, SY_ERR_DAMAGED, "'%s' ends at byte %" PRId64 ": it is truncated", path,
                   offset);
        at += got;
        n -= got;
        offset += got;
    }
cleanup:
    return st;
}

sy_status sy__file_write(int fd, const char *path, const void *from, int64_t n, int64_t offset)
{
    sy_status st = SY_OK;
    const char *at = from;
    SY_TRY(sy_fault("checkpoint_write"));
    while (n > 0) {
        ssize_t put = pwrite(fd, at, (size_t)(n < CALL_BYTES ? n : CALL_BYTES), offset);
        if (put < 0 && errno == EINTR) {
            continue;
        }
        SY_REQUIRE(put > 0, SY_ERR_IO, "cannot write '%s': %s", path,
                   put < 0 ? strerror(errno) : "nothing is written");
        sy_pulse_beat();
        at += put;
        n -= put;
        offset += put;
    }
cleanup:
    return st;
}

/* Piece by piece, so that a slow disk shows its progress. A file system may not have it. */
static bool write_back(int fd)
{
    enum { ALL = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER };
    struct stat info = {0};
    bool ok = fstat(fd, &info) == 0;
    for (int64_t at = 0; ok && at < info.st_size; at += SYNC_BYTES) {
        ok = sync_file_range(fd, at, SYNC_BYTES, ALL) == 0 || errno == EINVAL || errno == ENOSYS ||
             errno == ESPIPE;
        sy_pulse_beat();
    }
    return ok;
}

sy_status sy__file_sync(int fd, const char *path)
{
    sy_status st = SY_OK;
    SY_TRY(sy_fault("checkpoint_fsync"));
    SY_REQUIRE(write_back(fd) && fsync(fd) == 0, SY_ERR_IO, "cannot bring '%s' to the disk: %s",
               path, strerror(errno));
cleanup:
    return st;
}

sy_status sy__file_bytes(int fd, const char *path, int64_t *bytes)
{
    struct stat info;
    if (fstat(fd, &info) != 0) {
        return io_error("examine", path);
    }
    *bytes = info.st_size;
    return SY_OK;
}

void sy__file_flush(int fd, int64_t n, int64_t offset)
{
    (void)sync_file_range(fd, offset, n, SYNC_FILE_RANGE_WRITE); /* a file system may not have it */
}

sy_status sy__file_resize(int fd, const char *path, int64_t bytes)
{
    sy_status st = SY_OK;
    SY_REQUIRE(ftruncate(fd, bytes) == 0, SY_ERR_IO, "cannot give '%s' its %.1f MB: %s", path,
               (double)bytes * 1e-6, strerror(errno));
cleanup:
    return st;
}

sy_status sy__file_claim(int fd, const char *path, int64_t bytes)
{
    sy_status st = SY_OK;
    int rc = 0;
    do {
        rc = bytes > 0 ? fallocate(fd, 0, 0, bytes) : 0; /* it refuses none */
    } while (rc != 0 && errno == EINTR);
    SY_REQUIRE(rc == 0 || errno == EOPNOTSUPP || errno == ENOSYS, SY_ERR_IO,
               "cannot claim %.1f MB for '%s': %s", (double)bytes * 1e-6, path, strerror(errno));
cleanup:
    return st;
}

sy_status sy__file_reserve(int fd, const char *path, int64_t bytes)
{
    sy_status st = SY_OK;
    SY_TRY(sy__file_resize(fd, path, bytes));
    SY_TRY(sy__file_claim(fd, path, bytes));
cleanup:
    return st;
}

/* Bytes of "folder/" in a path; 0 where it names no folder. */
static int32_t folder_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (int32_t)(slash + 1 - path) : 0;
}

sy_status sy__file_temporary(const char *path, char **out)
{
    int32_t n = folder_length(path);
    return sy_asprintf(out, "%.*s.%s.tmp", n, path, path + n);
}

sy_status sy__file_remove(const char *path)
{
    return unlink(path) == 0 || errno == ENOENT ? SY_OK : io_error("remove", path);
}

/* Some file systems cannot sync a folder and say EINVAL; there is nothing more to do for them. */
static sy_status sync_folder_of(const char *path)
{
    sy_status st = SY_OK;
    char *folder = NULL;
    int32_t n = folder_length(path);
    int fd = -1;
    SY_TRY(n > 0 ? sy_asprintf(&folder, "%.*s", n, path) : sy_strdup(".", &folder));
    SY_TRY(sy_fault("checkpoint_fsync"));
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    SY_REQUIRE(fd >= 0, SY_ERR_IO, "cannot open folder '%s': %s", folder, strerror(errno));
    SY_REQUIRE(fsync(fd) == 0 || errno == EINVAL, SY_ERR_IO, "cannot bring '%s' to the disk: %s",
               folder, strerror(errno));
cleanup:
    sy__file_close(&fd, folder, false);
    sy_free(&folder);
    return st;
}

sy_status sy__file_publish(const char *temporary, const char *path, bool durably)
{
    sy_status st = SY_OK;
    SY_TRY(sy_fault("checkpoint_rename"));
    SY_REQUIRE(rename(temporary, path) == 0, SY_ERR_IO, "cannot rename '%s' to '%s': %s", temporary,
               path, strerror(errno));
    SY_TRY(durably ? sync_folder_of(path) : SY_OK);
cleanup:
    return st;
}

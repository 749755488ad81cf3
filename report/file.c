/* Whole reads, atomic writes (temporary file, fsync, rename, fsync of the folder) and a line
 * reader. */
#include "report/file_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/pulse.h"

enum { LINES_FIRST_BYTES = 64 * 1024 };

int sy__write_all(int fd, const char *bytes, int64_t n)
{
    while (n > 0) {
        ssize_t written = write(fd, bytes, (size_t)n);
        if (written < 0 && errno != EINTR) {
            return errno;
        }
        if (written > 0) {
            bytes += written;
            n -= written;
        }
    }
    return 0;
}

sy_status sy__path_folder(const char *path, char **out)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL) {
        return sy_strdup(".", out);
    }
    return sy_asprintf(out, "%.*s", (int)(slash == path ? 1 : slash - path), path);
}

sy_status sy__dir_sync(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = fd < 0 || fsync(fd) != 0 ? errno : 0;
    if (fd >= 0) {
        close(fd);
    }
    /* Some file systems cannot sync a folder and say EINVAL; there is nothing more to do for them.
     */
    if (error != 0 && error != EINVAL) {
        return sy_error(SY_ERR_IO, "cannot sync folder '%s': %s", dir, strerror(error));
    }
    return SY_OK;
}

static int write_synced(const char *path, const char *bytes, int64_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        return errno;
    }
    int error = sy__write_all(fd, bytes, n);
    if (error == 0 && fsync(fd) != 0) {
        error = errno;
    }
    if (close(fd) != 0 && error == 0) {
        error = errno;
    }
    return error;
}

sy_status sy__text_file_replace(const char *path, const char *bytes, int64_t n)
{
    sy_status st = SY_OK;
    char *folder = NULL, *temp = NULL;
    const char *slash = strrchr(path, '/');
    SY_TRY(sy__path_folder(path, &folder));
    SY_TRY(sy_asprintf(&temp, "%s/.%s.tmp", folder, slash == NULL ? path : slash + 1));
    int error = write_synced(temp, bytes, n);
    if (error == 0 && rename(temp, path) != 0) {
        error = errno;
    }
    if (error != 0) {
        unlink(temp);
    }
    SY_REQUIRE(error == 0, SY_ERR_IO, "cannot write '%s': %s", path, strerror(error));
    SY_TRY(sy__dir_sync(folder));
cleanup:
    sy_free(&temp);
    sy_free(&folder);
    return st;
}

/* Read until n bytes are there or the file ends; the count, or -1 with errno. */
static int64_t read_all(int fd, char *bytes, int64_t n)
{
    int64_t n_read = 0;
    while (n_read < n) {
        ssize_t got = read(fd, bytes + n_read, (size_t)(n - n_read));
        if (got < 0 && errno != EINTR) {
            return -1;
        }
        if (got == 0) {
            break;
        }
        n_read += got > 0 ? got : 0;
    }
    return n_read;
}

sy_status sy__text_file_read(const char *path, int64_t n_max, char **out)
{
    sy_status st = SY_OK;
    char *bytes = NULL;
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    SY_REQUIRE(fd >= 0, errno == ENOENT ? SY_ERR_USAGE : SY_ERR_IO, "cannot open '%s': %s", path,
               strerror(errno));
    SY_REQUIRE(fstat(fd, &info) == 0 && S_ISREG(info.st_mode), SY_ERR_IO,
               "cannot read '%s': it is not a regular file", path);
    SY_REQUIRE(info.st_size <= n_max, SY_ERR_IO, "'%s' is too large to be read: %lld bytes", path,
               (long long)info.st_size);
    SY_TRY(sy_alloc(info.st_size + 1, 1, (void **)&bytes));
    SY_REQUIRE(read_all(fd, bytes, info.st_size) >= 0, SY_ERR_IO, "cannot read '%s': %s", path,
               strerror(errno));
    *out = bytes;
    bytes = NULL;
cleanup:
    sy_free(&bytes);
    if (fd >= 0) {
        close(fd);
    }
    return st;
}

void sy__lines_init(sy__lines *lines, int fd)
{
    memset(lines, 0, sizeof *lines);
    lines->fd = fd;
}

void sy__lines_free(sy__lines *lines)
{
    sy_free(&lines->buf);
}

/* More bytes behind buf[end]: what is unread moves to the front, the buffer doubles where that is
 * not enough. */
static sy_status read_more(sy__lines *lines)
{
    sy_status st = SY_OK;
    if (lines->begin > 0) {
        memmove(lines->buf, lines->buf + lines->begin, (size_t)(lines->end - lines->begin));
        lines->end -= lines->begin;
        lines->begin = 0;
    }
    if (lines->end + 1 >= lines->buf_bytes) {
        int64_t bytes = lines->buf_bytes == 0 ? LINES_FIRST_BYTES : 2 * lines->buf_bytes;
        SY_TRY(sy_realloc(bytes, 1, (void **)&lines->buf));
        lines->buf_bytes = bytes;
    }
    int64_t got = read_all(lines->fd, lines->buf + lines->end, lines->buf_bytes - 1 - lines->end);
    SY_REQUIRE(got >= 0, SY_ERR_IO, "cannot read lines: %s", strerror(errno));
    lines->end += got;
    lines->at_eof = got == 0;
cleanup:
    return st;
}

sy_status sy__lines_next(sy__lines *lines, sy__line *line, bool *found)
{
    sy_status st = SY_OK;
    int64_t n_seen = 0;
    char *stop = NULL;
    while (stop == NULL && !lines->at_eof) {
        int64_t n = lines->end - lines->begin;
        if (n > n_seen) {
            stop = memchr(lines->buf + lines->begin + n_seen, '\n', (size_t)(n - n_seen));
        }
        if (stop == NULL) {
            n_seen = n;
            SY_TRY(read_more(lines));
        }
    }
    sy_pulse_beat();
    *found = stop != NULL || lines->end > lines->begin;
    if (*found) {
        int64_t n = stop != NULL ? stop - (lines->buf + lines->begin) : lines->end - lines->begin;
        *line = (sy__line){lines->buf + lines->begin, n, lines->offset, stop != NULL};
        line->text[n] = '\0';
        lines->begin += n + (stop != NULL);
        lines->offset += n + (stop != NULL);
    }
cleanup:
    return st;
}

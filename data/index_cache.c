/* The file under construction, "...index.tmp", carries the lock: whoever gets it looks again
   whether the table was finished meanwhile. A builder that dies loses the lock, and the next one
   begins anew. */
#include "data/index_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/log.h"

static const char magic[8] = "SYINDEX1";

typedef struct header {
    char magic[8];
    uint64_t key;
    int64_t bytes;
    uint64_t reserved[5];
} header;

/* *found: there is a finished table. */
static sy_status map_finished(const sy_index_cache_spec *spec, const char *path,
                              sy_index_cache *out, bool *found)
{
    sy_status st = SY_OK;
    struct stat info;
    header h;
    const int64_t whole = (int64_t)sizeof h + spec->bytes;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    *found = false;
    if (fd < 0) {
        return SY_OK;
    }
    const bool ours = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size == whole &&
                      pread(fd, &h, sizeof h, 0) == (ssize_t)sizeof h &&
                      memcmp(h.magic, magic, sizeof magic) == 0 && h.key == spec->key &&
                      h.bytes == spec->bytes;
    if (ours) {
        void *map = mmap(NULL, (size_t)whole, PROT_READ, MAP_SHARED, fd, 0);
        SY_REQUIRE(map != MAP_FAILED, SY_ERR_IO, "cannot map '%s': %s", path, strerror(errno));
        *out = (sy_index_cache){(char *)map + sizeof h, spec->bytes, map, whole};
        *found = true;
    }
cleanup:
    close(fd);
    return st;
}

static sy_status build_in_memory(const sy_index_cache_spec *spec, const char *why,
                                 sy_index_cache *out)
{
    sy_status st = SY_OK;
    const int64_t bytes = spec->bytes > 0 ? spec->bytes : 1;
    void *map =
        mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    SY_REQUIRE(map != MAP_FAILED, SY_ERR_MEMORY,
               "out of memory: %" PRId64 " bytes for the %s of '%s'", bytes, spec->what,
               spec->beside);
    *out = (sy_index_cache){map, spec->bytes, map, bytes};
    sy_info("the %s of '%s' is kept in memory by every rank, %" PRId64 " bytes: %s", spec->what,
            spec->beside, spec->bytes, why);
    SY_TRY(spec->build(spec->self, map));
cleanup:
    if (st != SY_OK) {
        sy_index_cache_close(out);
    }
    return st;
}

/* Into the locked file, which then gets its name. */
static sy_status build_file(const sy_index_cache_spec *spec, int fd, const char *tmp,
                            const char *path)
{
    sy_status st = SY_OK;
    struct statvfs disk;
    header h = {.key = spec->key, .bytes = spec->bytes};
    const int64_t whole = (int64_t)sizeof h + spec->bytes;
    void *map = MAP_FAILED;
    memcpy(h.magic, magic, sizeof magic);
    SY_REQUIRE(ftruncate(fd, 0) == 0, SY_ERR_IO, "cannot write '%s': %s", tmp, strerror(errno));
    SY_REQUIRE(fstatvfs(fd, &disk) != 0 ||
                   (double)whole < (double)disk.f_bavail * (double)disk.f_frsize,
               SY_ERR_IO, "no room for the %s of '%s': %" PRId64 " bytes", spec->what, spec->beside,
               whole);
    errno = posix_fallocate(fd, 0, whole); /* a full disk must not be met through the mapping */
    SY_REQUIRE(errno == 0, SY_ERR_IO, "cannot write '%s', %" PRId64 " bytes: %s", tmp, whole,
               strerror(errno));
    map = mmap(NULL, (size_t)whole, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    SY_REQUIRE(map != MAP_FAILED, SY_ERR_IO, "cannot map '%s': %s", tmp, strerror(errno));
    SY_TRY(spec->build(spec->self, (char *)map + sizeof h));
    memcpy(map, &h, sizeof h);
    SY_REQUIRE(msync(map, (size_t)whole, MS_SYNC) == 0 && fsync(fd) == 0 && rename(tmp, path) == 0,
               SY_ERR_IO, "cannot write '%s': %s", path, strerror(errno));
cleanup:
    if (map != MAP_FAILED) {
        munmap(map, (size_t)whole);
    }
    if (st != SY_OK && ftruncate(fd, 0) == 0) { /* whoever waits for the lock has the same file */
        (void)unlink(tmp);
    }
    return st;
}

/* fd: the file under construction. Another may have finished it while we waited for the lock; then
   its name is gone, or is another file's. */
static sy_status build_or_find(const sy_index_cache_spec *spec, int fd, const char *tmp,
                               const char *path, sy_index_cache *out)
{
    sy_status st = SY_OK;
    bool found = false;
    SY_TRY(map_finished(spec, path, out, &found));
    if (found) {
        (void)unlink(tmp); /* an empty one of our own, if any */
    } else {
        SY_TRY(build_file(spec, fd, tmp, path));
        SY_TRY(map_finished(spec, path, out, &found));
        SY_REQUIRE(found, SY_ERR_IO, "'%s' is not what was written there", path);
    }
cleanup:
    return st;
}

sy_status sy_index_cache_open(const sy_index_cache_spec *spec, sy_index_cache *out)
{
    sy_status st = SY_OK;
    char *path = NULL, *tmp = NULL;
    bool found = false;
    int fd = -1;
    *out = (sy_index_cache){0};
    SY_TRY(sy_asprintf(&path, "%s.%s-%016" PRIx64 ".index", spec->beside, spec->what, spec->key));
    SY_TRY(sy_asprintf(&tmp, "%s.tmp", path));
    SY_TRY(map_finished(spec, path, out, &found));
    if (found) {
        goto cleanup;
    }
    fd = open(tmp, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0 || flock(fd, LOCK_EX) != 0) {
        SY_TRY(build_in_memory(spec, strerror(errno), out));
    } else {
        SY_TRY(build_or_find(spec, fd, tmp, path, out));
    }
cleanup:
    if (fd >= 0) {
        close(fd);
    }
    sy_free(&tmp);
    sy_free(&path);
    return st;
}

void sy_index_cache_close(sy_index_cache *cache)
{
    if (cache->map != NULL) {
        munmap(cache->map, (size_t)cache->map_bytes);
    }
    *cache = (sy_index_cache){0};
}

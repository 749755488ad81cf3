/* The writer. Rank 0 makes a temporary folder with every shard at its full size; every rank writes
   its parts at their offsets; once all are on the disk, and their bytes add up, rank 0 gives the
   folder its name. At each edge all ranks agree. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "checkpoint/file_impl.h"
#include "checkpoint/safetensors_impl.h"
#include "core/alloc.h"
#include "core/log.h"
#include "parallel/agree.h"

enum {
    N_OPEN = 4,           /* tensors of one model part lie in few shards at a time */
    FLUSH_BYTES = 1 << 20 /* less is not worth a call */
};

typedef struct open_shard {
    int32_t shard;
    int fd; /* -1: none */
} open_shard;

struct sy_st_writer {
    sy_comm *comm;
    char *folder, *temporary;
    sy__st_layout layout;
    int64_t *written; /* [n] bytes of each tensor, by this rank */
    bool *touched;    /* [n_shards] by this rank */
    char **path;      /* [n_shards] */
    open_shard open[N_OPEN];
    int32_t next_open; /* whose turn it is to be closed */
    bool made;         /* rank 0: the temporary folder is there */
    bool published;
};

/* ---- folders ---- */

/* Is there anything of that name, be it a link that leads nowhere? */
static bool exists(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0;
}

static sy_status remove_files(const char *folder)
{
    sy_status st = SY_OK;
    DIR *dir = opendir(folder);
    SY_REQUIRE(dir, SY_ERR_IO, "cannot list folder '%s': %s", folder, strerror(errno));
    for (const struct dirent *e = readdir(dir); e; e = readdir(dir)) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) {
            continue;
        }
        SY_REQUIRE(unlinkat(dirfd(dir), e->d_name, 0) == 0, SY_ERR_IO, "cannot remove '%s/%s': %s",
                   folder, e->d_name, strerror(errno));
    }
cleanup:
    if (dir) {
        closedir(dir);
    }
    return st;
}

/* A folder of files, or whatever else has the name. */
static sy_status remove_left_over(const char *path)
{
    sy_status st = SY_OK;
    struct stat info;
    if (lstat(path, &info) != 0) {
        return SY_OK;
    }
    if (!S_ISDIR(info.st_mode)) {
        return sy__file_remove(path);
    }
    SY_TRY(remove_files(path));
    SY_REQUIRE(rmdir(path) == 0, SY_ERR_IO, "cannot remove folder '%s': %s", path, strerror(errno));
cleanup:
    return st;
}

static sy_status make_folder(const char *path)
{
    sy_status st = SY_OK;
    if (mkdir(path, 0777) != 0) {
        const bool full = errno == ENOSPC || errno == EDQUOT || errno == EIO;
        st = sy_error(full ? SY_ERR_IO : SY_ERR_USAGE, "cannot create folder '%s': %s", path,
                      strerror(errno));
    }
    return st;
}

static sy_status sync_folder(const char *path)
{
    sy_status st = SY_OK;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    SY_REQUIRE(fd >= 0, SY_ERR_IO, "cannot open folder '%s': %s", path, strerror(errno));
    SY_TRY(sy__file_sync(fd, path));
cleanup:
    sy__file_close(&fd, path, false);
    return st;
}

/* ---- begin ---- */

/* A file of file_bytes that begins with these bytes, on the disk. */
static sy_status make_file(const char *path, const void *bytes, int64_t n_bytes, int64_t file_bytes)
{
    sy_status st = SY_OK;
    int fd = -1;
    SY_TRY(sy__file_create(path, &fd));
    SY_TRY(sy__file_reserve(fd, path, file_bytes));
    SY_TRY(sy__file_write(fd, path, bytes, n_bytes, 0));
    SY_TRY(sy__file_sync(fd, path));
    SY_TRY(sy__file_close(&fd, path, true));
cleanup:
    sy__file_close(&fd, path, false);
    return st;
}

static sy_status make_skeleton(sy_st_writer *w)
{
    sy_status st = SY_OK;
    if (w->comm->rank != 0) {
        return SY_OK;
    }
    SY_REQUIRE(!exists(w->folder), SY_ERR_USAGE,
               "'%s' exists: remove it, or give another name for the output", w->folder);
    SY_TRY(remove_left_over(w->temporary));
    SY_TRY(make_folder(w->temporary));
    w->made = true;
    for (int32_t s = 0; s < w->layout.n_shards; s++) {
        const sy__st_shard *shard = &w->layout.shard[s];
        SY_TRY(make_file(w->path[s], shard->head, shard->head_bytes, shard->bytes));
    }
    if (w->layout.index) {
        SY_TRY(sy_st_write_file(w, SY__ST_INDEX, w->layout.index, w->layout.index_bytes));
    }
cleanup:
    return st;
}

/* "out/" means "out". */
static sy_status copy_path(const char *path, char **out)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') {
        n--;
    }
    return sy_asprintf(out, "%.*s", (int)n, path);
}

static sy_status init(sy_st_writer *w, const char *folder, const sy_st_spec *specs, int64_t n,
                      int64_t max_shard_bytes)
{
    sy_status st = SY_OK;
    SY_REQUIRE(*folder, SY_ERR_USAGE, "the output folder has an empty name");
    SY_TRY(copy_path(folder, &w->folder));
    SY_TRY(sy__file_temporary(w->folder, &w->temporary));
    SY_TRY(sy__st_layout_create(specs, n, max_shard_bytes, &w->layout));
    const int32_t n_shards = w->layout.n_shards;
    SY_TRY(sy_alloc(n, sizeof *w->written, (void **)&w->written));
    SY_TRY(sy_alloc(n_shards, sizeof *w->touched, (void **)&w->touched));
    SY_TRY(sy_alloc(n_shards, sizeof *w->path, (void **)&w->path));
    for (int32_t s = 0; s < n_shards; s++) {
        SY_TRY(sy_asprintf(&w->path[s], "%s/%s", w->temporary, w->layout.shard[s].name));
    }
cleanup:
    return st;
}

/* Says whether the ranks will write at the same offsets. */
static int64_t layout_hash(const sy__st_layout *layout)
{
    XXH64_hash_t hash = 0;
    for (int32_t s = 0; s < layout->n_shards; s++) {
        hash =
            XXH3_64bits_withSeed(layout->shard[s].head, (size_t)layout->shard[s].head_bytes, hash);
    }
    return (int64_t)hash;
}

/* The error that led here, if there is one, stays the one to tell. */
static void discard(const sy_st_writer *w)
{
    sy_trace first;
    sy_error_take(&first);
    sy_error_clear();
    if (remove_left_over(w->temporary) != SY_OK) {
        sy_warn("%s; what is left of '%s' is of no use", sy_error_message(), w->temporary);
    }
    sy_error_clear();
    if (first.status != SY_OK) {
        (void)sy_error_raise(&first);
    }
}

static void release(sy_st_writer **writer)
{
    sy_st_writer *w = *writer;
    for (int32_t i = 0; i < N_OPEN; i++) {
        sy__file_close(&w->open[i].fd, "", false);
    }
    if (w->made && !w->published) {
        discard(w);
    }
    for (int32_t s = 0; s < w->layout.n_shards && w->path; s++) {
        sy_free(&w->path[s]);
    }
    sy_free(&w->path);
    sy_free(&w->touched);
    sy_free(&w->written);
    sy__st_layout_free(&w->layout);
    sy_free(&w->temporary);
    sy_free(&w->folder);
    sy_free(writer);
}

static sy_status create(sy_comm *comm, sy_st_writer **out)
{
    sy_status st = sy_alloc(1, sizeof **out, (void **)out);
    if (st == SY_OK) {
        (*out)->comm = comm;
        for (int32_t i = 0; i < N_OPEN; i++) {
            (*out)->open[i].fd = -1;
        }
    }
    return sy_agree(comm, st);
}

sy_status sy_st_writer_create(const char *folder, const sy_st_spec *specs, int64_t n,
                              int64_t max_shard_bytes, sy_comm *comm, sy_st_writer **out)
{
    sy_status st = SY_OK;
    sy_st_writer *w = NULL;
    SY_TRY(create(comm, &w));
    SY_TRY(sy_agree(comm, init(w, folder, specs, n, max_shard_bytes)));
    SY_TRY(sy_agree_same(comm, layout_hash(&w->layout), "the layout of the safetensors files"));
    SY_TRY(sy_agree(comm, make_skeleton(w)));
    *out = w;
    w = NULL;
cleanup:
    if (w) {
        release(&w);
    }
    return st;
}

/* ---- parts ---- */

static sy_status shard_fd(sy_st_writer *w, int32_t shard, int *fd)
{
    sy_status st = SY_OK;
    open_shard *slot = NULL;
    for (int32_t i = 0; i < N_OPEN; i++) {
        if (w->open[i].fd >= 0 && w->open[i].shard == shard) {
            *fd = w->open[i].fd;
            return SY_OK;
        }
    }
    slot = &w->open[w->next_open];
    w->next_open = (w->next_open + 1) % N_OPEN;
    SY_TRY(sy__file_close(&slot->fd, w->path[slot->shard], true));
    SY_TRY(sy__file_open_write(w->path[shard], &slot->fd));
    slot->shard = shard;
    *fd = slot->fd;
cleanup:
    return st;
}

sy_status sy_st_write(sy_st_writer *writer, int64_t index, int64_t first, const void *bytes,
                      int64_t n_bytes)
{
    sy_status st = SY_OK;
    sy_st_writer *w = writer;
    int fd = -1;
    SY_REQUIRE(index >= 0 && index < w->layout.n, SY_ERR_INTERNAL,
               "there is no tensor %" PRId64 " in '%s'", index, w->folder);
    const sy__st_place *place = &w->layout.place[index];
    SY_REQUIRE(first >= 0 && n_bytes >= 0 && n_bytes <= place->bytes - first, SY_ERR_INTERNAL,
               "tensor '%s' has no bytes from %" PRId64 " to %" PRId64, w->layout.spec[index].name,
               first, first + n_bytes);
    SY_TRY(shard_fd(w, place->shard, &fd));
    SY_TRY(sy__file_write(fd, w->path[place->shard], bytes, n_bytes, place->at + first));
    if (n_bytes >= FLUSH_BYTES) {
        sy__file_flush(fd, n_bytes, place->at + first);
    }
    w->written[index] += n_bytes;
    w->touched[place->shard] = true;
cleanup:
    return st;
}

sy_status sy_st_write_file(sy_st_writer *writer, const char *name, const void *bytes,
                           int64_t n_bytes)
{
    sy_status st = SY_OK;
    char *path = NULL;
    SY_TRY(sy_asprintf(&path, "%s/%s", writer->temporary, name));
    SY_REQUIRE(*name && !strchr(name, '/') && !exists(path), SY_ERR_INTERNAL,
               "'%s' cannot be the name of a file beside the shards, or is there already", name);
    SY_TRY(make_file(path, bytes, n_bytes, n_bytes));
cleanup:
    sy_free(&path);
    return st;
}

/* ---- end ---- */

static sy_status check_complete(sy_st_writer *w)
{
    sy_status st = SY_OK;
    SY_TRY(sy_host_all_reduce(w->comm, w->written, w->layout.n, SY_I64, SY_SUM,
                              "safetensors bytes written"));
    for (int64_t i = 0; i < w->layout.n; i++) {
        SY_REQUIRE(w->written[i] == w->layout.place[i].bytes, SY_ERR_INTERNAL,
                   "the ranks wrote %" PRId64 " bytes of tensor '%s', which has %" PRId64,
                   w->written[i], w->layout.spec[i].name, w->layout.place[i].bytes);
    }
cleanup:
    return st;
}

static sy_status sync_shards(sy_st_writer *w)
{
    sy_status st = SY_OK;
    int fd = -1;
    for (int32_t s = 0; s < w->layout.n_shards; s++) {
        if (w->touched[s]) {
            SY_TRY(shard_fd(w, s, &fd));
            SY_TRY(sy__file_sync(fd, w->path[s]));
        }
    }
    for (int32_t i = 0; i < N_OPEN; i++) {
        SY_TRY(sy__file_close(&w->open[i].fd, w->path[w->open[i].shard], true));
    }
cleanup:
    return st;
}

static sy_status give_name(sy_st_writer *w)
{
    sy_status st = SY_OK;
    if (w->comm->rank != 0) {
        return SY_OK;
    }
    SY_TRY(sync_folder(w->temporary));
    SY_REQUIRE(!exists(w->folder), SY_ERR_USAGE,
               "'%s' has come to exist in the meantime: remove it, or give another name for the "
               "output",
               w->folder);
    st = sy__file_publish(w->temporary, w->folder, true);
    if (st != SY_OK) { /* perhaps renamed but not durably: nothing stays under the final name */
        (void)rename(w->folder, w->temporary);
    }
cleanup:
    return st;
}

sy_status sy_st_writer_publish(sy_st_writer *writer)
{
    sy_status st = SY_OK;
    SY_TRY(check_complete(writer));
    SY_TRY(sy_agree(writer->comm, sync_shards(writer)));
    SY_TRY(sy_agree(writer->comm, give_name(writer)));
    writer->published = true;
cleanup:
    return st;
}

void sy_st_writer_destroy(sy_st_writer **writer)
{
    if (!*writer) {
        return;
    }
    if (!(*writer)->published) { /* nobody writes any more when rank 0 removes the folder */
        (void)sy_host_barrier((*writer)->comm, "safetensors: give up");
    }
    release(writer);
}

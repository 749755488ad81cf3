/* A list of what undoes each change, newest first. Names that will be gone get a second one outside
   the folder, so that they can come back. System calls are made past the C library, whose functions
   are watched. */
#include "tests/support/io_power.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PATH_BYTES = 1024, PAGE = 4096 };

typedef enum kind { BYTES, SIZE, MADE, RENAMED, REMOVED } kind;

typedef struct change {
    struct change *older;
    kind kind;
    ino_t file;                              /* BYTES, SIZE */
    int fd;                                  /* of our own */
    int64_t at, n;                           /* SIZE: n, the old one */
    char path[PATH_BYTES], from[PATH_BYTES]; /* names: what is there now; RENAMED: what was */
    char kept[PATH_BYTES];                   /* the second name of what was at `path`, or "" */
    unsigned char bytes[];                   /* [n] that were there */
} change;

static change *newest;
static int n_kept;

static change *note(kind kind, int64_t n)
{
    change *c = calloc(1, sizeof *c + (size_t)n);
    if (!c) {
        abort();
    }
    c->kind = kind;
    c->older = newest;
    newest = c;
    return c;
}

/* ---- what changes ---- */

void io_power_note_bytes(int fd, int64_t n, int64_t at)
{
    struct stat info;
    change *c = note(BYTES, n);
    c->file = fstat(fd, &info) == 0 ? info.st_ino : 0;
    c->fd = dup(fd);
    c->n = n;
    c->at = at;
    (void)!syscall(SYS_pread64, fd, c->bytes, (size_t)n, at);
}

void io_power_note_size(int fd)
{
    struct stat info;
    change *c = note(SIZE, 0);
    if (fstat(fd, &info) == 0) {
        c->file = info.st_ino;
        c->n = info.st_size;
    }
    c->fd = dup(fd);
}

static void note_name(kind kind, const char *path, const char *from)
{
    const char *folder = strstr(path, "/checkpoints");
    change *c = note(kind, 0);
    snprintf(c->path, sizeof c->path, "%s", path);
    snprintf(c->from, sizeof c->from, "%s", from);
    snprintf(c->kept, sizeof c->kept, "%.*s/.kept_%d", (int)(folder - path), path, n_kept++);
    if (linkat(AT_FDCWD, path, AT_FDCWD, c->kept, 0) != 0) {
        c->kept[0] = '\0'; /* there was nothing */
    }
}

void io_power_note_made(const char *path)
{
    note_name(MADE, path, "");
}

void io_power_note_renamed(const char *from, const char *to)
{
    note_name(RENAMED, to, from);
}

void io_power_note_removed(const char *path)
{
    note_name(REMOVED, path, "");
}

/* ---- what is safe ---- */

static bool is_of_file(const change *c)
{
    return c->kind == BYTES || c->kind == SIZE;
}

static void forget(change *c)
{
    if (is_of_file(c)) {
        syscall(SYS_close, c->fd);
    } else if (c->kept[0]) {
        syscall(SYS_unlink, c->kept);
    }
    free(c);
}

void io_power_settle(int fd)
{
    struct stat info;
    if (fstat(fd, &info) != 0) {
        return;
    }
    for (change **at = &newest; *at;) {
        change *c = *at;
        if (S_ISDIR(info.st_mode) ? !is_of_file(c) : is_of_file(c) && c->file == info.st_ino) {
            *at = c->older;
            forget(c);
        } else {
            at = &c->older;
        }
    }
}

/* ---- what is lost ---- */

/* True always, without a seed. */
static bool is_lost(uint64_t *seed)
{
    if (*seed == 0) {
        return true;
    }
    *seed = *seed * 6364136223846793005U + 1442695040888963407U;
    return *seed >> 63;
}

static void undo_bytes(const change *c, uint64_t *seed)
{
    for (int64_t done = 0, n = 0; done < c->n; done += n) {
        n = PAGE - (c->at + done) % PAGE;
        n = n < c->n - done ? n : c->n - done;
        if (is_lost(seed)) {
            (void)!syscall(SYS_pwrite64, c->fd, c->bytes + done, (size_t)n, c->at + done);
        }
    }
}

static void undo_name(const change *c)
{
    if (c->kind == MADE) {
        syscall(SYS_unlink, c->path);
    } else if (c->kind == RENAMED) {
        syscall(SYS_rename, c->path, c->from);
    }
    if (c->kept[0]) {
        syscall(SYS_rename, c->kept, c->path);
    }
}

void io_power_lose(uint64_t seed)
{
    bool names_go_back = true;
    for (change *c = newest; c; c = c->older) {
        if (c->kind == BYTES) {
            undo_bytes(c, &seed);
        } else if (c->kind == SIZE) {
            (void)!(is_lost(&seed) && syscall(SYS_ftruncate, c->fd, c->n) == 0);
        } else if (names_go_back && is_lost(&seed)) {
            undo_name(c);
        } else {
            names_go_back = false; /* what is older than a name that stayed has stayed too */
        }
    }
}

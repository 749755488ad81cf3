/* doctor: the file system that the run directory is to lie on. Ranks look at one folder that rank 0
   makes and removes. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/alloc.h"
#include "launch/doctor_disk_impl.h"
#include "parallel/agree.h"

/* The folder itself, or the nearest above it that is there: runs make their folders. */
static void find_folder(const char *dir, char *out, size_t bytes)
{
    char path[SY__DOCTOR_PATH];
    struct stat s;
    snprintf(out, bytes, "%s", dir);
    while (stat(out, &s) != 0 && errno == ENOENT && strcmp(out, ".") != 0 &&
           strcmp(out, "/") != 0) {
        snprintf(path, sizeof path, "%s", out);
        snprintf(out, bytes, "%s", dirname(path));
    }
}

/* 0, or why the file cannot be locked by this open file: EAGAIN: somebody else has it. */
static int lock(int fd)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_SETLK, &whole) == 0 ? 0 : errno == EACCES ? EAGAIN : errno;
}

static int open_lock(const char *folder)
{
    char path[SY__DOCTOR_PATH + 16];
    snprintf(path, sizeof path, "%s/lock", folder);
    return open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
}

/* Rank 0 has the lock: nobody else may get it, by another open file or on another host. */
static void look_at_locks(sy__doctor *d, const char *folder)
{
    const bool is_owner = d->env->world->rank == 0;
    const int mine = is_owner ? open_lock(folder) : -1;
    const int got = is_owner ? lock(mine) : 0;
    sy_host_barrier(d->env->world, "doctor lock");
    const int other = d->is_first ? open_lock(folder) : -1;
    const int again = d->is_first ? lock(other) : EAGAIN;
    sy_host_barrier(d->env->world, "doctor lock");
    static const char *const mend =
        "let runs live on a file system with locks (nfs: version 4, or lockd; lustre: mount with "
        "flock), or see to it yourself that no two jobs run in one directory";
    if (is_owner && got != 0) {
        sy__doctor_say(d, "files", SY__NOTE, mend,
                       "there are no locks (%s): nothing keeps two jobs out of one directory",
                       strerror(got));
    } else if (d->is_first && again != EAGAIN) {
        sy__doctor_say(d, "files", SY__NOTE, mend,
                       is_owner ? "locks do not hold: nothing keeps two jobs out of one directory"
                                : "locks of another host do not hold here: nothing keeps two jobs "
                                  "on two hosts out of one directory");
    } else if (is_owner) {
        sy__doctor_say(d, "files", SY__FINE, NULL,
                       d->n_hosts > 1 ? "locks work, between hosts too" : "locks work");
        sy__doctor_of_job(d);
    }
    if (other >= 0) {
        close(other);
    }
    if (mine >= 0) {
        close(mine);
    }
}

static double look_at_room(sy__doctor *d, const char *folder)
{
    struct statvfs s;
    bool is_memory = false;
    const char *kind = sy__doctor_kind_of_disk(folder, &is_memory);
    if (statvfs(folder, &s) != 0) {
        return 0;
    }
    const double left = (double)s.f_bavail * (double)s.f_frsize;
    const bool full = left < 64e6, low = left < 10e9;
    sy__doctor_say(d, "files",
                   full  ? SY__PROBLEM
                   : low ? SY__NOTE
                         : SY__FINE,
                   low ? "make room, or name another place (--run-dir); a checkpoint takes 12 "
                         "bytes a parameter, and the newest is kept until the next is whole"
                       : NULL,
                   "%s, file system %s: %.1f of %.1f GB are free", folder, kind, left / 1e9,
                   (double)s.f_blocks * (double)s.f_frsize / 1e9);
    if (is_memory) {
        sy__doctor_say(d, "files", SY__NOTE, "name a disk (--run-dir)",
                       "%s lies in memory: it is gone when the machine is switched off", folder);
    }
    return left;
}

/* Rank 0's folder, on every rank; NULL and a problem where it cannot be made. */
static char *make_folder(sy__doctor *d)
{
    char above[SY__DOCTOR_PATH], path[SY__DOCTOR_PATH + 32], *out = NULL;
    if (d->env->world->rank == 0) {
        find_folder(d->dir, above, sizeof above);
        snprintf(path, sizeof path, "%s/.doctor.%d", above, (int)getpid());
        if (mkdir(path, 0777) == 0) {
            d->st = d->st == SY_OK ? sy_strdup(path, &out) : d->st;
        } else {
            sy__doctor_say(d, "files", SY__PROBLEM, "name a folder that you may write (--run-dir)",
                           "'%s' cannot be written: %s", above, strerror(errno));
        }
    }
    const sy_status st = sy_host_broadcast_text(d->env->world, &out);
    d->st = d->st == SY_OK ? st : d->st;
    return out;
}

void sy__doctor_files(sy__doctor *d)
{
    char *folder = make_folder(d);
    bool seen = folder != NULL && access(folder, W_OK | X_OK) == 0;
    int32_t all = seen;
    if (folder == NULL) {
        return;
    }
    if (d->is_first && !seen) {
        sy__doctor_say(d, "files", SY__PROBLEM, "let runs live where all hosts see them",
                       "what another host writes in '%s' cannot be seen or written here", d->dir);
    }
    sy_host_all_reduce(d->env->world, &all, 1, SY_I32, SY_MIN, "doctor folder");
    double left = 0;
    if (d->is_first && seen) {
        char *end = strrchr(folder, '/');
        *end = '\0';
        left = look_at_room(d, folder);
        *end = '/';
        sy__doctor_disk_speed(d, folder, d->host_of[d->env->world->rank], left);
    }
    if (all) {
        look_at_locks(d, folder);
    }
    sy_host_barrier(d->env->world, "doctor folder");
    if (d->env->world->rank == 0) {
        char path[SY__DOCTOR_PATH + 64];
        snprintf(path, sizeof path, "%s/lock", folder);
        unlink(path);
        rmdir(folder);
    }
    sy_free(&folder);
}

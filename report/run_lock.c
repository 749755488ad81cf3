/* The owner lock: an open-file-description lock, so that it belongs to this open and not to the
   process (closing another descriptor of the file does not drop it) and works over NFS. */
#include "report/run_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/log.h"
#include "report/file_impl.h"

#define POLL_S 0.05

enum { HOST_BYTES = 256, SINCE_BYTES = 32, HOLDER_BYTES = 512 };

struct sy_run_lock {
    int fd;
    char *path;
};

typedef struct holder {
    char host[HOST_BYTES], since[SINCE_BYTES];
    long long pid;
} holder;

static void describe_self(char *text, size_t text_bytes)
{
    char host[HOST_BYTES] = "", since[SINCE_BYTES];
    gethostname(host, sizeof host - 1);
    sy_clock_utc(since, sizeof since);
    snprintf(text, text_bytes, "host %s\npid %lld\nsince %s\n", host, (long long)getpid(), since);
}

/* false: nobody stands in the file (a new one, one let go of in order, or one not written yet). */
static bool read_holder(int fd, holder *who)
{
    char text[HOLDER_BYTES];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    return sscanf(text, "host %255s pid %lld since %31s", who->host, &who->pid, who->since) == 3;
}

/* 0: locked; EAGAIN: somebody holds it; ENOLCK: no locks on this file system; else errno. */
static int try_lock(int fd)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    while (fcntl(fd, F_OFD_SETLK, &whole) != 0) {
        switch (errno) {
        case EINTR:
            break;
        case EACCES:
        case EAGAIN:
            return EAGAIN;
        case ENOLCK:
        case ENOSYS:
        case EOPNOTSUPP:
        case EINVAL:
            return ENOLCK;
        default:
            return errno;
        }
    }
    return 0;
}

/* Does the path still name the file that fd holds? Somebody may have removed the folder meanwhile.
 */
static bool is_same_file(int fd, const char *path)
{
    struct stat held, named;
    return fstat(fd, &held) == 0 && stat(path, &named) == 0 && held.st_ino == named.st_ino &&
           held.st_dev == named.st_dev;
}

static sy_status refuse(int fd, const char *path, double wait_s)
{
    holder who;
    int folder_n = (int)(strrchr(path, '/') != NULL ? strrchr(path, '/') - path : 0);
    if (!read_holder(fd, &who)) {
        return sy_error(SY_ERR_USAGE,
                        "run directory '%.*s' is in use by a process that has not given its name "
                        "(waited %.0f s): wait for it to end, or give another --run-dir",
                        folder_n, path, wait_s);
    }
    return sy_error(SY_ERR_USAGE,
                    "run directory '%.*s' is in use by process %lld on host %s since %s "
                    "(waited %.0f s): wait for it to end, or give another --run-dir",
                    folder_n, path, who.pid, who.host, who.since, wait_s);
}

/* Poll until the lock is ours, the time is up, or it turns out that there are no locks (*has_locks
 * false). */
static sy_status wait_for(int fd, const char *path, double wait_s, bool *has_locks)
{
    sy_status st = SY_OK;
    double end = sy_clock_s() + wait_s;
    bool said = false;
    int error = try_lock(fd);
    while (error == EAGAIN && sy_clock_s() < end) {
        holder who;
        if (!said && read_holder(fd, &who)) {
            sy_info("%s is held by process %lld on host %s since %s; waiting up to %.0f s for it "
                    "to end",
                    path, who.pid, who.host, who.since, wait_s);
            said = true;
        }
        sy_clock_sleep_s(POLL_S);
        error = try_lock(fd);
    }
    if (error == EAGAIN) {
        SY_TRY(refuse(fd, path, wait_s));
    }
    *has_locks = error != ENOLCK;
    SY_REQUIRE(error == 0 || error == ENOLCK, SY_ERR_USAGE, "cannot lock '%s': %s", path,
               strerror(error));
cleanup:
    return st;
}

/* Write our name into the file. What stood there was left by a process that was killed. */
static sy_status sign(int fd, const char *path)
{
    char text[HOLDER_BYTES];
    holder before;
    if (read_holder(fd, &before)) {
        sy_info("%s: its last owner (process %lld on host %s since %s) ended without letting go",
                path, before.pid, before.host, before.since);
    }
    describe_self(text, sizeof text);
    int64_t n = (int64_t)strlen(text);
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)n, 0) != n) {
        return sy_error(SY_ERR_USAGE, "cannot write '%s': %s", path, strerror(errno));
    }
    return SY_OK;
}

sy_status sy_run_lock_take(const char *path, double wait_s, sy_run_lock **out)
{
    sy_status st = SY_OK;
    int fd = -1;
    bool has_locks = true, is_ours = false;
    sy_run_lock *lock = NULL;
    SY_TRY(sy_alloc(1, sizeof *lock, (void **)&lock));
    SY_TRY(sy_strdup(path, &lock->path));
    while (!is_ours) {
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        SY_REQUIRE(fd >= 0, SY_ERR_USAGE, "cannot write '%s': %s", path, strerror(errno));
        SY_TRY(wait_for(fd, path, wait_s, &has_locks));
        is_ours = is_same_file(fd, path);
        if (!is_ours) {
            close(fd);
            fd = -1;
        }
    }
    if (!has_locks) {
        sy_warn("the file system of '%s' offers no locks: nothing stops a second job from writing "
                "into this run directory",
                path);
    }
    SY_TRY(sign(fd, path));
    lock->fd = fd;
    *out = lock;
    fd = -1;
    lock = NULL;
cleanup:
    if (fd >= 0) {
        close(fd);
    }
    if (lock != NULL) {
        sy_free(&lock->path);
    }
    sy_free(&lock);
    return st;
}

sy_status sy_run_lock_check(const sy_run_lock *lock)
{
    sy_status st = SY_OK;
    SY_REQUIRE(access(lock->path, F_OK) != 0 || is_same_file(lock->fd, lock->path), SY_ERR_IO,
               "'%s' is of another job: the run directory was moved or removed, and that job began "
               "in its place",
               lock->path);
cleanup:
    return st;
}

void sy_run_lock_release(sy_run_lock **lock)
{
    if (*lock != NULL) {
        /* An empty file says "let go in order"; should this fail, the next owner merely hears
         * otherwise. */
        if (ftruncate((*lock)->fd, 0) != 0) {
            sy_debug("cannot empty the lock file: %s", strerror(errno));
        }
        /* Closing alone would leave the lock with a child made by fork(). */
        struct flock whole = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
        fcntl((*lock)->fd, F_OFD_SETLK, &whole);
        close((*lock)->fd);
        sy_free(&(*lock)->path);
        sy_free(lock);
    }
}

static bool is_self(const holder *who)
{
    char host[HOST_BYTES] = "";
    gethostname(host, sizeof host - 1);
    return who->pid == (long long)getpid() && strcmp(who->host, host) == 0;
}

sy_run_holder sy_run_lock_holder(const char *path)
{
    holder who;
    struct flock whole = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool is_signed = fd >= 0 && read_holder(fd, &who);
    bool is_known = fd >= 0 && fcntl(fd, F_OFD_GETLK, &whole) == 0;
    bool is_held = is_known ? whole.l_type != F_UNLCK : is_signed;
    if (fd >= 0) {
        close(fd);
    }
    if (is_held && is_signed) {
        return is_self(&who) ? SY_HOLDER_SELF : SY_HOLDER_RUNS;
    }
    return is_held ? SY_HOLDER_RUNS : is_signed ? SY_HOLDER_DIED : SY_HOLDER_NONE;
}

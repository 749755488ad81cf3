/* Stands between the program and the C library (LD_PRELOAD): one call on the checkpoints of a run
   fails, is cut short, or is the last before the process dies or the power goes.

   SY_IO_FAULT="nth:action:step[:rank]" counts from 1 the calls of that rank (default 0) on files
   below a folder `checkpoints`, from the first on the temporary file of that step to the first on
   that of another. Actions:
     EIO, ENOSPC, EINVAL  the call does nothing and fails so
     short                a read or write does half of its work
     kill, stop           SIGKILL, SIGSTOP, before the call
     torn                 SIGKILL in the midst of a write, or before another call
     power=SEED           SIGKILL, and what was not synced is lost (io_power.h)
   SY_IO_FAULT_LOG names a file that gets one line for the call that was hit; nth 0: for every call.
   SY_CLOCK_BACK_S=N sets time() back by N seconds at each rename of a checkpoint. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/io_power.h"

enum { PATH_BYTES = 1024, ACTION_BYTES = 32 };

static struct {
    long nth, step, n_calls;
    char action[ACTION_BYTES];
    bool armed, in_step, lossy;
    unsigned long seed;
    long back_s, n_renames;
} fault;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void read_wishes(void)
{
    const char *wish = getenv("SY_IO_FAULT"), *mine = getenv("OMPI_COMM_WORLD_RANK");
    const char *back = getenv("SY_CLOCK_BACK_S");
    long rank = 0;
    fault.back_s = back ? strtol(back, NULL, 10) : 0;
    if (wish &&
        sscanf(wish, "%ld:%31[^:]:%ld:%ld", &fault.nth, fault.action, &fault.step, &rank) >= 3) {
        fault.armed = rank == (mine ? strtol(mine, NULL, 10) : 0);
        fault.lossy = fault.armed && sscanf(fault.action, "power=%lu", &fault.seed) == 1;
    }
}

/* ---- what happens to a call ---- */

typedef enum verdict { GO_ON, FAIL, HALVE, TEAR } verdict;

static bool is_watched(const char *path)
{
    return fault.armed && strstr(path, "/checkpoints") != NULL;
}

/* Does this call belong to the save that is meant? */
static bool is_meant(const char *path)
{
    static const char head[] = "/.step_";
    const char *name = strstr(path, head);
    if (name) {
        fault.in_step = strtol(name + sizeof head - 1, NULL, 10) == fault.step;
    }
    return fault.in_step;
}

static void log_call(const char *call, const char *path)
{
    const char *log = getenv("SY_IO_FAULT_LOG");
    char line[PATH_BYTES + ACTION_BYTES];
    int fd = log ? (int)syscall(SYS_open, log, O_WRONLY | O_CREAT | O_APPEND, 0666) : -1;
    int n = snprintf(line, sizeof line, "%s %s\n", call, path);
    (void)!syscall(SYS_write, fd, line, (size_t)n);
    syscall(SYS_close, fd);
}

static bool wants(const char *action)
{
    return strcmp(fault.action, action) == 0;
}

/* FAIL: errno says how. */
static verdict carry_out(void)
{
    if (fault.lossy) {
        io_power_lose(fault.seed);
    }
    if (fault.lossy || wants("kill")) {
        raise(SIGKILL);
    }
    if (wants("stop")) {
        raise(SIGSTOP); /* goes on here after SIGCONT */
    }
    errno = wants("EIO") ? EIO : wants("ENOSPC") ? ENOSPC : wants("EINVAL") ? EINVAL : 0;
    return errno ? FAIL : wants("short") ? HALVE : wants("torn") ? TEAR : GO_ON;
}

static verdict judge(const char *call, const char *path)
{
    if (!is_watched(path) || !is_meant(path)) {
        return GO_ON;
    }
    fault.n_calls++;
    if (fault.nth == 0 || fault.nth == fault.n_calls) {
        log_call(call, path);
    }
    return fault.nth == fault.n_calls ? carry_out() : GO_ON;
}

static const char *path_of(int fd, char path[PATH_BYTES])
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = fault.armed ? readlink(link, path, PATH_BYTES - 1) : 0;
    path[n > 0 ? n : 0] = '\0';
    return path;
}

/* Is what the call is about to change to be remembered? */
static bool is_noted(verdict v, const char *path)
{
    return v == GO_ON && fault.lossy && is_watched(path);
}

/* Calls that have no half. */
static verdict judge_whole(const char *call, const char *path)
{
    verdict v = judge(call, path);
    if (v == TEAR) {
        raise(SIGKILL);
    }
    return v;
}

/* ---- calls on a file ---- */

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at);
ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at)
{
    char path[PATH_BYTES];
    pthread_mutex_lock(&lock);
    verdict v = judge("pwrite", path_of(fd, path));
    if (is_noted(v, path)) {
        io_power_note_bytes(fd, (int64_t)n, at);
    }
    pthread_mutex_unlock(&lock);
    if (v == FAIL) {
        return -1;
    }
    ssize_t done = syscall(SYS_pwrite64, fd, bytes, v != GO_ON && n > 1 ? n / 2 : n, at);
    if (v == TEAR) {
        raise(SIGKILL);
    }
    return done;
}

ssize_t pread64(int fd, void *to, size_t n, off64_t at);
ssize_t pread64(int fd, void *to, size_t n, off64_t at)
{
    char path[PATH_BYTES];
    pthread_mutex_lock(&lock);
    verdict v = judge_whole("pread", path_of(fd, path));
    pthread_mutex_unlock(&lock);
    return v == FAIL ? -1 : syscall(SYS_pread64, fd, to, v == HALVE && n > 1 ? n / 2 : n, at);
}

int ftruncate64(int fd, off64_t n);
int ftruncate64(int fd, off64_t n)
{
    char path[PATH_BYTES];
    pthread_mutex_lock(&lock);
    verdict v = judge_whole("ftruncate", path_of(fd, path));
    if (is_noted(v, path)) {
        io_power_note_size(fd);
    }
    pthread_mutex_unlock(&lock);
    return v == FAIL ? -1 : (int)syscall(SYS_ftruncate, fd, n);
}

int fallocate64(int fd, int mode, off64_t at, off64_t n);
int fallocate64(int fd, int mode, off64_t at, off64_t n)
{
    char path[PATH_BYTES];
    pthread_mutex_lock(&lock);
    verdict v = judge_whole("fallocate", path_of(fd, path));
    pthread_mutex_unlock(&lock);
    return v == FAIL ? -1 : (int)syscall(SYS_fallocate, fd, mode, at, n);
}

int fsync(int fd)
{
    char path[PATH_BYTES];
    pthread_mutex_lock(&lock);
    verdict v = judge_whole("fsync", path_of(fd, path));
    int rc = v == FAIL ? -1 : (int)syscall(SYS_fsync, fd);
    if (rc == 0 && is_noted(v, path)) {
        io_power_settle(fd);
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

int close(int fd)
{
    char path[PATH_BYTES];
    pthread_mutex_lock(&lock);
    verdict v = judge_whole("close", path_of(fd, path));
    int error = errno, rc = (int)syscall(SYS_close, fd);
    errno = v == FAIL ? error : errno;
    pthread_mutex_unlock(&lock);
    return v == FAIL ? -1 : rc;
}

/* ---- calls on a name ---- */

int open64(const char *path, int flags, ...);
int open64(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    int mode = flags & O_CREAT ? va_arg(args, int) : 0;
    va_end(args);
    pthread_mutex_lock(&lock);
    verdict v = judge_whole("open", path);
    if (is_noted(v, path) && flags & O_CREAT) {
        io_power_note_made(path);
    }
    pthread_mutex_unlock(&lock);
    return v == FAIL ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int rename(const char *from, const char *to)
{
    pthread_mutex_lock(&lock);
    verdict v = judge_whole("rename", from);
    if (is_noted(v, from)) {
        io_power_note_renamed(from, to);
    }
    fault.n_renames += strstr(from, "/.step_") != NULL;
    pthread_mutex_unlock(&lock);
    return v == FAIL ? -1 : (int)syscall(SYS_rename, from, to);
}

int symlink(const char *target, const char *path)
{
    pthread_mutex_lock(&lock);
    verdict v = judge_whole("symlink", path);
    if (is_noted(v, path)) {
        io_power_note_made(path);
    }
    pthread_mutex_unlock(&lock);
    return v == FAIL ? -1 : (int)syscall(SYS_symlink, target, path);
}

int unlink(const char *path)
{
    pthread_mutex_lock(&lock);
    verdict v = judge_whole("unlink", path);
    if (is_noted(v, path)) {
        io_power_note_removed(path);
    }
    pthread_mutex_unlock(&lock);
    return v == FAIL ? -1 : (int)syscall(SYS_unlink, path);
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    now.tv_sec -= fault.back_s * fault.n_renames;
    if (out) {
        *out = now.tv_sec;
    }
    return now.tv_sec;
}

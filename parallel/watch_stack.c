/* Where a thread stands: of this process by a signal to its main thread, of another by what the
   kernel shows in /proc. The signal's handler only walks the stack; names are looked up outside. */
#include "parallel/watch_impl.h"

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/log.h"

enum {
    FRAMES = 48,
    FILE_BYTES = 4096,
    SIGNAL = SIGURG
}; /* nobody else uses it, ignored by default */
#define ANSWER_S 0.3

/* One per process, as the signal's handler has no argument. */
static struct {
    pthread_t thread; /* whose stack it is, */
    int32_t tid;
    void *frame[FRAMES];
    _Atomic int32_t n_frames; /* written by the handler when it has walked it */
} stack;

static void on_signal(int signum)
{
    const int saved = errno;
    (void)signum;
    atomic_store(&stack.n_frames, backtrace(stack.frame, FRAMES));
    errno = saved;
}

sy_status sy__watch_stack_setup(void)
{
    sy_status st = SY_OK;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    stack.thread = pthread_self();
    stack.tid = (int32_t)syscall(SYS_gettid);
    (void)backtrace(stack.frame, 1); /* the first call loads a library, which a handler may not */
    sigemptyset(&action.sa_mask);
    SY_REQUIRE(sigaction(SIGNAL, &action, NULL) == 0, SY_ERR_INTERNAL, "signal %d cannot be caught",
               SIGNAL);
cleanup:
    return st;
}

/* ---- /proc ---- */

/* The whole of a small file as text, without the last line break; empty where it cannot be read. */
static void read_text(const char *path, char *buf, size_t bytes)
{
    ssize_t n = -1;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        n = read(fd, buf, bytes - 1);
        close(fd);
    }
    n = n < 0 ? 0 : n;
    buf[n] = '\0';
    if (n > 0 && buf[n - 1] == '\n') {
        buf[n - 1] = '\0';
    }
}

/* Field 22 of stat; the name, field 2, may hold anything and ends at the last parenthesis. */
uint64_t sy__watch_started(int32_t pid)
{
    char path[64], text[FILE_BYTES];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    read_text(path, text, sizeof text);
    const char *at = strrchr(text, ')');
    for (int field = 2; at != NULL && field < 22; field++) {
        at = strchr(at + 1, ' ');
    }
    return at != NULL ? strtoull(at + 1, NULL, 10) : 0;
}

static void state_of(int32_t pid, char *buf, size_t bytes)
{
    char path[64], text[FILE_BYTES];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    read_text(path, text, sizeof text);
    char *at = strstr(text, "State:");
    snprintf(buf, bytes, "%.*s", at != NULL ? (int)strcspn(at + 6, "\n") : 0,
             at != NULL ? at + 6 + strspn(at + 6, " \t") : "");
    buf[strcspn(buf, "\n")] = '\0';
}

/* What the kernel tells of one thread: the kernel function it sleeps in, its system call, and, to
   the superuser, the kernel's stack. */
static void show_kernel(int32_t rank, int32_t pid, int32_t tid)
{
    char path[64], wchan[128], syscall_text[256], kernel[FILE_BYTES], state[64];
    state_of(tid, state, sizeof state);
    snprintf(path, sizeof path, "/proc/%d/task/%d/wchan", pid, tid);
    read_text(path, wchan, sizeof wchan);
    snprintf(path, sizeof path, "/proc/%d/task/%d/syscall", pid, tid);
    read_text(path, syscall_text, sizeof syscall_text);
    snprintf(path, sizeof path, "/proc/%d/task/%d/stack", pid, tid);
    read_text(path, kernel, sizeof kernel);
    sy_warn("rank %d, process %d: state %s; sleeps in %s; system call %s%s%s", rank, pid, state,
            wchan[0] ? wchan : "?", syscall_text[0] ? syscall_text : "?", kernel[0] ? "\n" : "",
            kernel);
}

void sy__watch_look(int32_t rank, int32_t pid, uint64_t started)
{
    if (started != 0 && sy__watch_started(pid) == started) {
        show_kernel(rank, pid, pid);
    } else {
        sy_warn("rank %d: its process %d is not there any more", rank, pid);
    }
}

void sy__watch_kill(int32_t pid, uint64_t started)
{
    if (started != 0 && sy__watch_started(pid) == started) {
        kill(pid, SIGKILL);
    }
}

/* ---- our own ---- */

/* The file and the place in it, as addr2line takes them, and the name where it is exported. All but
   the first frame are where a call returns to: the call is before it. */
static int format_frame(const void *address, char *buf, size_t bytes)
{
    Dl_info info = {0};
    if (dladdr(address, &info) == 0 || info.dli_fname == NULL) {
        return snprintf(buf, bytes, "\n    %p", address);
    }
    return snprintf(buf, bytes, "\n    %s 0x%tx %s", info.dli_fname,
                    (const char *)address - (const char *)info.dli_fbase,
                    info.dli_sname ? info.dli_sname : "");
}

static void print_frames(int32_t rank, int32_t n)
{
    char text[FILE_BYTES] = "";
    size_t used = 0;
    for (int32_t i = 2; i < n && used + 1 < sizeof text; i++) { /* behind handler and trampoline */
        const char *at = (const char *)stack.frame[i] - (i > 2);
        int more = format_frame(at, text + used, sizeof text - used);
        used += more < 0 ? 0 : (size_t)more;
        used = used < sizeof text ? used : sizeof text - 1;
    }
    sy_warn("rank %d stands at (addr2line -fipe FILE ADDRESS tells function and line):%s", rank,
            text);
}

void sy__watch_stack_show(int32_t rank)
{
    const double end = sy_clock_s() + ANSWER_S;
    atomic_store(&stack.n_frames, 0);
    if (pthread_kill(stack.thread, SIGNAL) == 0) {
        while (atomic_load(&stack.n_frames) == 0 && sy_clock_s() < end) {
            sy_clock_sleep_s(0.005);
        }
    }
    const int32_t n = atomic_load(&stack.n_frames);
    if (n > 0) {
        print_frames(rank, n);
    } else {
        show_kernel(rank, (int32_t)getpid(), stack.tid);
    }
}

/* Threads that take no signal, and how many cores there are for them. */
#include "core/thread.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

sy_status sy_thread_start(const char *name, void *(*run)(void *arg), void *arg, pthread_t *out)
{
    sy_status st = SY_OK;
    sigset_t all, before;
    pthread_t thread;
    char short_name[16];

    /* A thread inherits the mask of its maker; so block here, and give the maker its own mask back.
     */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    SY_REQUIRE(rc == 0, SY_ERR_MEMORY, "cannot start thread '%s': %s", name, strerror(rc));

    snprintf(short_name, sizeof short_name, "%s", name);
    pthread_setname_np(thread, short_name); /* for debuggers; failing changes nothing */
    *out = thread;
cleanup:
    return st;
}

int32_t sy_thread_cores(void)
{
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof cores, &cores) != 0 || CPU_COUNT(&cores) < 1) {
        return 1;
    }
    return (int32_t)CPU_COUNT(&cores);
}

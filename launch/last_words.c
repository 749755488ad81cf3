#include "launch/last_words.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/log.h"
#include "core/pulse.h"

static const struct {
    int number;
    const char *words;
} signals[] = {{SIGSEGV, "signal 11 (segmentation fault)"},
               {SIGABRT, "signal 6 (abort)"},
               {SIGBUS, "signal 7 (a mapped file or memory is not there)"},
               {SIGFPE, "signal 8 (division by zero)"},
               {SIGILL, "signal 4 (an instruction that this processor does not have)"}};
enum { N_SIGNALS = sizeof signals / sizeof signals[0] };

/* One per process, as handlers have no argument. */
static struct {
    _Atomic bool armed;
    char who[32];
    struct sigaction before[N_SIGNALS];
} last_words;

/* The log may hold its lock. Text and integers take neither lock nor memory in snprintf. */
static void tell(const char *what)
{
    const sy_pulse p = sy_pulse_read();
    char line[256];
    const int n = snprintf(line, sizeof line, "error%s: the process died of %s in %s, step %ld\n",
                           last_words.who, what, p.phase != NULL ? p.phase : "start", (long)p.step);
    (void)!write(STDERR_FILENO, line, (size_t)n);
}

static void on_crash(int signum)
{
    for (int i = 0; i < N_SIGNALS; i++) {
        if (signals[i].number == signum) {
            tell(signals[i].words);
            sigaction(signum, &last_words.before[i], NULL); /* MPI's prints the stack */
            raise(signum);
        }
    }
}

static void on_exit_early(int status, void *arg)
{
    (void)arg;
    if (atomic_load(&last_words.armed)) {
        const sy_pulse p = sy_pulse_read();
        sy_log(SY_LOG_ERROR,
               "the process was ended from within by exit(%d), in %s, step %ld; the job ends",
               status, p.phase != NULL ? p.phase : "start", (long)p.step);
        _exit(1);
    }
}

void sy_last_words_arm(int32_t rank, int32_t n_ranks)
{
    struct sigaction action = {.sa_handler = on_crash};
    sigemptyset(&action.sa_mask);
    if (n_ranks > 1) {
        snprintf(last_words.who, sizeof last_words.who, " [rank %d]", rank);
    }
    for (int i = 0; i < N_SIGNALS; i++) {
        sigaction(signals[i].number, &action, &last_words.before[i]);
    }
    (void)on_exit(on_exit_early, NULL);
    atomic_store(&last_words.armed, true);
}

void sy_last_words_disarm(void)
{
    atomic_store(&last_words.armed, false);
}

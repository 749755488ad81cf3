/* core/log and core/thread: who may speak, what a line looks like, whole lines from many processes,
 * blocked signals. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/log.h"
#include "core/thread.h"

enum { OUT_BYTES = 1 << 18 };

/* What `speak` writes to standard error, in `n` processes at once. */
static void capture(int n, void (*speak)(int process), char *out)
{
    int ends[2], status;
    size_t got = 0;
    ssize_t more;
    assert_int_equal(pipe(ends), 0);
    for (int i = 0; i < n; i++) {
        if (fork() == 0) {
            dup2(ends[1], STDERR_FILENO);
            speak(i);
            _exit(0);
        }
    }
    close(ends[1]);
    while ((more = read(ends[0], out + got, OUT_BYTES - 1 - got)) > 0) {
        got += (size_t)more;
    }
    close(ends[0]);
    out[got] = '\0';
    while (wait(&status) > 0) {
    }
}

static void say_everything(int rank)
{
    sy_log_setup(rank, 2, SY_LOG_INFO);
    sy_debug("debug");
    sy_info("info %d", rank);
    sy_warn("careful");
    sy_log(SY_LOG_ERROR, "error: it broke\n  at a.c:1 f()");
}

static void say_as_rank_one(int process)
{
    (void)process;
    say_everything(1);
}

static void levels_decide_who_speaks(void **state)
{
    char *out = *state;
    unsetenv("SY_LOG");
    capture(1, say_everything, out);
    assert_string_equal(out, "info 0\nwarning [rank 0]: careful\n"
                             "error [rank 0]: it broke\n  at a.c:1 f()\n");
    capture(1, say_as_rank_one, out);
    assert_string_equal(out, "warning [rank 1]: careful\n"
                             "error [rank 1]: it broke\n  at a.c:1 f()\n");
    setenv("SY_LOG", "debug", 1);
    capture(1, say_everything, out);
    assert_memory_equal(out, "debug\ninfo 0\n", 13);
    unsetenv("SY_LOG");
}

static void clear_progress(void *arg)
{
    fputs(arg, stderr);
    fflush(stderr);
}

static void say_with_a_hook(int process)
{
    (void)process;
    sy_log_on_line(clear_progress, "[clear]");
    sy_warn("one");
    sy_debug("silent");
    sy_log_on_line(NULL, NULL);
    sy_info("two");
}

static void hook_runs_before_printed_lines_only(void **state)
{
    char *out = *state;
    capture(1, say_with_a_hook, out);
    assert_string_equal(out, "[clear]warning: one\ntwo\n");
}

static void say_many_lines(int process)
{
    char text[200];
    memset(text, 'a' + process, sizeof text - 1);
    text[sizeof text - 1] = '\0';
    for (int i = 0; i < 200; i++) {
        sy_info("%s", text);
    }
}

static void lines_of_many_processes_stay_whole(void **state)
{
    char *out = *state, *line = out;
    int n = 0;
    capture(4, say_many_lines, out);
    for (char *end; (end = strchr(line, '\n')); line = end + 1, n++) {
        assert_int_equal(end - line, 199);
        for (char *c = line; c < end; c++) {
            assert_int_equal(*c, *line);
        }
    }
    assert_int_equal(n, 800);
}

static void say_too_much(int process)
{
    static char text[20000];
    (void)process;
    memset(text, 'x', sizeof text - 1);
    sy_warn("%s", text);
}

static void line_too_long_is_cut_and_ended(void **state)
{
    char *out = *state;
    capture(1, say_too_much, out);
    size_t n = strlen(out);
    assert_true(n > 4096 && n < 20000);
    assert_int_equal(out[n - 1], '\n');
    assert_ptr_equal(strchr(out, '\n'), out + n - 1);
}

static void *ask_mask(void *arg)
{
    pthread_sigmask(SIG_SETMASK, NULL, arg);
    return NULL;
}

static void thread_starts_with_signals_blocked(void **state)
{
    (void)state;
    pthread_t thread;
    sigset_t mask, own;
    sigemptyset(&mask);
    assert_int_equal(sy_thread_start("a name that is far too long", ask_mask, &mask, &thread), 0);
    pthread_join(thread, NULL);
    assert_true(sigismember(&mask, SIGTERM) && sigismember(&mask, SIGUSR1));
    pthread_sigmask(SIG_SETMASK, NULL, &own);
    assert_false(sigismember(&own, SIGTERM));
    assert_true(sy_thread_cores() >= 1);
}

static int make_buffer(void **state)
{
    *state = malloc(OUT_BYTES);
    return *state ? 0 : -1;
}

static int free_buffer(void **state)
{
    free(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels_decide_who_speaks),
        cmocka_unit_test(hook_runs_before_printed_lines_only),
        cmocka_unit_test(lines_of_many_processes_stay_whole),
        cmocka_unit_test(line_too_long_is_cut_and_ended),
        cmocka_unit_test(thread_starts_with_signals_blocked),
    };
    return cmocka_run_group_tests(tests, make_buffer, free_buffer);
}

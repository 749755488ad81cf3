/* Log lines: formatted into one buffer and written with one write(2), so that lines of several
   ranks on one pipe or file do not interleave. The lock keeps the hook (which clears a progress
   line) and the write together. */
#include "core/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { LINE_BYTES = 8192 };

static struct {
    pthread_mutex_t lock;
    int32_t rank, n_ranks;
    sy_log_level level;
    void (*hook)(void *arg);
    void *hook_arg;
} logger = {.lock = PTHREAD_MUTEX_INITIALIZER, .n_ranks = 1, .level = SY_LOG_INFO};

static bool env_wants_debug(void)
{
    const char *wanted = getenv("SY_LOG");
    return wanted && strcasecmp(wanted, "debug") == 0;
}

void sy_log_setup(int32_t rank, int32_t n_ranks, sy_log_level level)
{
    pthread_mutex_lock(&logger.lock);
    logger.rank = rank;
    logger.n_ranks = n_ranks;
    logger.level = level;
    pthread_mutex_unlock(&logger.lock);
}

void sy_log_on_line(void (*hook)(void *arg), void *arg)
{
    pthread_mutex_lock(&logger.lock);
    logger.hook = hook;
    logger.hook_arg = arg;
    pthread_mutex_unlock(&logger.lock);
}

static bool is_wanted(sy_log_level level)
{
    if (level >= SY_LOG_INFO && logger.rank != 0) {
        return false;
    }
    return level <= logger.level || (level == SY_LOG_DEBUG && env_wants_debug());
}

/* "warning [rank 3]: "; an error that sy_error_format wrote has its word already. */
static size_t put_prefix(sy_log_level level, int32_t rank, char *line, size_t line_bytes)
{
    static const char *const words[] = {[SY_LOG_ERROR] = "error", [SY_LOG_WARN] = "warning"};
    if (level > SY_LOG_WARN) {
        return 0;
    }
    int n = logger.n_ranks > 1 ? snprintf(line, line_bytes, "%s [rank %d]: ", words[level], rank)
                               : snprintf(line, line_bytes, "%s: ", words[level]);
    return (size_t)n;
}

static void write_all(const char *text, size_t n)
{
    while (n > 0) {
        ssize_t done = write(STDERR_FILENO, text, n);
        if (done < 0 && errno != EINTR) {
            return; /* nobody listens: a log line is not worth an error */
        }
        if (done > 0) {
            text += done;
            n -= (size_t)done;
        }
    }
}

static void print_line(sy_log_level level, int32_t rank, const char *format, va_list args)
{
    if (!is_wanted(level)) {
        return;
    }
    char line[LINE_BYTES], text[LINE_BYTES];
    vsnprintf(text, sizeof text, format, args);
    const char *said = strncmp(text, "error: ", 7) == 0 ? text + 7 : text;
    size_t n = put_prefix(level, rank, line, sizeof line);
    int more = snprintf(line + n, sizeof line - n - 1, "%s", level == SY_LOG_ERROR ? said : text);
    n += (size_t)more < sizeof line - n - 1 ? (size_t)more : sizeof line - n - 2;
    line[n++] = '\n';

    pthread_mutex_lock(&logger.lock);
    if (logger.hook) {
        logger.hook(logger.hook_arg);
    }
    write_all(line, n);
    pthread_mutex_unlock(&logger.lock);
}

void sy_log(sy_log_level level, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print_line(level, logger.rank, format, args);
    va_end(args);
}

void sy_log_from(int32_t rank, sy_log_level level, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print_line(level, rank, format, args);
    va_end(args);
}

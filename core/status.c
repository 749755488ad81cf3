/* The thread-local error trace. One slot per thread: the first message stays until somebody clears
   it, every later call only adds a frame, so the trace reads from the cause up to the caller. */
#include "core/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local sy_trace thread_trace = {.status = SY_OK, .rank = -1};

/* Meson compiles from the build folder, so __FILE__ starts with "../": say the path in the tree. */
static const char *path_in_tree(const char *file)
{
    while (strncmp(file, "../", 3) == 0) {
        file += 3;
    }
    return file;
}

sy_status sy_error_at(const char *file, int32_t line, const char *func, sy_status status,
                      const char *format, ...)
{
    if (thread_trace.status == SY_OK) {
        va_list args;
        va_start(args, format);
        vsnprintf(thread_trace.message, sizeof thread_trace.message, format, args);
        va_end(args);
        thread_trace.status = status;
        thread_trace.n_frames = 0;
    }
    sy_error_frame(file, line, func);
    return status;
}

void sy_error_frame(const char *file, int32_t line, const char *func)
{
    if (thread_trace.n_frames < SY_TRACE_FRAMES) {
        thread_trace.frames[thread_trace.n_frames++] =
            (sy_trace_frame){.file = file, .func = func, .line = line};
    }
}

void sy_error_clear(void)
{
    thread_trace.status = SY_OK;
    thread_trace.rank = -1;
    thread_trace.n_frames = 0;
    thread_trace.message[0] = '\0';
}

const char *sy_error_message(void)
{
    return thread_trace.message;
}

void sy_error_take(sy_trace *out)
{
    *out = thread_trace;
}

sy_status sy_error_raise(const sy_trace *trace)
{
    if (thread_trace.status == SY_OK) {
        thread_trace = *trace;
    }
    return trace->status;
}

void sy_error_format(const sy_trace *trace, bool verbose, char *buf, size_t buf_bytes)
{
    if (buf_bytes == 0) {
        return;
    }
    int n = snprintf(buf, buf_bytes, "error: %s", trace->message);
    if (!verbose) {
        return;
    }
    char rank[32] = "";
    if (trace->rank >= 0) {
        snprintf(rank, sizeof rank, " [rank %d]", trace->rank);
    }
    for (int32_t i = 0; i < trace->n_frames && n >= 0 && (size_t)n < buf_bytes; i++) {
        const sy_trace_frame *f = &trace->frames[i];
        int more = snprintf(buf + n, buf_bytes - (size_t)n, "\n  %s %s:%d %s()%s",
                            i == 0 ? "at" : "from", path_in_tree(f->file), f->line, f->func, rank);
        n = more < 0 ? more : n + more;
    }
}

int sy_status_exit_code(sy_status status)
{
    switch (status) {
    case SY_OK:
        return 0;
    case SY_ERR_USAGE:
    case SY_ERR_UNSUPPORTED:
        return 2;
    case SY_ERR_DAMAGED:
        return 3;
    default:
        return 1;
    }
}

const char *sy_status_name(sy_status status)
{
    static const char *const names[SY_N_STATUS] = {
        [SY_OK] = "ok",
        [SY_ERR_USAGE] = "usage",
        [SY_ERR_DAMAGED] = "damaged",
        [SY_ERR_IO] = "io",
        [SY_ERR_MEMORY] = "memory",
        [SY_ERR_UNSUPPORTED] = "unsupported",
        [SY_ERR_COMM] = "comm",
        [SY_ERR_NUMERIC] = "numeric",
        [SY_ERR_INTERNAL] = "internal",
    };
    return (unsigned)status < SY_N_STATUS ? names[status] : "unknown";
}

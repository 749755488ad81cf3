/* Errors: one status type, never mixed with a value, and a thread-local trace of where it came
   from. The first message wins; each SY_TRY on the way up adds a frame. Rank 0 prints one trace for
   the job. */
#ifndef SY_CORE_STATUS_H
#define SY_CORE_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Ordered by severity: where ranks disagree, the largest value wins (see parallel/agree.h). */
typedef enum sy_status {
    SY_OK = 0,
    SY_ERR_USAGE,       /* command line, config, input file: exit 2 */
    SY_ERR_DAMAGED,     /* a checkpoint is damaged or incomplete: exit 3 */
    SY_ERR_IO,          /* a file or folder cannot be read or written at run time: exit 1 */
    SY_ERR_MEMORY,      /* out of memory: exit 1 */
    SY_ERR_UNSUPPORTED, /* this build or backend cannot do it: exit 2 */
    SY_ERR_COMM,        /* MPI, NCCL, a peer: exit 1 */
    SY_ERR_NUMERIC,     /* not finite where that ends the run: exit 1 */
    SY_ERR_INTERNAL,    /* a broken contract: a bug of ours: exit 1 */
    SY_N_STATUS
} sy_status;

enum { SY_TRACE_FRAMES = 16, SY_TRACE_MESSAGE = 2048, SY_EXIT_STOPPED = 75, SY_EXIT_HUNG = 76 };

typedef struct sy_trace_frame {
    const char *file, *func; /* static storage */
    int32_t line;
} sy_trace_frame;

typedef struct sy_trace {
    sy_status status;
    int32_t rank; /* -1: not known */
    int32_t n_frames;
    sy_trace_frame frames[SY_TRACE_FRAMES];
    char message[SY_TRACE_MESSAGE];
} sy_trace;

/* Record an error of this thread and return its status. Not collective.
   The first message since sy_error_clear() is kept; later calls return their own status, and add a
   frame. */
sy_status sy_error_at(const char *file, int32_t line, const char *func, sy_status status,
                      const char *format, ...) __attribute__((format(printf, 5, 6)));
/* Add a frame to this thread's trace. Called by SY_TRY only. */
void sy_error_frame(const char *file, int32_t line, const char *func);
/* Forget this thread's trace: whoever handles an error calls it. */
void sy_error_clear(void);
/* This thread's message; "" if there is none. Valid until the next error call of this thread. */
const char *sy_error_message(void);
/* Copy this thread's trace out, to carry it to another thread or rank; raise it there again. */
void sy_error_take(sy_trace *out);
sy_status sy_error_raise(const sy_trace *trace);
/* "error: message" and, where verbose, one line per frame. Truncates; always terminated. */
void sy_error_format(const sy_trace *trace, bool verbose, char *buf, size_t buf_bytes);
/* Exit status of the process for a status (docs/INTERFACES.md section 2): 0, 1, 2 or 3. */
int sy_status_exit_code(sy_status status);
const char *sy_status_name(sy_status status);

#define sy_error(status, ...) sy_error_at(__FILE__, __LINE__, __func__, (status), __VA_ARGS__)

/* The only two macros with control flow. Both want `sy_status st = SY_OK;` and `cleanup:`. */
#define SY_TRY(expr)                                                                               \
    do {                                                                                           \
        st = (expr);                                                                               \
        if (st != SY_OK) {                                                                         \
            sy_error_frame(__FILE__, __LINE__, __func__);                                          \
            goto cleanup;                                                                          \
        }                                                                                          \
    } while (0)

#define SY_REQUIRE(cond, status, ...)                                                              \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            st = sy_error((status), __VA_ARGS__);                                                  \
            goto cleanup;                                                                          \
        }                                                                                          \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif

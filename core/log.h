/* Log lines on standard error. Rank 0 speaks; warnings and errors come from any rank, with its
   number. Standard output belongs to results (report/, launch/). */
#ifndef SY_CORE_LOG_H
#define SY_CORE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_log_level { SY_LOG_ERROR, SY_LOG_WARN, SY_LOG_INFO, SY_LOG_DEBUG } sy_log_level;

/* Set once per process, after MPI is up. Not collective. Before it: rank 0 of 1, level INFO
 * (SY_LOG=debug raises it). */
void sy_log_setup(int32_t rank, int32_t n_ranks, sy_log_level level);
/* One line; a line break is added. INFO and DEBUG are printed by rank 0 only, WARN and ERROR by
   whoever says it. If a progress line stands on the terminal it is cleared first (sy_log_on_line).
   Async-signal-unsafe. */
void sy_log(sy_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same about what happened on another rank, whose number the line then bears. */
void sy_log_from(int32_t rank, sy_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Hook called before a line is printed: the progress line registers itself here. NULL removes it.
   Requires that the hook logs nothing itself. */
void sy_log_on_line(void (*hook)(void *arg), void *arg);

#define sy_warn(...) sy_log(SY_LOG_WARN, __VA_ARGS__)
#define sy_info(...) sy_log(SY_LOG_INFO, __VA_ARGS__)
#define sy_debug(...) sy_log(SY_LOG_DEBUG, __VA_ARGS__)

#ifdef __cplusplus
}
#endif
#endif

/* Monotonic time. */
#ifndef SY_CORE_CLOCK_H
#define SY_CORE_CLOCK_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Reading and waiting; nothing here fails. */
double sy_clock_s(void);                        /* monotonic seconds from an arbitrary start */
void sy_clock_sleep_s(double s);                /* survives EINTR */
void sy_clock_utc(char *buf, size_t buf_bytes); /* "2026-11-22T05:55:28Z" */

#ifdef __cplusplus
}
#endif
#endif

/* Threads that start with all signals blocked: the main thread alone takes signals. */
#ifndef SY_CORE_THREAD_H
#define SY_CORE_THREAD_H

#include <pthread.h>

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Start a named thread (names are cut at 15 characters). Not collective. */
sy_status sy_thread_start(const char *name, void *(*run)(void *arg), void *arg, pthread_t *out);
/* Cores this process may run on (the affinity mask), at least 1. */
int32_t sy_thread_cores(void);

#ifdef __cplusplus
}
#endif
#endif

/* What a process says that ends otherwise than through main: something called exit, or a signal
   killed it. The launcher tells that it ended, but knows neither phase nor step. */
#ifndef SY_LAUNCH_LAST_WORDS_H
#define SY_LAUNCH_LAST_WORDS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* From now on exit(), with whatever status, is an error that ends the process with 1, and a crash
   is told in one line. After MPI is up, whose own handlers come next. Not collective. */
void sy_last_words_arm(int32_t rank, int32_t n_ranks);
/* The process ends in order from here on. Not collective. */
void sy_last_words_disarm(void);

#ifdef __cplusplus
}
#endif
#endif

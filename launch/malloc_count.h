/* How often the process asks for memory, whoever asks: our code, oneDNN, OpenMP, MPI. The program
   puts itself in front of the C library's malloc for it and counts only while told to. */
#ifndef SY_LAUNCH_MALLOC_COUNT_H
#define SY_LAUNCH_MALLOC_COUNT_H

#include <stdbool.h>
#include <stdint.h>

/* Can calls be counted in this build? Not with sanitizers or another C library than glibc.
   Not collective. */
bool sy_malloc_count_works(void);
/* Count from zero. All threads of the process are counted. Not collective. */
void sy_malloc_count_start(void);
/* Stop counting. Not collective. */
void sy_malloc_count_stop(void);

/* Bytes that the C library's heap holds now, used or not; -1 where it cannot tell. Not collective.
 */
int64_t sy_malloc_heap_bytes(void);

typedef struct sy_malloc_counts {
    int64_t total, inside_mpi; /* of total: by a library of MPI or what MPI brings along */
} sy_malloc_counts;
/* What was counted since the last start. Not collective. */
sy_malloc_counts sy_malloc_count_read(void);
/* Call seen(file name, calls, arg) for each place that asked; a library may have several. Not
   collective. */
void sy_malloc_count_callers(void (*seen)(const char *library, int64_t calls, void *arg),
                             void *arg);

#endif

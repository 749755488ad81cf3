/* Host allocation with a live count: zero at exit is a test, and "allocates nothing" can be
 * counted. */
#ifndef SY_CORE_ALLOC_H
#define SY_CORE_ALLOC_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* n elements of elem_bytes each, zeroed, 64-byte aligned. n == 0 gives a valid pointer. Overflow
   and exhaustion: SY_ERR_MEMORY. Usage: SY_TRY(sy_alloc(n, sizeof *p, (void **)&p)). */
sy_status sy_alloc(int64_t n, size_t elem_bytes, void **out);
/* Grow or shrink; the old contents are kept, what is new is zero. *ptr may be NULL. On failure *ptr
 * is untouched. */
sy_status sy_realloc(int64_t n, size_t elem_bytes, void **ptr);
sy_status sy_strdup(const char *text, char **out);
/* printf into a new string. */
sy_status sy_asprintf(char **out, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Frees *(void **)ptr_to_ptr and sets it NULL; freeing NULL is fine. Call as sy_free(&p). */
void sy_free(void *ptr_to_ptr);

/* For tests and metrics. */
int64_t sy_alloc_live(void);  /* blocks now held by the process */
int64_t sy_alloc_total(void); /* sy_alloc and sy_realloc calls so far */

#ifdef __cplusplus
}
#endif
#endif

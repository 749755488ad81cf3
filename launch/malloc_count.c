/* Our malloc, calloc, realloc, their aligned kin and free forward to glibc's own under its other
   names; so all of them stay one allocator, whatever is preloaded. While counting, calls are booked
   under their return address: it tells which library asked. */
#include "launch/malloc_count.h"

#ifdef SY_COUNT_MALLOC

#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *ptr, size_t bytes);
void *__libc_memalign(size_t align, size_t bytes);
void __libc_free(void *ptr);

enum { MAX_CALLERS = 1024 };

/* Calls from one place; an empty entry has from NULL. An open hash table: entries only come. */
typedef struct caller {
    void *from;
    int64_t n;
} caller;

static volatile int counting; /* the allocation counters of DESIGN section 1 */
static int64_t n_calls;
static caller callers[MAX_CALLERS];

/* Several threads may come at once; who finds the table full is counted in n_calls alone. */
static void count(void *from)
{
    size_t at = ((uintptr_t)from >> 2) % MAX_CALLERS;
    if (!counting) {
        return;
    }
    __atomic_fetch_add(&n_calls, 1, __ATOMIC_RELAXED);
    for (size_t i = 0; i < MAX_CALLERS; i++, at = (at + 1) % MAX_CALLERS) {
        void *there = NULL;
        if (__atomic_compare_exchange_n(&callers[at].from, &there, from, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED) ||
            there == from) {
            __atomic_fetch_add(&callers[at].n, 1, __ATOMIC_RELAXED);
            return;
        }
    }
}

#define COUNT_CALL() count(__builtin_return_address(0))

void *malloc(size_t bytes)
{
    COUNT_CALL();
    return __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    COUNT_CALL();
    return __libc_calloc(n, bytes);
}

void *realloc(void *ptr, size_t bytes)
{
    COUNT_CALL();
    return __libc_realloc(ptr, bytes);
}

void *memalign(size_t align, size_t bytes)
{
    COUNT_CALL();
    return __libc_memalign(align, bytes);
}

void *aligned_alloc(size_t align, size_t bytes)
{
    COUNT_CALL();
    return __libc_memalign(align, bytes);
}

int posix_memalign(void **out, size_t align, size_t bytes)
{
    COUNT_CALL();
    if (align < sizeof(void *) || (align & (align - 1)) != 0) {
        return EINVAL;
    }
    void *ptr = __libc_memalign(align, bytes);
    if (ptr == NULL) {
        return ENOMEM;
    }
    *out = ptr;
    return 0;
}

void free(void *ptr)
{
    __libc_free(ptr);
}

bool sy_malloc_count_works(void)
{
    return true;
}

void sy_malloc_count_start(void)
{
    memset(callers, 0, sizeof callers);
    __atomic_store_n(&n_calls, 0, __ATOMIC_RELAXED);
    counting = 1;
}

void sy_malloc_count_stop(void)
{
    counting = 0;
}

int64_t sy_malloc_heap_bytes(void)
{
    struct mallinfo2 info = mallinfo2();
    return (int64_t)(info.arena + info.hblkhd);
}

static const char *library_of(void *address)
{
    Dl_info info;
    if (dladdr(address, &info) == 0 || info.dli_fname == NULL) {
        return "unknown";
    }
    const char *slash = strrchr(info.dli_fname, '/');
    return slash != NULL ? slash + 1 : info.dli_fname;
}

static bool belongs_to_mpi(const char *library)
{
    static const char *const begins[] = {"libmpi",   "libopen-",  "mca_",   "libpmix",   "libprte",
                                         "libevent", "libhwloc",  "libucp", "libuct",    "libucs",
                                         "libucm",   "libfabric", "libpsm", "libibverbs"};
    for (size_t i = 0; i < sizeof begins / sizeof begins[0]; i++) {
        if (strncmp(library, begins[i], strlen(begins[i])) == 0) {
            return true;
        }
    }
    return false;
}

sy_malloc_counts sy_malloc_count_read(void)
{
    sy_malloc_counts counts = {.total = n_calls};
    for (size_t i = 0; i < MAX_CALLERS; i++) {
        if (callers[i].n > 0 && belongs_to_mpi(library_of(callers[i].from))) {
            counts.inside_mpi += callers[i].n;
        }
    }
    return counts;
}

void sy_malloc_count_callers(void (*seen)(const char *library, int64_t calls, void *arg), void *arg)
{
    for (size_t i = 0; i < MAX_CALLERS; i++) {
        if (callers[i].n > 0) {
            seen(library_of(callers[i].from), callers[i].n, arg);
        }
    }
}

#else

bool sy_malloc_count_works(void)
{
    return false;
}

void sy_malloc_count_start(void)
{
}

void sy_malloc_count_stop(void)
{
}

int64_t sy_malloc_heap_bytes(void)
{
    return -1;
}

sy_malloc_counts sy_malloc_count_read(void)
{
    return (sy_malloc_counts){0};
}

void sy_malloc_count_callers(void (*seen)(const char *library, int64_t calls, void *arg), void *arg)
{
    (void)seen, (void)arg;
}

#endif

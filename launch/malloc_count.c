/* Our malloc, calloc, realloc, their aligned kin and free forward to glibc's own under its other
   names; so all of them stay one allocator, whatever is preloaded. While counting, the return
   address of a call is kept: it tells which library asked. */
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

enum { MAX_CALLS = 2048 /* whose callers are remembered */ };

static volatile int counting; /* the allocation counters of DESIGN section 1 */
static int64_t n_calls;
static void *caller[MAX_CALLS];

static void count(void *from)
{
    if (counting) {
        int64_t i = __atomic_fetch_add(&n_calls, 1, __ATOMIC_RELAXED);
        if (i < MAX_CALLS) {
            caller[i] = from;
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
    __atomic_store_n(&n_calls, 0, __ATOMIC_RELAXED);
    counting = 1;
}

void sy_malloc_count_stop(void)
{
    counting = 0;
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

static int64_t n_kept(void)
{
    return n_calls < MAX_CALLS ? n_calls : MAX_CALLS;
}

sy_malloc_counts sy_malloc_count_read(void)
{
    sy_malloc_counts counts = {.total = n_calls};
    for (int64_t i = 0; i < n_kept(); i++) {
        counts.inside_mpi += belongs_to_mpi(library_of(caller[i]));
    }
    return counts;
}

/* Each library once: at its first call all of its calls are counted. */
void sy_malloc_count_callers(void (*seen)(const char *library, int64_t calls, void *arg), void *arg)
{
    for (int64_t i = 0; i < n_kept(); i++) {
        const char *library = library_of(caller[i]);
        int64_t before = 0, calls = 0;
        for (int64_t j = 0; j < n_kept() && before == 0; j++) {
            bool same = strcmp(library, library_of(caller[j])) == 0;
            before += same && j < i;
            calls += same;
        }
        if (before == 0) {
            seen(library, calls, arg);
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

sy_malloc_counts sy_malloc_count_read(void)
{
    return (sy_malloc_counts){0};
}

void sy_malloc_count_callers(void (*seen)(const char *library, int64_t calls, void *arg), void *arg)
{
    (void)seen, (void)arg;
}

#endif

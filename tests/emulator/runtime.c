/* The CUDA runtime of the emulator. A block of device memory ends at a page that nobody may touch,
   so a kernel that runs past the end stops the program; the bytes that rounding leaves before that
   page are checked when the block is freed. */
#include "backend/cuda/pages.h"
#include "tests/emulator/emulator_impl.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, ALIGN = 64, CANARY = 0xa5 };

/* In front of the block, on a page of its own. */
typedef struct head {
    size_t bytes, mapped;
} head;

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    default:
        return "invalid argument";
    }
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

static int64_t n_given; /* bytes of device memory now in use */

/* ---- the device ---- */

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

static void complain(const char *who, const char *what)
{
    fprintf(stderr, "emulator: %s %s\n", who, what);
    abort();
}

cudaError_t cudaSetDevice(int device)
{
    if (emulator_in_host_function()) {
        complain("a host function in a stream", "calls the runtime");
    }
    return device == 0 ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaDeviceSynchronize(void)
{
    emulator_finish_all();
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int device)
{
    (void)device;
    switch (attr) {
    case cudaDevAttrMultiProcessorCount:
        *value = 4;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = 227 << 10;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = 9;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = 0;
        break;
    }
    return cudaSuccess;
}

/* EMULATOR_GPU: what rank 1 of the job has, where not what all have. */
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *name = getenv("EMULATOR_GPU");
    const bool mine = rank && name && strcmp(rank, "1") == 0;
    (void)device;
    snprintf(prop->name, sizeof prop->name, "%s", mine ? name : "an emulation");
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int bytes, int device)
{
    snprintf(id, (size_t)bytes, "0000:%02x:00.0", device);
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    const char *mib = getenv("EMULATOR_MIB");
    *total_bytes = (size_t)(mib ? atoi(mib) : 8192) << 20;
    *free_bytes = *total_bytes - (size_t)__atomic_load_n(&n_given, __ATOMIC_RELAXED);
    return cudaSuccess;
}

/* ---- memory ---- */

/* What was given out, of the device's and of the host's that it sees. */
typedef struct range {
    const char *begin;
    size_t bytes;
    bool host;
} range;
enum { MAX_RANGES = 1 << 14 };
static struct {
    pthread_mutex_t lock;
    range range[MAX_RANGES];
    int32_t n;
} given = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void enlist(const void *begin, size_t bytes, bool host)
{
    pthread_mutex_lock(&given.lock);
    if (given.n == MAX_RANGES) {
        complain("the runtime", "has too many blocks of memory");
    }
    given.range[given.n++] = (range){begin, bytes, host};
    pthread_mutex_unlock(&given.lock);
}

static void strike_off(const void *begin)
{
    pthread_mutex_lock(&given.lock);
    for (int32_t i = 0; i < given.n; i++) {
        if (given.range[i].begin == begin) {
            given.range[i] = given.range[--given.n];
            break;
        }
    }
    pthread_mutex_unlock(&given.lock);
}

/* Is it in (or just behind) a block: on the device, of the host? */
static void look_up(const void *ptr, bool *device, bool *host)
{
    *device = *host = false;
    pthread_mutex_lock(&given.lock);
    for (int32_t i = 0; i < given.n; i++) {
        const range *r = &given.range[i];
        if ((const char *)ptr >= r->begin && (const char *)ptr <= r->begin + r->bytes) {
            *(r->host ? host : device) = true;
        }
    }
    pthread_mutex_unlock(&given.lock);
}

static bool on_device(const void *ptr)
{
    bool device, host;
    look_up(ptr, &device, &host);
    return device;
}

void emulator_require_visible(const void *ptr, const char *who)
{
    bool device, host;
    look_up(ptr, &device, &host);
    if (ptr && !device && !host) {
        complain(who, "is given memory that a GPU does not see");
    }
}

static size_t up(size_t bytes, size_t to)
{
    return (bytes + to - 1) / to * to;
}

/* Memory that is lent; the same block may be, several times. */
enum { MAX_LENT = 512 };
static const char *lent[MAX_LENT];

static bool exchange_lent(const void *from, const void *to)
{
    for (int i = 0; i < MAX_LENT; i++) {
        const char *expected = from;
        if (__atomic_compare_exchange_n(&lent[i], &expected, to, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
            return true;
        }
    }
    return false;
}

/* Blocks that are made of pages. */
enum { MAX_PAGED = 4096 };
static void *paged[MAX_PAGED];

static bool exchange_paged(void *from, void *to)
{
    for (int i = 0; i < MAX_PAGED; i++) {
        void *expected = from;
        if (__atomic_compare_exchange_n(&paged[i], &expected, to, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
            return true;
        }
    }
    return false;
}

bool sy_cuda_pages_take(int32_t ordinal, int64_t bytes, void **ptr, int64_t *taken)
{
    const size_t whole = up((size_t)bytes, PAGE);
    void *made = NULL;
    (void)ordinal;
    if (bytes < PAGE || cudaMalloc(&made, whole) != cudaSuccess || !exchange_paged(NULL, made)) {
        cudaFree(made);
        return false;
    }
    *ptr = made;
    *taken = (int64_t)whole;
    return true;
}

void sy_cuda_pages_give_back(void *ptr, int64_t taken)
{
    (void)taken;
    if (!exchange_paged(ptr, NULL)) {
        fprintf(stderr, "emulator: pages are given back that were not taken\n");
        abort();
    }
    cudaFree(ptr);
}

bool emulator_lend(const void *ptr)
{
    return exchange_paged((void *)ptr, (void *)ptr) && exchange_lent(NULL, ptr);
}

void emulator_take_back(const void *ptr)
{
    exchange_lent(ptr, NULL);
}

static void must_be_ours(const char *ptr, size_t bytes)
{
    for (int i = 0; i < MAX_LENT; i++) {
        const char *at = __atomic_load_n(&lent[i], __ATOMIC_ACQUIRE);
        if (at && at >= ptr && at < ptr + bytes) {
            fprintf(stderr, "emulator: memory is freed that NCCL has registered\n");
            abort();
        }
    }
}

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    const size_t room = up(bytes, ALIGN), mapped = PAGE + up(room, PAGE) + PAGE;
    char *base = mmap(NULL, mapped, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        return cudaErrorMemoryAllocation;
    }
    char *ptr = base + mapped - PAGE - room;
    mprotect(base + mapped - PAGE, PAGE, PROT_NONE);
    *(head *)(void *)base = (head){bytes, mapped};
    __atomic_fetch_add(&n_given, (int64_t)bytes, __ATOMIC_RELAXED);
    memset(ptr + bytes, CANARY, room - bytes);
    enlist(ptr, bytes, false);
    *out = ptr;
    return cudaSuccess;
}

cudaError_t cudaFree(void *ptr)
{
    if (!ptr) {
        return cudaSuccess;
    }
    emulator_finish_all(); /* as the real one */
    strike_off(ptr);
    char *base = (char *)ptr - (uintptr_t)ptr % PAGE - PAGE;
    const head h = *(const head *)(void *)base;
    must_be_ours(ptr, h.bytes);
    for (size_t i = h.bytes; i < up(h.bytes, ALIGN); i++) {
        if (((unsigned char *)ptr)[i] != CANARY) {
            fprintf(stderr, "emulator: byte %zu of a block of %zu was written\n", i, h.bytes);
            abort();
        }
    }
    __atomic_fetch_sub(&n_given, (int64_t)h.bytes, __ATOMIC_RELAXED);
    munmap(base, h.mapped);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags)
{
    (void)flags;
    *out = calloc(bytes > 0 ? bytes : 1, 1);
    if (!*out) {
        return cudaErrorMemoryAllocation;
    }
    enlist(*out, bytes, true);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *ptr)
{
    emulator_finish_all();
    strike_off(ptr);
    free(ptr);
    return cudaSuccess;
}

/* Registered memory: twice, or freed while it is, is a fault of the caller's. */
enum { MAX_REGISTERED = 64 };
static void *registered[MAX_REGISTERED];

static bool exchange_registered(void *from, void *to)
{
    for (int i = 0; i < MAX_REGISTERED; i++) {
        void *expected = from;
        if (__atomic_compare_exchange_n(&registered[i], &expected, to, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
            return true;
        }
    }
    return false;
}

cudaError_t cudaHostRegister(void *ptr, size_t bytes, unsigned flags)
{
    (void)bytes, (void)flags;
    for (int i = 0; i < MAX_REGISTERED; i++) {
        if (__atomic_load_n(&registered[i], __ATOMIC_ACQUIRE) == ptr) {
            fprintf(stderr, "emulator: host memory is registered twice\n");
            abort();
        }
    }
    return exchange_registered(NULL, ptr) ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaHostUnregister(void *ptr)
{
    return exchange_registered(ptr, NULL) ? cudaSuccess : cudaErrorInvalidValue;
}

/* Large stretches of zeros are pages given back: the system hands out zeros, when they are used. */
static void fill(void *dst, int value, size_t bytes)
{
    char *first = (char *)up((size_t)dst, PAGE), *end = (char *)dst + bytes;
    end -= (uintptr_t)end % PAGE;
    if (value != 0 || end <= first || madvise(first, (size_t)(end - first), MADV_DONTNEED) != 0) {
        memset(dst, value, bytes);
        return;
    }
    memset(dst, 0, (size_t)(first - (char *)dst));
    memset(end, 0, (size_t)((char *)dst + bytes - end));
}

cudaError_t cudaMemset(void *dst, int value, size_t bytes)
{
    fill(dst, value, bytes);
    return cudaSuccess;
}

/* Of a stream: a copy, or, without a source, a fill. */
typedef struct move {
    void *dst;
    const void *src;
    size_t bytes;
    int value;
} move;

static void run_move(const void *args)
{
    const move *m = args;
    if (m->src) {
        memmove(m->dst, m->src, m->bytes);
    } else {
        fill(m->dst, m->value, m->bytes);
    }
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t stream)
{
    const move m = {.dst = dst, .bytes = bytes, .value = value};
    emulator_enqueue(stream, run_move, &m, sizeof m);
    return cudaSuccess;
}

/* Host memory that is not pinned is taken at its word too, though the real one would not return
   before it has been read: backend.h says that it stays valid until the stream has passed. */
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    const move m = {.dst = dst, .src = src, .bytes = bytes};
    if (on_device(dst) != (kind != cudaMemcpyDeviceToHost) ||
        on_device(src) != (kind != cudaMemcpyHostToDevice)) {
        complain("a copy", "goes another way than it says");
    }
    emulator_enqueue(stream, run_move, &m, sizeof m);
    return cudaSuccess;
}

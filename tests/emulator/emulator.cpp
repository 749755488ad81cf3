/* Runs kernels: one block after the other, the threads of a block as fibers. A fiber runs until it
   waits or ends. A warp's exchange is complete when all 32 lanes wait at the same line, a barrier
   when all threads of the block do. */
#include "tests/emulator/emulator_impl.h"

#include <csetjmp>
#include <cstdio>
#include <cstddef>
#include <cstdlib>
#include <pthread.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cuda_runtime.h>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace
{

enum { MAX_THREADS = 1024, STACK_BYTES = 64 << 10, SHARED_BYTES = 227 << 10, MAX_MEETINGS = 32 };
enum waits_for { NOTHING, A_WARP, A_BLOCK, A_CONDITION, THE_END };

struct fiber {
    jmp_buf here;
    waits_for waits;
    emulator_site site;
    bool (*ready)(const void *about); /* of A_CONDITION */
    const void *about;
    uint3 index;
};

struct warp {
    alignas(16) char given[32 * EMULATOR_LANE_BYTES], got[32 * EMULATOR_LANE_BYTES];
};

/* Some threads of a block meet, again and again. */
struct meeting {
    int32_t n_here, n_times;
};

/* The one machine: kernels run one at a time. */
struct machine {
    fiber fibers[MAX_THREADS];
    warp warps[MAX_THREADS / 32];
    meeting meetings[MAX_MEETINGS];
    int32_t n_fibers_made, n_threads, running, order;
    char *stacks;
    jmp_buf scheduler;
    void (*thread)(const void *);
    const void *closure;
    char *shared;
} m;

[[noreturn]] void fail(const char *what, emulator_site a, emulator_site b)
{
    fprintf(stderr, "emulator: %s: %s:%d and %s:%d, block %u %u %u, thread %d\n", what,
            a.file ? a.file : "end", a.line, b.file ? b.file : "end", b.line, blockIdx.x,
            blockIdx.y, blockIdx.z, m.running);
    abort();
}

/* ---- fibers ---- */

void live()
{
    for (;;) {
        m.thread(m.closure);
        fiber &me = m.fibers[m.running];
        me.waits = THE_END;
        if (_setjmp(me.here) == 0) {
            _longjmp(m.scheduler, 1);
        }
    }
}

ucontext_t maker;

void begin()
{
    if (_setjmp(m.fibers[m.running].here) == 0) {
        setcontext(&maker);
    }
    live();
}

/* A fiber that stands at the door of live(). */
void make_fiber(int32_t t)
{
    ucontext_t born;
    volatile bool made = false;
    getcontext(&born);
    born.uc_stack.ss_sp = m.stacks + (size_t)t * STACK_BYTES;
    born.uc_stack.ss_size = STACK_BYTES;
    born.uc_link = nullptr;
    makecontext(&born, begin, 0);
    m.running = t;
    getcontext(&maker);
    if (!made) {
        made = true;
        setcontext(&born);
    }
}

void resume(int32_t t)
{
    fiber &f = m.fibers[t];
    f.waits = NOTHING;
    m.running = t;
    threadIdx = f.index;
    if (_setjmp(m.scheduler) == 0) {
        _longjmp(f.here, 1);
    }
}

void wait(waits_for what, emulator_site site)
{
    fiber &me = m.fibers[m.running];
    me.waits = what;
    me.site = site;
    if (_setjmp(me.here) == 0) {
        _longjmp(m.scheduler, 1);
    }
}

/* ---- a block ---- */

bool same(emulator_site a, emulator_site b)
{
    return a.line == b.line && a.file == b.file;
}

/* Let the lanes of a warp run until each waits for others; lanes in an order of the stream. */
void run_lanes(int32_t w, int32_t order)
{
    for (int32_t i = 0; i < 32; i++) {
        const int32_t lane = order == 0 ? i : order == 1 ? 31 - i : (i * 13 + 5) & 31;
        if (m.fibers[w * 32 + lane].waits == NOTHING) {
            resume(w * 32 + lane);
        }
    }
}

/* If the warp's lanes wait for each other they have met: let them go on. */
bool meet(int32_t w)
{
    fiber *lane = m.fibers + w * 32;
    int32_t n = 0, n_later = 0;
    for (int32_t i = 0; i < 32; i++) {
        n += lane[i].waits == A_WARP;
        n_later += lane[i].waits == A_CONDITION;
    }
    if (n == 0 || n_later > 0) {
        return false;
    }
    for (int32_t i = 0; i < 32; i++) {
        if (lane[i].waits != A_WARP || !same(lane[i].site, lane[0].site)) {
            fail("a warp's lanes wait at different lines", lane[0].site, lane[i].site);
        }
        lane[i].waits = NOTHING;
    }
    memcpy(m.warps[w].got, m.warps[w].given, sizeof m.warps[w].got);
    return true;
}

/* Let those go on whose condition has come true; false: none. */
bool pass_conditions()
{
    bool any = false;
    for (int32_t t = 0; t < m.n_threads; t++) {
        fiber &f = m.fibers[t];
        if (f.waits == A_CONDITION && f.ready(f.about)) {
            f.waits = NOTHING;
            any = true;
        }
    }
    return any;
}

/* All threads wait for the block, or have ended. False: all have ended. */
bool pass_barrier()
{
    int32_t n_ended = 0;
    for (int32_t t = 0; t < m.n_threads; t++) {
        n_ended += m.fibers[t].waits == THE_END;
    }
    if (n_ended == m.n_threads) {
        return false;
    }
    for (int32_t t = 0; t < m.n_threads; t++) {
        if (m.fibers[t].waits == A_CONDITION) {
            fail("nobody brings about what a thread waits for", m.fibers[t].site, m.fibers[0].site);
        }
        if (m.fibers[t].waits != A_BLOCK || !same(m.fibers[t].site, m.fibers[0].site)) {
            fail("threads of a block wait at different lines", m.fibers[0].site, m.fibers[t].site);
        }
        m.fibers[t].waits = NOTHING;
    }
    return true;
}

void run_block(int32_t order, size_t shared_bytes)
{
    const int32_t n_warps = m.n_threads / 32;
    m.order = order;
    memset(m.shared, 0xff, shared_bytes);
    memset(m.meetings, 0, sizeof m.meetings);
    for (int32_t t = 0; t < m.n_threads; t++) {
        m.fibers[t].waits = NOTHING;
        m.fibers[t].site = emulator_site{nullptr, 0};
    }
    do {
        for (int32_t i = 0; i < n_warps; i++) {
            const int32_t w = order == 0 ? i : order == 1 ? n_warps - 1 - i : (i + 1) % n_warps;
            do {
                run_lanes(w, order);
            } while (meet(w));
        }
    } while (pass_conditions() || pass_barrier());
}

void ready(const dim3 &block)
{
    m.n_threads = (int32_t)(block.x * block.y * block.z);
    if (m.n_threads % 32 != 0 || m.n_threads > MAX_THREADS || m.n_threads == 0) {
        fprintf(stderr, "emulator: a block of %d threads: whole warps, at most %d\n", m.n_threads,
                MAX_THREADS);
        abort();
    }
    if (!m.stacks) {
        m.stacks = (char *)mmap(nullptr, (size_t)MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        m.shared = (char *)aligned_alloc(1024, SHARED_BYTES + 1024);
    }
    for (; m.n_fibers_made < m.n_threads; m.n_fibers_made++) {
        make_fiber(m.n_fibers_made);
    }
    for (int32_t t = 0; t < m.n_threads; t++) {
        const unsigned u = (unsigned)t;
        m.fibers[t].index = uint3{u % block.x, u / block.x % block.y, u / block.x / block.y};
    }
}

} // namespace

int32_t emulator_running_order()
{
    return m.order;
}

void emulator_barrier(emulator_site site)
{
    wait(A_BLOCK, site);
}

void emulator_wait(bool (*ready)(const void *about), const void *about, emulator_site site)
{
    fiber &me = m.fibers[m.running];
    if (!ready(about)) {
        me.ready = ready;
        me.about = about;
        wait(A_CONDITION, site);
    }
}

namespace
{

struct appointment {
    int32_t id, n_times;
};

bool took_place(const void *about)
{
    const appointment *a = (const appointment *)about;
    return m.meetings[a->id].n_times > a->n_times;
}

} // namespace

void emulator_meet(int id, int n, emulator_site site)
{
    meeting &here = m.meetings[id];
    const appointment mine = {id, here.n_times};
    if (++here.n_here == n) {
        here = meeting{0, here.n_times + 1};
    }
    emulator_wait(took_place, &mine, site);
}

const char *emulator_exchange(const void *mine, size_t bytes, emulator_site site)
{
    warp &w = m.warps[m.running / 32];
    memcpy(w.given + m.running % 32 * EMULATOR_LANE_BYTES, mine, bytes);
    wait(A_WARP, site);
    return w.got;
}

void *emulator_dynamic_shared()
{
    return m.shared;
}

void emulator_require_aligned(const void *ptr, emulator_site site)
{
    if ((uintptr_t)ptr % 16 != 0) {
        fail("16 bytes that are not aligned", site, site);
    }
}

/* ---- shared memory that a kernel has asked for ---- */

namespace
{

/* What a kernel has of its own is not known here: the most that kernel_impl.cuh allows. */
enum { MAX_KERNELS = 512, OWN_BYTES = 12 << 10, UNASKED_BYTES = 48 << 10 };
struct asked {
    void (*kernel)();
    int bytes;
} asked_for[MAX_KERNELS];
int32_t n_asked;
pthread_mutex_t asking = PTHREAD_MUTEX_INITIALIZER;

/* Its entry, made where there is none. */
asked *find(void (*kernel)())
{
    int32_t i = 0;
    while (i < n_asked && asked_for[i].kernel != kernel) {
        i++;
    }
    if (i == MAX_KERNELS) {
        abort();
    }
    n_asked = i == n_asked ? i + 1 : n_asked;
    asked_for[i].kernel = kernel;
    return &asked_for[i];
}

bool may_have(void (*kernel)(), size_t bytes)
{
    if (bytes + OWN_BYTES <= UNASKED_BYTES) {
        return true;
    }
    pthread_mutex_lock(&asking);
    const bool may = bytes <= (size_t)find(kernel)->bytes;
    pthread_mutex_unlock(&asking);
    return may;
}

} // namespace

cudaError_t emulator_allow_shared(void (*kernel)(), int bytes)
{
    if (bytes < 0 || bytes + OWN_BYTES > SHARED_BYTES) {
        return cudaErrorInvalidValue;
    }
    pthread_mutex_lock(&asking);
    find(kernel)->bytes = bytes;
    pthread_mutex_unlock(&asking);
    return cudaSuccess;
}

namespace
{

enum { CLOSURE_BYTES = 4096 };

/* A kernel on its way. */
struct launch {
    dim3 grid, block;
    size_t shared_bytes;
    int32_t order;
    void (*thread)(const void *);
    alignas(16) char closure[CLOSURE_BYTES];
};

pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

void run_kernel(const void *args)
{
    const launch &l = *(const launch *)args;
    pthread_mutex_lock(&one_at_a_time);
    ready(l.block);
    m.thread = l.thread;
    m.closure = l.closure;
    gridDim = l.grid;
    blockDim = l.block;
    const int64_t n = (int64_t)gridDim.x * gridDim.y * gridDim.z;
    for (int64_t i = 0; i < n; i++) {
        const int64_t b = l.order == 0 ? i : n - 1 - i;
        blockIdx = uint3{(unsigned)(b % gridDim.x), (unsigned)(b / gridDim.x % gridDim.y),
                         (unsigned)(b / gridDim.x / gridDim.y)};
        run_block(l.order, l.shared_bytes);
    }
    pthread_mutex_unlock(&one_at_a_time);
}

} // namespace

cudaError_t emulator_launch(const cudaLaunchConfig_t *config, void (*kernel)(),
                            void (*thread)(const void *), const void *closure, size_t bytes)
{
    launch l;
    const dim3 &grid = config->gridDim;
    if (grid.x == 0 || grid.x > 0x7fffffff || grid.y == 0 || grid.y > 65535 || grid.z == 0 ||
        grid.z > 65535) {
        return cudaErrorInvalidConfiguration;
    }
    if (!may_have(kernel, config->dynamicSmemBytes) || bytes > CLOSURE_BYTES) {
        return cudaErrorInvalidValue;
    }
    l.grid = config->gridDim;
    l.block = config->blockDim;
    l.shared_bytes = config->dynamicSmemBytes;
    l.order = emulator_order(config->stream);
    l.thread = thread;
    memcpy(l.closure, closure, bytes);
    emulator_enqueue(config->stream, run_kernel, &l, offsetof(launch, closure) + bytes);
    return cudaSuccess;
}

/* What the processor raises when code touches device memory, turned into one sentence. A signal
   handler can only look at static storage: this list of regions and the handler that was there
   before are the only variables of the file. */
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "backend/check/check_impl.h"

enum { MAX_TRAPS = 64 };

typedef struct trap {
    _Atomic uintptr_t first; /* 0: free */
    _Atomic uintptr_t bytes, view_bytes;
} trap;

static trap traps[MAX_TRAPS];
static struct sigaction handler_before;
static pthread_once_t installed = PTHREAD_ONCE_INIT;

/* A line put together with nothing but what a signal handler may use, and written at once. */
typedef struct line {
    char text[256];
    size_t n;
} line;

static void add_text(line *to, const char *text)
{
    while (*text && to->n < sizeof to->text) {
        to->text[to->n++] = *text++;
    }
}

static void add_address(line *to, uintptr_t address)
{
    add_text(to, "0x");
    for (int32_t shift = 8 * (int32_t)sizeof address - 4; shift >= 0; shift -= 4) {
        add_text(to, (char[]){"0123456789abcdef"[(address >> shift) & 15], '\0'});
    }
}

static void on_fault(int signal_number, siginfo_t *info, void *context)
{
    (void)context;
    uintptr_t address = (uintptr_t)info->si_addr;
    for (int32_t i = 0; i < MAX_TRAPS; i++) {
        uintptr_t first = atomic_load(&traps[i].first), bytes = atomic_load(&traps[i].bytes);
        line to = {.n = 0};
        if (first != 0 && address - first < bytes) {
            add_text(&to, "error: host code touched device memory at ");
            add_address(&to, address);
            add_text(&to,
                     "; copy with sy_copy_d2h or sy_copy_h2d, or use sy_device_host_view inside a "
                     "stream call\n");
        } else if (first != 0 && address - first < bytes + atomic_load(&traps[i].view_bytes)) {
            add_text(&to,
                     "error: an op or a stream call ran outside every block of device memory, at ");
            add_address(&to, address - bytes);
            add_text(&to, "\n");
        }
        ssize_t written = to.n > 0 ? write(STDERR_FILENO, to.text, to.n) : 0;
        (void)written; /* nobody is left to tell */
    }
    /* Whoever was there before sees the fault again: the instruction runs once more. */
    sigaction(signal_number, &handler_before, NULL);
}

static void install(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigaction(SIGSEGV, &action, &handler_before);
}

void sy__trap_set(const void *first, int64_t bytes, int64_t view_bytes)
{
    pthread_once(&installed, install);
    for (int32_t i = 0; i < MAX_TRAPS; i++) {
        uintptr_t nobody = 0;
        if (atomic_compare_exchange_strong(&traps[i].first, &nobody, (uintptr_t)first)) {
            atomic_store(&traps[i].bytes, (uintptr_t)bytes);
            atomic_store(&traps[i].view_bytes, (uintptr_t)view_bytes);
            return;
        }
    }
}

void sy__trap_clear(const void *first)
{
    for (int32_t i = 0; i < MAX_TRAPS; i++) {
        uintptr_t mine = (uintptr_t)first;
        if (atomic_compare_exchange_strong(&traps[i].first, &mine, 0)) {
            return;
        }
    }
}

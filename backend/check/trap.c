/* What the processor raises when code touches device memory, turned into one sentence. A signal
   handler can only look at static storage: this list of regions and the handler that was there
   before are the only variables of the file. */
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
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

/* Only calls that are safe in a signal handler. */
static void say(const char *text)
{
    ssize_t n = write(STDERR_FILENO, text, strlen(text));
    (void)n; /* nobody is left to tell */
}

static void say_address(uintptr_t address)
{
    char text[2 * sizeof address + 3] = "0x";
    for (size_t i = 0; i < 2 * sizeof address; i++) {
        text[2 + i] = "0123456789abcdef"[(address >> (8 * sizeof address - 4 - 4 * i)) & 15];
    }
    say(text);
}

static void on_fault(int signal_number, siginfo_t *info, void *context)
{
    (void)context;
    uintptr_t address = (uintptr_t)info->si_addr;
    for (int32_t i = 0; i < MAX_TRAPS; i++) {
        uintptr_t first = atomic_load(&traps[i].first), bytes = atomic_load(&traps[i].bytes);
        if (first != 0 && address - first < bytes) {
            say("error: host code touched device memory at ");
            say_address(address);
            say("; copy with sy_copy_d2h or sy_copy_h2d, or use sy_device_host_view inside a "
                "stream call\n");
        } else if (first != 0 && address - first < bytes + atomic_load(&traps[i].view_bytes)) {
            say("error: an op or a stream call ran outside every block of device memory, at ");
            say_address(address - bytes);
            say("\n");
        }
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

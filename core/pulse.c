/* One pulse per process: a watchdog must see the progress of every thread. */
#include "core/pulse.h"

#include <stdatomic.h>

static struct {
    _Atomic int64_t beats, step, waited_ns, n_steps;
    const char *_Atomic phase;
    _Atomic int64_t compute_ns[SY_PULSE_STEPS];
} pulse;

static int64_t to_ns(double seconds)
{
    return seconds > 0 ? (int64_t)(seconds * 1e9) : 0;
}

/* A beat of two threads at once may count once: what matters is that the count changes. */
void sy_pulse_beat(void)
{
    int64_t beats = atomic_load_explicit(&pulse.beats, memory_order_relaxed);
    atomic_store_explicit(&pulse.beats, beats + 1, memory_order_relaxed);
}

void sy_pulse_phase(const char *phase)
{
    atomic_store_explicit(&pulse.phase, phase, memory_order_release);
    sy_pulse_beat();
}

void sy_pulse_step(int64_t step)
{
    atomic_store_explicit(&pulse.step, step, memory_order_relaxed);
}

void sy_pulse_waited(double seconds)
{
    atomic_fetch_add_explicit(&pulse.waited_ns, to_ns(seconds), memory_order_relaxed);
}

double sy_pulse_waited_s(void)
{
    return 1e-9 * (double)atomic_load_explicit(&pulse.waited_ns, memory_order_relaxed);
}

void sy_pulse_step_took(double compute_s)
{
    int64_t n = atomic_load_explicit(&pulse.n_steps, memory_order_relaxed);
    atomic_store_explicit(&pulse.compute_ns[n % SY_PULSE_STEPS], to_ns(compute_s),
                          memory_order_relaxed);
    atomic_store_explicit(&pulse.n_steps, n + 1, memory_order_release);
}

sy_pulse sy_pulse_read(void)
{
    sy_pulse p = {.n_steps = atomic_load_explicit(&pulse.n_steps, memory_order_acquire),
                  .beats = atomic_load_explicit(&pulse.beats, memory_order_relaxed),
                  .step = atomic_load_explicit(&pulse.step, memory_order_relaxed),
                  .phase = atomic_load_explicit(&pulse.phase, memory_order_acquire),
                  .waited_s = sy_pulse_waited_s()};
    for (int i = 0; i < SY_PULSE_STEPS; i++) {
        p.compute_s[i] =
            1e-9 * (double)atomic_load_explicit(&pulse.compute_ns[i], memory_order_relaxed);
    }
    return p;
}

/* What this process is doing, for whoever watches it: a count of signs of progress, the phase and
   step, and how long steps took without waiting for others. The working threads write, a watchdog
   reads; there is no lock. */
#ifndef SY_CORE_PULSE_H
#define SY_CORE_PULSE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SY_PULSE_STEPS = 20 };

typedef struct sy_pulse {
    int64_t beats, step;
    const char *phase;                /* static text */
    double waited_s;                  /* for other ranks, since the start of the process */
    int64_t n_steps;                  /* timed so far */
    double compute_s[SY_PULSE_STEPS]; /* of the last steps, in no order */
} sy_pulse;

/* A sign of progress. Whatever may take long between two calls of other ranks gives one now and
   then: a watchdog takes a process for stuck that gives none while others wait for it. */
void sy_pulse_beat(void);
/* What comes now; a beat too. phase is static text; step counts from 1, 0: before the first. */
void sy_pulse_phase(const char *phase);
void sy_pulse_step(int64_t step);
/* So long was spent waiting for other ranks. */
void sy_pulse_waited(double seconds);
double sy_pulse_waited_s(void);
/* A step took so long without what was spent waiting. */
void sy_pulse_step_took(double compute_s);
sy_pulse sy_pulse_read(void);

#ifdef __cplusplus
}
#endif
#endif

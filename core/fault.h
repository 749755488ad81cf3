/* Fault points: named places where a test can make the program fail, stall or die. SY_FAULT in the
   environment arms them: SY_FAULT="name:nth:action[:rank]"   action: fail | kill | exit |
   crash | stop | sleep=SECONDS | slow=SECONDS |
   jitter=SECONDS | nan | inf | flip=BIT | skip | twice | short; nth counts from 1; several with
   ','. jitter sleeps a random time below SECONDS at every passage from the nth on, slow=SECONDS
   that time; the others act once. Unarmed, a point costs one load and a branch. */
#ifndef SY_CORE_FAULT_H
#define SY_CORE_FAULT_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_fault_action {
    SY_FAULT_NONE,
    SY_FAULT_FAIL,
    SY_FAULT_KILL,
    SY_FAULT_EXIT,  /* exit(0), as a library may call it */
    SY_FAULT_CRASH, /* a segmentation fault */
    SY_FAULT_STOP,
    SY_FAULT_SLEEP,
    SY_FAULT_JITTER,
    SY_FAULT_SLOW,
    SY_FAULT_NAN,
    SY_FAULT_INF,
    SY_FAULT_FLIP,
    SY_FAULT_SKIP, /* a collective: is left out, called twice, called with half its rows */
    SY_FAULT_TWICE,
    SY_FAULT_SHORT
} sy_fault_action;

/* Parse SY_FAULT for this rank; SY_ERR_USAGE names what is wrong in it. */
sy_status sy_fault_setup(int32_t rank);
/* Pass the point: kill, exit, crash, stop, sleep, jitter and slow happen here; fail returns
 * SY_ERR_IO with the point's name; the others return SY_OK (see sy_fault_hit). */
sy_status sy_fault(const char *name);
/* The same, and tells the action: for points that also change what is done next. */
sy_status sy_fault_pass(const char *name, sy_fault_action *action);
/* As sy_fault, but tells the action and carries out none: for points that corrupt a value. */
sy_fault_action sy_fault_hit(const char *name);
/* The same; of a flip also which bit. bit may be NULL. */
sy_fault_action sy_fault_hit_bit(const char *name, int32_t *bit);

#ifdef __cplusplus
}
#endif
#endif

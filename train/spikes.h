/* Steps that stand out: loss or gradient norm far above those of the last updates, and what is not
   finite at all. What is remembered belongs to the checkpoint, so a resumed run judges alike. */
#ifndef SY_TRAIN_SPIKES_H
#define SY_TRAIN_SPIKES_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SY_SPIKE_MEMORY = 512 }; /* updates that are remembered: the longest window */

/* A ring: update i stands at i mod SY_SPIKE_MEMORY. */
typedef struct sy_spikes {
    int64_t n; /* updates so far */
    double loss[SY_SPIKE_MEMORY], grad_norm[SY_SPIKE_MEMORY];
} sy_spikes;

typedef enum sy_trouble_kind {
    SY_TROUBLE_NONE,
    SY_TROUBLE_LOSS,      /* is a spike */
    SY_TROUBLE_GRAD_NORM, /* is a spike */
    SY_TROUBLE_NONFINITE  /* loss or gradient norm */
} sy_trouble_kind;

/* mean and deviation: of the window; 0 where it is too short. */
typedef struct sy_trouble {
    sy_trouble_kind kind;
    double value, mean, deviation;
} sy_trouble;

/* Is a step with this loss and norm one of trouble? `window` updates, sigma standard deviations
   (n-1) above their mean; nothing is a spike before half of the window is there. The rule of the
   SkipStep optimizers of OLMo-core, but with accepted steps alone in the window, so that a spike
   does not hide the next. Not collective: equal arguments, equal result. */
sy_trouble sy_spikes_judge(const sy_spikes *spikes, int32_t window, double sigma, double loss,
                           double grad_norm);
/* The update was done. Not collective. */
void sy_spikes_accept(sy_spikes *spikes, double loss, double grad_norm);

#ifdef __cplusplus
}
#endif
#endif

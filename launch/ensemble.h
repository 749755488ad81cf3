/* merge --method ensemble: the part that no other method has. */
#ifndef SY_LAUNCH_ENSEMBLE_H
#define SY_LAUNCH_ENSEMBLE_H

#include "launch/grow.h"

#ifdef __cplusplus
extern "C" {
#endif

/* "P1,P2,...", n positive numbers, scaled to the sum 1; text NULL: all alike. *prior [n] is freed
   with sy_free. SY_ERR_USAGE. Not collective. */
sy_status sy_ensemble_prior(const char *text, int32_t n, double **prior);
/* Write the ensemble of all sources under the hidden name, after sy_grow_configure. Sources whose
   experts are chosen or weighed by other rules: SY_ERR_USAGE. Collective. */
sy_status sy_grow_ensemble(sy_grow *g, const double *prior, sy_transfer_receipt *receipt);

#ifdef __cplusplus
}
#endif
#endif

/* Router rows out of mean hidden states: the row of an expert points where its text lies (the
   prompt initialisation of mergekit and of the domain-expert toolkit). Nothing here is collective.
 */
#ifndef SY_UPCYCLE_ROUTER_ROWS_H
#define SY_UPCYCLE_ROUTER_ROWS_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* mean [n, H] of the router's input x over n texts, square [n] mean |x|^2; rows [n, H]: the means,
   each of the length scale / sqrt(mean of square), so that no token of ordinary length gets a logit
   beyond scale whatever H is. *condition: of the matrix of rows, largest over smallest singular
   value: 1 where the texts lie at right angles, infinite where they cannot be told apart.
   SY_ERR_NUMERIC where a mean is zero or not finite. */
sy_status sy_router_rows(const double *mean, const double *square, int64_t n, int64_t H,
                         double scale, double *rows, double *condition);

#ifdef __cplusplus
}
#endif
#endif

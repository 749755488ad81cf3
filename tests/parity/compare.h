/* How far a subject is from what its fixture expects. Collective over the world; what cannot be
   compared at all fails the test. */
#ifndef SY_TESTS_PARITY_COMPARE_H
#define SY_TESTS_PARITY_COMPARE_H

#include "tests/parity/subject.h"

typedef struct deviation {
    double logits, loss, gradient, curve, norm, aux, z;
    char where[SY_HF_NAME]; /* the gradient */
} deviation;

/* Of a - b [rows, n]: the median over rows of the root mean square of a row. */
double median_gap(const double *a, const double *b, int64_t rows, int64_t n);
/* A tensor that the fixture has to have; freed with sy_free. */
double *expected(const fixture *f, const char *name, int64_t *n);

/* d->logits, to the fixture's tensor `name`: largest difference over largest value. */
void compare_logits(const subject *s, const char *name, deviation *d);
/* The rest of it: gradients of the first step (worst of all parameters, norm of the difference over
   the norm), its loss, to the fixture's tensor `loss`, and the curves of all steps, which are
   taken.
 */
void compare_training(subject *s, const char *loss, deviation *d);

#endif

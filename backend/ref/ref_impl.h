/* The ref backend: every op plainly in double, one thread, no tricks. It is the oracle of the op
   tests, so clarity goes before speed. What its files share: the prototypes and how a row is
   reached. */
#ifndef SY_BACKEND_REF_REF_IMPL_H
#define SY_BACKEND_REF_REF_IMPL_H

#include "backend/ops.h"

#define SY_REF_OP(op) sy_status sy__ref_##op(sy_stream *stream, const sy_##op##_args *args);
SY_OPS(SY_REF_OP)
#undef SY_REF_OP

extern const sy_ops sy__ref_ops;

/* Row i of a [n0, n1] tensor and row (i, j) of a [n0, n1, n2] tensor of doubles: on ref every A and
 * W is F64. */
static inline double *sy__ref_row(const sy_tensor *t, int64_t i)
{
    return (double *)t->data + i * t->stride[0];
}

static inline double *sy__ref_row3(const sy_tensor *t, int64_t i, int64_t j)
{
    return (double *)t->data + i * t->stride[0] + j * t->stride[1];
}

static inline double sy__ref_sigmoid(double x)
{
    return 1.0 / (1.0 + __builtin_exp(-x));
}

/* sum_i a[i] * b[i] */
static inline double sy__ref_dot(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

#endif

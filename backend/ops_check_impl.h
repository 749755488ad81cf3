/* The contracts of the ops: one check each, called by sy_<op>() on every backend before anything is
   enqueued, on dry devices too. Defined in ops_check*.c. A broken contract is SY_ERR_INTERNAL and
   names op, operand, what was found and what was wanted. No memory behind a pointer is touched. */
#ifndef SY_BACKEND_OPS_CHECK_IMPL_H
#define SY_BACKEND_OPS_CHECK_IMPL_H

#include "backend/ops.h"

#define SY_OP_CHECK(op) sy_status sy__check_##op(const sy_device *dev, const sy_##op##_args *args);
SY_OPS(SY_OP_CHECK)
#undef SY_OP_CHECK

/* ---- how a check is written: start, want ... for each operand and scalar, end ---- */

enum { SY_CHECK_ALIASES = 2, SY_ANY = -1 /* an extent that the op does not fix */ };

/* One check under way. The first broken rule is kept; what follows is skipped. */
typedef struct sy__check {
    const sy_device *dev;
    const void *args;
    const sy_op_info *info;
    sy_status st;
    int32_t n_aliases; /* pairs that may be one tensor */
    const sy_tensor *alias[SY_CHECK_ALIASES][2];
} sy__check;

/* Sets of dtypes, as masks. */
#define SY_SET(dtype) (1U << (dtype))
#define SY_SET_FLOAT (SY_SET(SY_F32) | SY_SET(SY_BF16) | SY_SET(SY_F64))
#define SY_SET_ANY (SY_SET(SY_N_DTYPES) - 1U)
unsigned sy__set_a(const sy__check *c); /* compute dtypes of the device */
unsigned sy__set_w(const sy__check *c); /* its wide dtype */

enum sy__want_flags {
    SY_CONTIGUOUS = 0,
    SY_STRIDED = 1,  /* any strides but the last one 1, no element twice */
    SY_OPTIONAL = 2, /* data NULL: absent, nothing else is looked at */
};

sy__check sy__check_start(const sy_device *dev, sy_op op, const void *args);
/* t has a dtype of the set, n_dim dimensions, and the extents of shape (SY_ANY: any). */
void sy__want(sy__check *c, const sy_tensor *t, unsigned dtypes, int32_t flags, int32_t n_dim,
              const int64_t *shape);
/* The same with the extents written out: WANT2(&c, &a->x, dtypes, flags, n0, n1). */
#define SY__SHAPE(...)                                                                             \
    (const int64_t[])                                                                              \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
#define SY__WANT1(c, t, dtypes, flags, ...) sy__want(c, t, dtypes, flags, 1, SY__SHAPE(__VA_ARGS__))
#define SY__WANT2(c, t, dtypes, flags, ...) sy__want(c, t, dtypes, flags, 2, SY__SHAPE(__VA_ARGS__))
#define SY__WANT3(c, t, dtypes, flags, ...) sy__want(c, t, dtypes, flags, 3, SY__SHAPE(__VA_ARGS__))
/* t is contiguous, of any shape, of a dtype of the set. */
void sy__want_any_shape(sy__check *c, const sy_tensor *t, unsigned dtypes);
/* A rule over scalars or extents; what says it: "beta is 0 or 1". */
void sy__want_that(sy__check *c, bool holds, const char *what);
/* Output y may be the very tensor x. Without it no output may overlap another operand. */
void sy__may_alias(sy__check *c, const sy_tensor *y, const sy_tensor *x);
/* Looks for overlaps, and gives the verdict. */
sy_status sy__check_end(sy__check *c);

#endif

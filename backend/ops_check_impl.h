/* The contracts of the ops: one check each, called by sy_<op>() on every backend before anything is
   enqueued, on dry devices too. Defined in ops_check*.c. A broken contract is SY_ERR_INTERNAL and
   names op, operand and what it should have been. */
#ifndef SY_BACKEND_OPS_CHECK_IMPL_H
#define SY_BACKEND_OPS_CHECK_IMPL_H

#include "backend/ops.h"

#define SY_OP_CHECK(op) sy_status sy__check_##op(const sy_device *dev, const sy_##op##_args *args);
SY_OPS(SY_OP_CHECK)
#undef SY_OP_CHECK

#endif

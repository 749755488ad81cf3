/* The table of the ref backend. It has every op: no op exists before its ref version. */
#include "backend/ref/ref_impl.h"

#define SY_REF_SLOT(op) .op = sy__ref_##op,
const sy_ops sy__ref_ops = {SY_OPS(SY_REF_SLOT)};

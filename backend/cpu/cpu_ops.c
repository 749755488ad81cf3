/* The op table of the cpu backend. */
#include "backend/cpu/cpu_impl.h"

#define SY_CPU_SLOT(op) .op = sy__cpu_##op,
const sy_ops sy__cpu_ops = {SY_OPS(SY_CPU_SLOT)};

/* The table of the cuda backend. */
#include "backend/cuda/cuda_impl.h"

#define SY_CUDA_SLOT(op) .op = sy__cuda_##op,
const sy_ops sy__cuda_ops = {SY_OPS(SY_CUDA_SLOT)};

/* What the host family (cpu, ref, check) shares: memory of the process, and the description of the
 * cpu backend that check takes over. */
#ifndef SY_BACKEND_HOST_IMPL_H
#define SY_BACKEND_HOST_IMPL_H

#include "backend/backend_impl.h"

/* wide F32, computes in F32 and BF16, as many threads as asked for or as there are cores. */
void sy__host_describe_cpu(sy_device *dev, const sy_device_spec *spec);

#endif
